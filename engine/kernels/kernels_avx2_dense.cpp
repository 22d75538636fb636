// AVX2, values of many bits: dense and depth-wise convolution, requantisation, pooling.  Bottleneck of the dense one: pmaddwd and
// the add behind it, 8 multiply-adds an operation.  Of requantisation: 64-bit sums, two operations a value; AVX2 has no arithmetic
// 64-bit shift, so sums are offset to be positive.  Limits: dense_tile computes 16 channels even where fewer are wanted.
#include "kernels.h"

#ifdef BITREPLAY_HAVE_AVX2
#include <immintrin.h>

#include <algorithm>

#define BITREPLAY_AVX2 __attribute__((target("avx2")))

namespace bitreplay {
namespace {

BITREPLAY_AVX2 inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
BITREPLAY_AVX2 inline void store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
BITREPLAY_AVX2 inline __m128i load8(const int16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

BITREPLAY_AVX2 inline __m256i pair_of(const int16_t* x) {
  int32_t pair;
  __builtin_memcpy(&pair, x, sizeof pair);
  return _mm256_set1_epi32(pair);
}

template <int kPixels>
BITREPLAY_AVX2 inline void dense_pixels(const DenseTile& tile, const int16_t* x, const int16_t* weight, int32_t* acc) {
  __m256i sum[kPixels][2];
  for (int p = 0; p < kPixels; ++p) sum[p][0] = sum[p][1] = _mm256_setzero_si256();
  for (int r = 0; r < tile.rows; ++r) {
    const int16_t* row = x + int64_t{r} * tile.row_pitch;
    for (int k = 0; k < tile.pairs; ++k, row += 2, weight += 2 * kDenseChannels) {
      const __m256i w0 = load(weight), w1 = load(weight + 16);
#pragma GCC unroll 4
      for (int p = 0; p < kPixels; ++p) {
        const __m256i pair = pair_of(row + int64_t{p} * tile.pixel_stride);
        sum[p][0] = _mm256_add_epi32(sum[p][0], _mm256_madd_epi16(pair, w0));
        sum[p][1] = _mm256_add_epi32(sum[p][1], _mm256_madd_epi16(pair, w1));
      }
    }
  }
  for (int p = 0; p < kPixels; ++p) {
    store(acc + p * kDenseChannels, sum[p][0]);
    store(acc + p * kDenseChannels + 8, sum[p][1]);
  }
}

BITREPLAY_AVX2 void dense_tile(const DenseTile& tile, const int16_t* weight, int32_t* acc) {
  const int16_t* x = tile.x;
  int left = tile.pixels;
  for (; left >= 4; left -= 4, x += 4 * int64_t{tile.pixel_stride}, acc += 4 * kDenseChannels) dense_pixels<4>(tile, x, weight, acc);
  for (; left > 0; --left, x += tile.pixel_stride, acc += kDenseChannels) dense_pixels<1>(tile, x, weight, acc);
}

BITREPLAY_AVX2 void depthwise_tile(const DepthwiseTile& tile, const int16_t* weight, int count, int32_t* acc) {
  const int eights = count / 8;
  for (int j = 0; j < tile.columns; ++j, acc += kDenseChannels) {
    const int left = (tile.first + j) * tile.stride - tile.kernel / 2;
    const int b_begin = std::max(0, -left), b_end = std::min(tile.kernel, tile.width - left);
    for (int e = 0; e < eights; ++e) {
      __m256i sum = _mm256_setzero_si256();
      for (int a = 0; a < tile.kernel; ++a) {
        if (tile.rows[a] == nullptr) continue;
        for (int b = b_begin; b < b_end; ++b) {
          // The weight's upper half is zero, so that the multiply-add leaves one product.
          const __m256i x = _mm256_cvtepu16_epi32(load8(tile.rows[a] + int64_t{left + b} * tile.channels + 8 * e));
          const __m256i w = _mm256_cvtepu16_epi32(load8(weight + (a * tile.kernel + b) * tile.channels + 8 * e));
          sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, w));
        }
      }
      store(acc + 8 * e, sum);
    }
    for (int c = 8 * eights; c < count; ++c) {
      int32_t sum = 0;
      for (int a = 0; a < tile.kernel; ++a) {
        if (tile.rows[a] == nullptr) continue;
        for (int b = b_begin; b < b_end; ++b) {
          sum += tile.rows[a][int64_t{left + b} * tile.channels + c] * weight[(a * tile.kernel + b) * tile.channels + c];
        }
      }
      acc[c] = sum;
    }
  }
}

// Eight channels of all pixels.  acc * multiplier + bias is offset by 2^(15 + shift), clamped to 0 .. 2^(16 + shift) - 1 and shifted
// logically: what is left is the saturated result plus 2^15.  |sum| < 2^61 + 2^46 + 2^45 + 2^61.
BITREPLAY_AVX2 void affine_eight(const AffineParameters& affine, const int32_t* acc, int64_t pixels, int16_t* y, int64_t y_stride) {
  const int64_t offset = int64_t{1} << (15 + affine.shift);
  const int64_t constant = offset + (affine.shift == 0 ? 0 : int64_t{1} << (affine.shift - 1));
  const int64_t* b = affine.bias;
  const __m256i even_bias = _mm256_add_epi64(_mm256_setr_epi64x(b[0], b[2], b[4], b[6]), _mm256_set1_epi64x(constant));
  const __m256i odd_bias = _mm256_add_epi64(_mm256_setr_epi64x(b[1], b[3], b[5], b[7]), _mm256_set1_epi64x(constant));
  const __m256i even_multiplier = load(affine.multiplier);
  const __m256i odd_multiplier = _mm256_srli_epi64(even_multiplier, 32);
  const __m256i lowest = _mm256_set1_epi64x(affine.relu ? offset : 0);
  const __m256i highest = _mm256_set1_epi64x(2 * offset - 1);
  const __m128i shift = _mm_cvtsi32_si128(affine.shift);
  for (int64_t p = 0; p < pixels; ++p, acc += kDenseChannels, y += y_stride) {
    const __m256i a = load(acc);
    __m256i even = _mm256_add_epi64(_mm256_mul_epi32(a, even_multiplier), even_bias);
    __m256i odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(a, 32), odd_multiplier), odd_bias);
    even = _mm256_blendv_epi8(even, lowest, _mm256_cmpgt_epi64(lowest, even));
    odd = _mm256_blendv_epi8(odd, lowest, _mm256_cmpgt_epi64(lowest, odd));
    even = _mm256_blendv_epi8(even, highest, _mm256_cmpgt_epi64(even, highest));
    odd = _mm256_blendv_epi8(odd, highest, _mm256_cmpgt_epi64(odd, highest));
    const __m256i all = _mm256_or_si256(_mm256_srl_epi64(even, shift), _mm256_slli_epi64(_mm256_srl_epi64(odd, shift), 32));
    const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm_xor_si128(packed, _mm_set1_epi16(INT16_MIN)));
  }
}

