// NEON of aarch64, values of many bits: dense and depth-wise convolution, requantisation, pooling.  Bottleneck of the dense one: smlal,
// 4 multiply-adds an operation, one a cycle on Cortex-A53 and -A72; 4 pixels by 16 channels keep 16 sums in registers.  Of
// requantisation: 64-bit sums, which srshl rounds and sqxtn saturates.  Limits: dense_tile computes 16 channels even where fewer are
// wanted.  Not done: sdot on two digits of the values, for cores that have it.
#include "kernels.h"

#ifdef BITREPLAY_HAVE_NEON
#include <arm_neon.h>

#include <algorithm>
#include <cstring>

namespace bitreplay {
namespace {

inline int16x4_t pair_of(const int16_t* x) {
  int32_t pair;
  std::memcpy(&pair, x, sizeof pair);
  return vreinterpret_s16_s32(vdup_n_s32(pair));
}

template <int kPixels>
inline void dense_pixels(const DenseTile& tile, const int16_t* x, const int16_t* weight, int32_t* acc) {
  int32x4_t sum[kPixels][4];
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p) sum[p][0] = sum[p][1] = sum[p][2] = sum[p][3] = vdupq_n_s32(0);
  for (int r = 0; r < tile.rows; ++r) {
    const int16_t* row = x + int64_t{r} * tile.row_pitch;
    for (int k = 0; k < tile.pairs; ++k, row += 2, weight += 2 * kDenseChannels) {
      const int16x8x2_t w0 = vld2q_s16(weight), w1 = vld2q_s16(weight + kDenseChannels);  // [value of the pair]: 8 channels
#pragma GCC unroll 4
      for (int p = 0; p < kPixels; ++p) {
        const int16x4_t pair = pair_of(row + int64_t{p} * tile.pixel_stride);
        sum[p][0] = vmlal_lane_s16(vmlal_lane_s16(sum[p][0], vget_low_s16(w0.val[0]), pair, 0), vget_low_s16(w0.val[1]), pair, 1);
        sum[p][1] = vmlal_high_lane_s16(vmlal_high_lane_s16(sum[p][1], w0.val[0], pair, 0), w0.val[1], pair, 1);
        sum[p][2] = vmlal_lane_s16(vmlal_lane_s16(sum[p][2], vget_low_s16(w1.val[0]), pair, 0), vget_low_s16(w1.val[1]), pair, 1);
        sum[p][3] = vmlal_high_lane_s16(vmlal_high_lane_s16(sum[p][3], w1.val[0], pair, 0), w1.val[1], pair, 1);
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) vst1q_s32(acc + p * kDenseChannels + 4 * v, sum[p][v]);
  }
}

void dense_tile(const DenseTile& tile, const int16_t* weight, int32_t* acc) {
  const int16_t* x = tile.x;
  int left = tile.pixels;
  for (; left >= 4; left -= 4, x += 4 * int64_t{tile.pixel_stride}, acc += 4 * kDenseChannels) dense_pixels<4>(tile, x, weight, acc);
  for (; left > 0; --left, x += tile.pixel_stride, acc += kDenseChannels) dense_pixels<1>(tile, x, weight, acc);
}

void depthwise_tile(const DepthwiseTile& tile, const int16_t* weight, int count, int32_t* acc) {
  const int whole = count / 8 * 8;
  for (int j = 0; j < tile.columns; ++j, acc += kDenseChannels) {
    const int left = (tile.first + j) * tile.stride - tile.kernel / 2;
    const int b_begin = std::max(0, -left), b_end = std::min(tile.kernel, tile.width - left);
    for (int c = 0; c < count; c += 8) {
      int32x4_t low = vdupq_n_s32(0), high = low;
      int32_t rest[8] = {};
      for (int a = 0; a < tile.kernel; ++a) {
        if (tile.rows[a] == nullptr) continue;
        for (int b = b_begin; b < b_end; ++b) {
          const int16_t* x = tile.rows[a] + int64_t{left + b} * tile.channels + c;
          const int16_t* w = weight + (a * tile.kernel + b) * tile.channels + c;
          if (c < whole) {
            const int16x8_t u = vld1q_s16(x), v = vld1q_s16(w);
            low = vmlal_s16(low, vget_low_s16(u), vget_low_s16(v));
            high = vmlal_high_s16(high, u, v);
          } else {
            for (int i = 0; i < count - c; ++i) rest[i] += x[i] * w[i];
          }
        }
      }
      if (c < whole) {
        vst1q_s32(acc + c, low);
        vst1q_s32(acc + c + 4, high);
      } else {
        std::copy_n(rest, count - c, acc + c);
      }
    }
  }
}

// Four channels of all pixels.
void affine_four(const AffineParameters& affine, const int32_t* acc, int64_t pixels, int16_t* y, int64_t y_stride) {
  const int64x2_t bias_low = vld1q_s64(affine.bias), bias_high = vld1q_s64(affine.bias + 2);
  const int32x4_t multiplier = vld1q_s32(affine.multiplier);
  const int64x2_t down = vdupq_n_s64(-affine.shift);
  const int16x4_t lowest = vdup_n_s16(affine.relu ? 0 : INT16_MIN);
  for (int64_t p = 0; p < pixels; ++p, acc += kDenseChannels, y += y_stride) {
    const int32x4_t a = vld1q_s32(acc);
    const int64x2_t low = vrshlq_s64(vmlal_s32(bias_low, vget_low_s32(a), vget_low_s32(multiplier)), down);
    const int64x2_t high = vrshlq_s64(vmlal_high_s32(bias_high, a, multiplier), down);
    vst1_s16(y, vmax_s16(vqmovn_s32(vqmovn_high_s64(vqmovn_s64(low), high)), lowest));
  }
}

void affine(const AffineParameters& affine, const int32_t* acc, int64_t pixels, int count, int16_t* y, int64_t y_stride) {
  int c = 0;
  for (; c + 4 <= count; c += 4) {
    affine_four({affine.multiplier + c, affine.bias + c, affine.shift, affine.relu}, acc + c, pixels, y + c, y_stride);
  }
  if (c < count) {
    kernels_scalar().affine({affine.multiplier + c, affine.bias + c, affine.shift, affine.relu}, acc + c, pixels, count - c, y + c, y_stride);
  }
}

// m of the window's row between `top` and `bottom`, at `column` of it; zero outside.
inline int16x8_t pooled(const int16_t* top, const int16_t* bottom, int column, int width, int channels, int c) {
  const int16x8_t zero = vdupq_n_s16(0);
  if (top == nullptr || bottom == nullptr || column < 0 || column >= width - 1) return zero;
  const int64_t at = int64_t{column} * channels + c;
  const int16x8_t above = vmaxq_s16(vld1q_s16(top + at), vld1q_s16(top + at + channels));
  const int16x8_t below = vmaxq_s16(vld1q_s16(bottom + at), vld1q_s16(bottom + at + channels));
  return vmaxq_s16(zero, vmaxq_s16(above, below));
}

void pool_row(const int16_t* const rows[4], int width, int channels, int16_t* y) {
  if (channels % 8 != 0) return kernels_scalar().pool_row(rows, width, channels, y);
  constexpr int16_t kBlur[3] = {1, 2, 1};
  for (int c = 0; c < channels; c += 8) {
    int16x8_t left[3];  // column 2j - 1 of m is 2(j - 1) + 1
    left[0] = left[1] = left[2] = vdupq_n_s16(0);
    for (int j = 0; j < width / 2; ++j) {
      int32x4_t low = vdupq_n_s32(0), high = low;
      for (int a = 0; a < 3; ++a) {
        const int16x8_t middle = pooled(rows[a], rows[a + 1], 2 * j, width, channels, c);
        const int16x8_t right = pooled(rows[a], rows[a + 1], 2 * j + 1, width, channels, c);
        low = vmlal_n_s16(low, vget_low_s16(left[a]), kBlur[a]);
        low = vmlal_n_s16(low, vget_low_s16(right), kBlur[a]);
        low = vmlal_n_s16(low, vget_low_s16(middle), static_cast<int16_t>(2 * kBlur[a]));
        high = vmlal_high_n_s16(high, left[a], kBlur[a]);
        high = vmlal_high_n_s16(high, right, kBlur[a]);
        high = vmlal_high_n_s16(high, middle, static_cast<int16_t>(2 * kBlur[a]));
        left[a] = right;
      }
      vst1q_s16(y + int64_t{j} * channels + c, vrshrn_high_n_s32(vrshrn_n_s32(low, 4), high, 4));
    }
  }
}

void channel_sums(const int16_t* x, int64_t pixels, int channels, bool relu, int32_t* sums) {
  const int16_t lowest = relu ? 0 : INT16_MIN;
  int c = 0;
  for (; c + 8 <= channels; c += 8) {
    int32x4_t low = vdupq_n_s32(0), high = low;
    for (int64_t p = 0; p < pixels; ++p) {
      const int16x8_t v = vmaxq_s16(vld1q_s16(x + p * channels + c), vdupq_n_s16(lowest));
      low = vaddw_s16(low, vget_low_s16(v));
      high = vaddw_high_s16(high, v);
    }
    vst1q_s32(sums + c, low);
    vst1q_s32(sums + c + 4, high);
  }
  for (; c < channels; ++c) {
    sums[c] = 0;
    for (int64_t p = 0; p < pixels; ++p) sums[c] += std::max(x[p * channels + c], lowest);
  }
}

int32_t dot_i16(const int16_t* x, const int16_t* w, int count) {
  int32x4_t low = vdupq_n_s32(0), high = low;
  int i = 0;
  for (; i + 8 <= count; i += 8) {
    const int16x8_t u = vld1q_s16(x + i), v = vld1q_s16(w + i);
    low = vmlal_s16(low, vget_low_s16(u), vget_low_s16(v));
    high = vmlal_high_s16(high, u, v);
  }
  int32_t sum = vaddvq_s32(vaddq_s32(low, high));  // no sum of magnitudes passes 2^31
  for (; i < count; ++i) sum += static_cast<int32_t>(x[i]) * w[i];
  return sum;
}

}  // namespace

void add_dense_neon(Kernels& table) {
  table.dense_tile = dense_tile;
  table.depthwise_tile = depthwise_tile;
  table.affine = affine;
  table.pool_row = pool_row;
  table.channel_sums = channel_sums;
  table.dot_i16 = dot_i16;
}

}  // namespace bitreplay
#endif
