// AVX2.  Bottleneck: vpmaddwd, 16 products and an addition behind it; tiles keep 8 or 12 sums in registers.  Features are widened
// from bytes when they are read.  Limits: values are taken 16 at a time, what is left over is done one by one.
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
constexpr int64_t kExact = 4096;  // values whose sums stay in int32 lanes: 512 products of 127 * 2^15 each

BITREPLAY_TARGET inline __m256i widened(const int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

BITREPLAY_TARGET inline int64_t total(__m256i sum_i32x8) {
  const __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(sum_i32x8));
  const __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sum_i32x8, 1));
  const __m256i sum = _mm256_add_epi64(low, high);
  const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  return _mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1);
}

template <int kRows, int kClasses>
BITREPLAY_TARGET void dot_tile(const int8_t* features, const int16_t* forward, int64_t width, int64_t* sums) {
  std::fill_n(sums, kRows * kClasses, 0);
  const int64_t whole = width / 16 * 16;
  for (int64_t begin = 0; begin < whole; begin += kExact) {
    __m256i sum_i32x8[kRows][kClasses];
#pragma GCC unroll 8
    for (int i = 0; i < kRows * kClasses; ++i) sum_i32x8[i / kClasses][i % kClasses] = _mm256_setzero_si256();
    for (int64_t j = begin; j < std::min(whole, begin + kExact); j += 16) {
      __m256i x[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) x[r] = widened(features + r * width + j);
#pragma GCC unroll 8
      for (int c = 0; c < kClasses; ++c) {
        const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(forward + c * width + j));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sum_i32x8[r][c] = _mm256_add_epi32(sum_i32x8[r][c], _mm256_madd_epi16(x[r], w));
      }
    }
    for (int i = 0; i < kRows * kClasses; ++i) sums[i] += total(sum_i32x8[i / kClasses][i % kClasses]);
  }
  for (int i = 0; i < kRows * kClasses; ++i) {
    for (int64_t j = whole; j < width; ++j) sums[i] += features[i / kClasses * width + j] * forward[i % kClasses * width + j];
  }
}

template <int kClasses>
BITREPLAY_TARGET void pair_tile(const int8_t* features, const uint32_t* g, int64_t pairs, int64_t stride, int32_t* sums) {
  __m256i sum_i32x8[kClasses][4];
#pragma GCC unroll 16
  for (int i = 0; i < 4 * kClasses; ++i) sum_i32x8[i / 4][i % 4] = _mm256_setzero_si256();
  for (int64_t pair = 0; pair < pairs; ++pair, features += 64, g += stride) {
    __m256i factor[kClasses];
#pragma GCC unroll 8
    for (int c = 0; c < kClasses; ++c) factor[c] = _mm256_set1_epi32(static_cast<int32_t>(g[c]));
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m256i x = widened(features + 16 * v);
#pragma GCC unroll 8
      for (int c = 0; c < kClasses; ++c) sum_i32x8[c][v] = _mm256_add_epi32(sum_i32x8[c][v], _mm256_madd_epi16(x, factor[c]));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4 * kClasses; ++i) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + i / 4 * 32 + i % 4 * 8), sum_i32x8[i / 4][i % 4]);
  }
}

#include "head_passes.inc"

}  // namespace avx2
}  // namespace

const HeadTable& head_avx2() { return avx2::make_table("avx2"); }

}  // namespace bitreplay
#endif