BITREPLAY_AVX2 void affine(const AffineParameters& affine, const int32_t* acc, int64_t pixels, int count, int16_t* y, int64_t y_stride) {
  int c = 0;
  for (; c + 8 <= count; c += 8) {
    affine_eight({affine.multiplier + c, affine.bias + c, affine.shift, affine.relu}, acc + c, pixels, y + c, y_stride);
  }
  if (c < count) {
    kernels_scalar().affine({affine.multiplier + c, affine.bias + c, affine.shift, affine.relu}, acc + c, pixels, count - c, y + c, y_stride);
  }
}

BITREPLAY_AVX2 inline __m256i max_of_two(const int16_t* p, int channels) { return _mm256_max_epi16(load(p), load(p + channels)); }

// m of the window's row between `top` and `bottom`, at `column` of it; zero outside.
BITREPLAY_AVX2 inline __m256i pooled(const int16_t* top, const int16_t* bottom, int column, int width, int channels, int c) {
  const __m256i zero = _mm256_setzero_si256();
  if (top == nullptr || bottom == nullptr || column < 0 || column >= width - 1) return zero;
  const int64_t at = int64_t{column} * channels + c;
  return _mm256_max_epi16(zero, _mm256_max_epi16(max_of_two(top + at, channels), max_of_two(bottom + at, channels)));
}

