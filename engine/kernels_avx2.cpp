// AVX2.  Bottleneck: without a vector popcount each 256 bits cost two byte shuffles and six further operations; the byte
// counters hold 31 rounds of at most 8 before they must be summed.  Limits: one pixel at a time, so weights are read once a
// pixel from L1 or L2.
#include "kernels.h"

#ifdef BITREPLAY_HAVE_AVX2
#include <immintrin.h>

#include <algorithm>

#define BITREPLAY_AVX2 __attribute__((target("avx2")))

namespace bitreplay {
namespace {

constexpr int kRoundsPerByte = 31;

BITREPLAY_AVX2 void binary_conv3x3(const uint64_t* const* taps, int words, const uint64_t* weights, int channels_padded,
                                   int bits, int16_t* z) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low_nibbles = _mm256_set1_epi8(15);
  const __m256i zero = _mm256_setzero_si256();
  for (int tile = 0; tile < channels_padded; tile += kChannelTile) {
    __m256i sum_u64x4 = zero;
    __m256i sum_u8x32 = zero;
    int rounds = 0;
    for (int t = 0; t < kTaps; ++t) {
      const uint64_t* tap = taps[t];
      for (int w = 0; w < words; ++w) {
        const __m256i weight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
        weights += kChannelTile;
        const __m256i x = _mm256_xor_si256(weight, _mm256_set1_epi64x(static_cast<int64_t>(tap[w])));
        const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, low_nibbles));
        const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), low_nibbles));
        sum_u8x32 = _mm256_add_epi8(sum_u8x32, _mm256_add_epi8(low, high));
        if (++rounds == kRoundsPerByte) {
          sum_u64x4 = _mm256_add_epi64(sum_u64x4, _mm256_sad_epu8(sum_u8x32, zero));
          sum_u8x32 = zero;
          rounds = 0;
        }
      }
    }
    sum_u64x4 = _mm256_add_epi64(sum_u64x4, _mm256_sad_epu8(sum_u8x32, zero));
    alignas(32) int64_t differing[kChannelTile];
    _mm256_store_si256(reinterpret_cast<__m256i*>(differing), sum_u64x4);
    for (int c = 0; c < kChannelTile; ++c) z[tile + c] = static_cast<int16_t>(bits - 2 * static_cast<int>(differing[c]));
  }
}

BITREPLAY_AVX2 int32_t dot_i16(const int16_t* x, const int16_t* w, int count) {
  __m256i sum_i32x8 = _mm256_setzero_si256();
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + i));
    sum_i32x8 = _mm256_add_epi32(sum_i32x8, _mm256_madd_epi16(a, b));
  }
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum_i32x8);
  // Lane sums may pass 2^31 only in a wrapped intermediate; the total fits (kernels.h), and unsigned wrap is exact.
  uint32_t sum = 0;
  for (const int32_t lane : lanes) sum += static_cast<uint32_t>(lane);
  for (; i < count; ++i) sum += static_cast<uint32_t>(static_cast<int32_t>(x[i]) * w[i]);
  return static_cast<int32_t>(sum);
}

}  // namespace

const Kernels& kernels_avx2() {
  static const Kernels table{"avx2", binary_conv3x3, dot_i16};
  return table;
}

}  // namespace bitreplay
#endif
