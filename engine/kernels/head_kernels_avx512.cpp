// AVX-512 with VNNI.  Bottleneck: vpdpwssd, 32 products; tiles keep 16 sums in registers.  Features are widened from bytes
// beforehand, as many as the first cache holds.  Limits: values are taken 32 at a time, the rest one by one.
#include "head_kernels.h"
#include "kernels.h"

#ifdef BITREPLAY_HAVE_AVX2
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in g++ 12's own header (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "fixed_point.h"

#define BITREPLAY_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,prefer-vector-width=512")))

namespace bitreplay {
namespace {
namespace avx512 {

constexpr int kRowTile = 4;
constexpr int kClassTile = 4;
constexpr int kPairClasses = 8;
constexpr int64_t kExact = 1024;  // values at a time; a folded lane of sums takes 128 products of at most 127 * 2^15

// The two halves of a sum, added: by way of memory, since g++ 12 warns of the intrinsics that part them.
BITREPLAY_TARGET inline __m256i folded(__m512i v) {
  alignas(64) __m256i halves[2];
  _mm512_store_si512(halves, v);
  return _mm256_add_epi32(halves[0], halves[1]);
}

// int64 totals of the lanes of four sums.
BITREPLAY_TARGET inline __m256i paired(__m256i sum_i32x8) {
  return _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(sum_i32x8)),
                          _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sum_i32x8, 1)));
}

BITREPLAY_TARGET inline __m256i totals(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i pa = paired(a), pb = paired(b), pc = paired(c), pd = paired(d);
  const __m256i ab = _mm256_add_epi64(_mm256_unpacklo_epi64(pa, pb), _mm256_unpackhi_epi64(pa, pb));
  const __m256i cd = _mm256_add_epi64(_mm256_unpacklo_epi64(pc, pd), _mm256_unpackhi_epi64(pc, pd));
  return _mm256_add_epi64(_mm256_permute2x128_si256(ab, cd, 0x20), _mm256_permute2x128_si256(ab, cd, 0x31));
}

// x (kRowTile, kExact) and w, `stride` apart: sums (kRowTile, kClassTile, `apart` apart) += dot products of `width` <= kExact
// values.
BITREPLAY_TARGET void dot_tile(const int16_t* x, const int16_t* w, int64_t stride, int64_t width, int64_t* sums, int64_t apart) {
  __m512i sum_i32x16[kRowTile][kClassTile];
#pragma GCC unroll 16
  for (int i = 0; i < kRowTile * kClassTile; ++i) sum_i32x16[i / kClassTile][i % kClassTile] = _mm512_setzero_si512();
  const int64_t whole = width / 32 * 32;
  for (int64_t j = 0; j < whole; j += 32) {
    __m512i u[kRowTile];
#pragma GCC unroll 8
    for (int r = 0; r < kRowTile; ++r) u[r] = _mm512_load_si512(x + r * kExact + j);
#pragma GCC unroll 8
    for (int c = 0; c < kClassTile; ++c) {
      const __m512i v = _mm512_loadu_si512(w + c * stride + j);
#pragma GCC unroll 8
      for (int r = 0; r < kRowTile; ++r) sum_i32x16[r][c] = _mm512_dpwssd_epi32(sum_i32x16[r][c], u[r], v);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRowTile; ++r) {
    auto* to = reinterpret_cast<__m256i*>(sums + r * apart);
    const auto& s = sum_i32x16[r];
    const __m256i found = totals(folded(s[0]), folded(s[1]), folded(s[2]), folded(s[3]));
    _mm256_storeu_si256(to, _mm256_add_epi64(_mm256_loadu_si256(to), found));
    for (int c = 0; c < kClassTile; ++c) {
      for (int64_t j = whole; j < width; ++j) sums[r * apart + c] += x[r * kExact + j] * w[c * stride + j];
    }
  }
}

template <int kClasses>
BITREPLAY_TARGET void pair_tile(const int16_t* x, const uint32_t* g, int64_t pairs, int64_t stride, int32_t* sums) {
  __m512i sum_i32x16[kClasses][2];
#pragma GCC unroll 16
  for (int c = 0; c < kClasses; ++c) sum_i32x16[c][0] = sum_i32x16[c][1] = _mm512_setzero_si512();
  for (int64_t pair = 0; pair < pairs; ++pair, x += 64, g += stride) {
    const __m512i x0 = _mm512_load_si512(x), x1 = _mm512_load_si512(x + 32);
#pragma GCC unroll 16
    for (int c = 0; c < kClasses; ++c) {
      const __m512i factor = _mm512_set1_epi32(static_cast<int32_t>(g[c]));
      sum_i32x16[c][0] = _mm512_dpwssd_epi32(sum_i32x16[c][0], x0, factor);
      sum_i32x16[c][1] = _mm512_dpwssd_epi32(sum_i32x16[c][1], x1, factor);
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < kClasses; ++c) {
    _mm512_store_si512(sums + c * 32, sum_i32x16[c][0]);
    _mm512_store_si512(sums + c * 32 + 16, sum_i32x16[c][1]);
  }
}

// The low 32 bits of round_shift(a * b, shift), 0 < shift <= 32.
BITREPLAY_TARGET inline int32_t scaled(int32_t a, int32_t b, int shift) {
  return static_cast<int32_t>((static_cast<uint64_t>(int64_t{a} * b) + (uint64_t{1} << (shift - 1))) >> shift);
}

// descend where nothing leaves int32.
BITREPLAY_TARGET void descend_narrow(int32_t* __restrict w, const int32_t* dw, int64_t size, int32_t rate) {
  for (int64_t j = 0; j < size; ++j) w[j] -= scaled(dw[j], rate, 16);
}

#include "head_passes.inc"

}  // namespace avx512
}  // namespace

const HeadTable& head_avx512() { return avx512::make_table("avx512"); }

}  // namespace bitreplay
#endif