BITREPLAY_AVX2 inline void add_pair(__m256i (&sum)[2], __m256i a, __m256i b, __m256i weights) {
  sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), weights));
  sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), weights));
}

BITREPLAY_AVX2 void pool_row(const int16_t* const rows[4], int width, int channels, int16_t* y) {
  if (channels % 16 != 0) return kernels_scalar().pool_row(rows, width, channels, y);
  const __m256i ones = _mm256_set1_epi16(1), twos = _mm256_set1_epi16(2);
  const __m256i two_four = _mm256_set1_epi32(2 | 4 << 16);
  for (int c = 0; c < channels; c += 16) {
    __m256i left[3];  // column 2j - 1 of m is 2(j - 1) + 1
    for (int a = 0; a < 3; ++a) left[a] = _mm256_setzero_si256();
    for (int j = 0; j < width / 2; ++j) {
      __m256i middle[3], right[3], sum[2];
      for (int a = 0; a < 3; ++a) {
        middle[a] = pooled(rows[a], rows[a + 1], 2 * j, width, channels, c);
        right[a] = pooled(rows[a], rows[a + 1], 2 * j + 1, width, channels, c);
      }
      sum[0] = sum[1] = _mm256_set1_epi32(8);
      add_pair(sum, left[0], right[0], ones);
      add_pair(sum, left[2], right[2], ones);
      add_pair(sum, left[1], right[1], twos);
      add_pair(sum, middle[0], middle[1], two_four);
      add_pair(sum, middle[2], _mm256_setzero_si256(), twos);
      store(y + int64_t{j} * channels + c, _mm256_packs_epi32(_mm256_srai_epi32(sum[0], 4), _mm256_srai_epi32(sum[1], 4)));
      for (int a = 0; a < 3; ++a) left[a] = right[a];
    }
  }
}

BITREPLAY_AVX2 void channel_sums(const int16_t* x, int64_t pixels, int channels, bool relu, int32_t* sums) {
  const int16_t lowest = relu ? 0 : INT16_MIN;
  int c = 0;
  for (; c + 8 <= channels; c += 8) {
    __m256i sum = _mm256_setzero_si256();
    for (int64_t p = 0; p < pixels; ++p) {
      sum = _mm256_add_epi32(sum, _mm256_cvtepi16_epi32(_mm_max_epi16(load8(x + p * channels + c), _mm_set1_epi16(lowest))));
    }
    store(sums + c, sum);
  }
  for (; c < channels; ++c) {
    sums[c] = 0;
    for (int64_t p = 0; p < pixels; ++p) sums[c] += std::max(x[p * channels + c], lowest);
  }
}

BITREPLAY_AVX2 int32_t dot_i16(const int16_t* x, const int16_t* w, int count) {
  __m256i sum_i32x8 = _mm256_setzero_si256();
  int i = 0;
  for (; i + 16 <= count; i += 16) sum_i32x8 = _mm256_add_epi32(sum_i32x8, _mm256_madd_epi16(load(x + i), load(w + i)));
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum_i32x8);
  // Lane sums may pass 2^31 only in a wrapped intermediate; the total fits (kernels.h), and unsigned wrap is exact.
  uint32_t sum = 0;
  for (const int32_t lane : lanes) sum += static_cast<uint32_t>(lane);
  for (; i < count; ++i) sum += static_cast<uint32_t>(static_cast<int32_t>(x[i]) * w[i]);
  return static_cast<int32_t>(sum);
}

}  // namespace

void add_dense_avx2(Kernels& table) {
  table.dense_tile = dense_tile;
  table.depthwise_tile = depthwise_tile;
  table.affine = affine;
  table.pool_row = pool_row;
  table.channel_sums = channel_sums;
  table.dot_i16 = dot_i16;
}

}  // namespace bitreplay
#endif
