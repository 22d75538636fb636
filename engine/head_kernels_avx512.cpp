// AVX-512 with VNNI.  Bottleneck: vpdpwssd, 32 products, and the widening of features from bytes; tiles keep 8 sums in registers.
// Limits: values are taken 32 at a time, what is left over is done one by one.
#include "head_kernels.h"
#include "kernels.h"

#ifdef BITREPLAY_HAVE_AVX2
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
constexpr int64_t kExact = 8192;  // values whose sums stay in int32 lanes: 512 products of 127 * 2^15 each

BITREPLAY_TARGET inline __m512i widened(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

BITREPLAY_TARGET inline int64_t total(__m512i sum_i32x16) {
  alignas(64) int32_t lanes[16];
  _mm512_store_si512(lanes, sum_i32x16);
  int64_t sum = 0;
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}

template <int kRows, int kClasses>
BITREPLAY_TARGET void dot_tile(const int8_t* features, const int16_t* forward, int64_t width, int64_t* sums) {
  std::fill_n(sums, kRows * kClasses, 0);
  const int64_t whole = width / 32 * 32;
  for (int64_t begin = 0; begin < whole; begin += kExact) {
    __m512i sum_i32x16[kRows][kClasses];
#pragma GCC unroll 16
    for (int i = 0; i < kRows * kClasses; ++i) sum_i32x16[i / kClasses][i % kClasses] = _mm512_setzero_si512();
    for (int64_t j = begin; j < std::min(whole, begin + kExact); j += 32) {
      __m512i x[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) x[r] = widened(features + r * width + j);
#pragma GCC unroll 8
      for (int c = 0; c < kClasses; ++c) {
        const __m512i w = _mm512_loadu_si512(forward + c * width + j);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sum_i32x16[r][c] = _mm512_dpwssd_epi32(sum_i32x16[r][c], x[r], w);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows * kClasses; ++i) sums[i] += total(sum_i32x16[i / kClasses][i % kClasses]);
  }
  for (int i = 0; i < kRows * kClasses; ++i) {
    for (int64_t j = whole; j < width; ++j) sums[i] += features[i / kClasses * width + j] * forward[i % kClasses * width + j];
  }
}

template <int kClasses>
BITREPLAY_TARGET void pair_tile(const int8_t* features, const uint32_t* g, int64_t pairs, int64_t stride, int32_t* sums) {
  __m512i sum_i32x16[kClasses][2];
#pragma GCC unroll 16
  for (int c = 0; c < kClasses; ++c) sum_i32x16[c][0] = sum_i32x16[c][1] = _mm512_setzero_si512();
  for (int64_t pair = 0; pair < pairs; ++pair, features += 64, g += stride) {
    const __m512i x0 = widened(features), x1 = widened(features + 32);
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

#include "head_passes.inc"

}  // namespace avx512
}  // namespace

const HeadTable& head_avx512() { return avx512::make_table("avx512"); }

}  // namespace bitreplay
#endif
