// AVX2.  Bottleneck: vpmaddwd, 16 products and an addition behind it; tiles keep 8 or 12 sums in registers.  Features are widened
// from bytes beforehand, as many as the first cache holds.  Limits: values are taken 16 at a time, the rest one by one.
#include "head_kernels.h"
#include "kernels.h"

#ifdef BITREPLAY_HAVE_AVX2
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "fixed_point.h"

#define BITREPLAY_TARGET __attribute__((target("avx2")))

namespace bitreplay {
namespace {
namespace avx2 {

constexpr int kRowTile = 2;
constexpr int kClassTile = 4;
constexpr int kPairClasses = 3;
constexpr int64_t kExact = 1024;  // values at a time; a lane of sums takes 128 products of at most 127 * 2^15

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
  __m256i sum_i32x8[kRowTile][kClassTile];
#pragma GCC unroll 8
  for (int i = 0; i < kRowTile * kClassTile; ++i) sum_i32x8[i / kClassTile][i % kClassTile] = _mm256_setzero_si256();
  const int64_t whole = width / 16 * 16;
  for (int64_t j = 0; j < whole; j += 16) {
    __m256i u[kRowTile];
#pragma GCC unroll 8
    for (int r = 0; r < kRowTile; ++r) u[r] = _mm256_load_si256(reinterpret_cast<const __m256i*>(x + r * kExact + j));
#pragma GCC unroll 8
    for (int c = 0; c < kClassTile; ++c) {
      __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + c * stride + j));
      __asm__("" : "+x"(v));  // one load, not one in each multiplication: loads are the next bottleneck
#pragma GCC unroll 8
      for (int r = 0; r < kRowTile; ++r) sum_i32x8[r][c] = _mm256_add_epi32(sum_i32x8[r][c], _mm256_madd_epi16(u[r], v));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRowTile; ++r) {
    auto* to = reinterpret_cast<__m256i*>(sums + r * apart);
    const auto& s = sum_i32x8[r];
    _mm256_storeu_si256(to, _mm256_add_epi64(_mm256_loadu_si256(to), totals(s[0], s[1], s[2], s[3])));
    for (int c = 0; c < kClassTile; ++c) {
      for (int64_t j = whole; j < width; ++j) sums[r * apart + c] += x[r * kExact + j] * w[c * stride + j];
    }
  }
}

template <int kClasses>
BITREPLAY_TARGET void pair_tile(const int16_t* x, const uint32_t* g, int64_t pairs, int64_t stride, int32_t* sums) {
  __m256i sum_i32x8[kClasses][4];
#pragma GCC unroll 16
  for (int i = 0; i < 4 * kClasses; ++i) sum_i32x8[i / 4][i % 4] = _mm256_setzero_si256();
  for (int64_t pair = 0; pair < pairs; ++pair, x += 64, g += stride) {
    __m256i factor[kClasses];
#pragma GCC unroll 8
    for (int c = 0; c < kClasses; ++c) factor[c] = _mm256_set1_epi32(static_cast<int32_t>(g[c]));
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m256i u = _mm256_load_si256(reinterpret_cast<const __m256i*>(x + 16 * v));
#pragma GCC unroll 8
      for (int c = 0; c < kClasses; ++c) sum_i32x8[c][v] = _mm256_add_epi32(sum_i32x8[c][v], _mm256_madd_epi16(u, factor[c]));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4 * kClasses; ++i) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + i / 4 * 32 + i % 4 * 8), sum_i32x8[i / 4][i % 4]);
  }
}

// The low 32 bits of round_shift(a * b, shift), 0 < shift < 32.
template <int kShift>
BITREPLAY_TARGET inline __m256i scaled(__m256i a, __m256i b) {
  const __m256i half = _mm256_set1_epi64x(int64_t{1} << (kShift - 1));
  const __m256i even = _mm256_add_epi64(_mm256_mul_epi32(a, b), half);
  const __m256i odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(a, 32), b), half);
  return _mm256_blend_epi32(_mm256_srli_epi64(even, kShift), _mm256_slli_epi64(odd, 32 - kShift), 0xaa);
}

// descend where nothing leaves int32.
BITREPLAY_TARGET void descend_narrow(int32_t* w, const int32_t* dw, int64_t size, int32_t rate) {
  const __m256i rates = _mm256_set1_epi32(rate);
  int64_t j = 0;
  for (; j + 8 <= size; j += 8) {
    auto* to = reinterpret_cast<__m256i*>(w + j);
    const __m256i v = _mm256_loadu_si256(to);
    const __m256i step = scaled<16>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(dw + j)), rates);
    _mm256_storeu_si256(to, _mm256_sub_epi32(v, step));
  }
  for (; j < size; ++j) {
    w[j] -= static_cast<int32_t>(round_shift(int64_t{dw[j]} * rate, 16));
  }
}

#include "head_passes.inc"

}  // namespace avx2
}  // namespace

const HeadTable& head_avx2() { return avx2::make_table("avx2"); }

}  // namespace bitreplay
#endif
