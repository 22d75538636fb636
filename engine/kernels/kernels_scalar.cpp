// The plain meaning of every kernel: read this one.
#include <algorithm>
#include <bit>

#include "bits.h"
#include "fixed_point.h"
#include "kernels.h"

namespace bitreplay {
namespace {

constexpr int kSlopeBits = 13;

void sign_bits(const int16_t* x, const int16_t* threshold, int64_t pixels, int channels, uint64_t* bits) {
  const int words = words_for(channels);
  for (int64_t p = 0; p < pixels; ++p, x += channels, bits += words) {
    std::fill_n(bits, words, uint64_t{0});
    for (int c = 0; c < channels; ++c) {
      const bool negative = x[c] + (threshold ? threshold[c] : 0) < 0;
      bits[c / kWordBits] |= static_cast<uint64_t>(negative) << (c % kWordBits);
    }
  }
}

void expand_bits(const uint64_t* bits, const int16_t* alpha, int64_t pixels, int channels, int16_t* x) {
  for (int64_t p = 0; p < pixels; ++p, bits += words_for(channels), x += channels) {
    for (int c = 0; c < channels; ++c) x[c] = static_cast<int16_t>(bit_at(bits, c) ? -alpha[c] : alpha[c]);
  }
}

// Layout: canonical (out, kernel * kernel, words).
int64_t binary_weight_words(int in, int out, int kernel) { return int64_t{out} * kernel * kernel * words_for(in); }

void set_binary_channel(uint64_t* weight, int in, int kernel, int channel, const uint64_t* canonical) {
  const int length = kernel * kernel * words_for(in);
  std::copy_n(canonical, length, weight + int64_t{channel} * length);
}

void binary_expand(const BinaryTile&) {}

void binary_tile(const BinaryTile& tile, const uint64_t* weight, int first, int count, int16_t* z) {
  const int run = tile.kernel * tile.words;  // words of one row under the window
  const int pitch = tile.window_columns() * tile.words;
  for (int i = 0; i < tile.rows; ++i) {
    for (int j = 0; j < tile.columns; ++j, z += kTileChannels) {
      const uint64_t* corner = tile.window + (i * tile.stride) * pitch + (j * tile.stride) * tile.words;
      for (int c = 0; c < count; ++c) {
        const uint64_t* w = weight + int64_t{first + c} * tile.kernel * run;
        int differing = 0;
        for (int a = 0; a < tile.kernel; ++a) {
          for (int k = 0; k < run; ++k) differing += std::popcount(corner[a * pitch + k] ^ w[a * run + k]);
        }
        z[c] = static_cast<int16_t>(tile.bits() - 2 * differing);
      }
    }
  }
}

void block_apply(const BlockParameters& block, const int16_t* z, int64_t z_stride, int16_t* x, int64_t x_stride, int64_t pixels,
                 int channels) {
  for (int64_t p = 0; p < pixels; ++p, z += z_stride, x += x_stride) {
    for (int c = 0; c < channels; ++c) {
      const int r = block.relu ? std::max<int>(z[c], 0) : z[c];
      const int16_t v = sat16(round_shift((r - block.mean[c]) * block.multiplier[c] + block.bias[c], block.shift));
      const int16_t u = sat16(x[c] + v);
      if (block.alpha == nullptr) {
        x[c] = u;
      } else {
        const int16_t w = sat16(u - block.alpha[c]);
        const int16_t slope = w >= 0 ? block.high[c] : block.low[c];
        x[c] = sat16(sat16(round_shift(w * slope, kSlopeBits)) - block.beta[c]);
      }
    }
  }
}

void dense_tile(const DenseTile& tile, const int16_t* weight, int32_t* acc) {
  for (int p = 0; p < tile.pixels; ++p, acc += kDenseChannels) {
    std::fill_n(acc, kDenseChannels, 0);
    const int16_t* w = weight;
    for (int r = 0; r < tile.rows; ++r) {
      const int16_t* x = tile.x + int64_t{p} * tile.pixel_stride + int64_t{r} * tile.row_pitch;
      for (int k = 0; k < tile.pairs; ++k, x += 2, w += 2 * kDenseChannels) {
        for (int c = 0; c < kDenseChannels; ++c) acc[c] += x[0] * w[2 * c] + x[1] * w[2 * c + 1];
      }
    }
  }
}

void depthwise_tile(const DepthwiseTile& tile, const int16_t* weight, int count, int32_t* acc) {
  for (int j = 0; j < tile.columns; ++j, acc += kDenseChannels) {
    const int left = (tile.first + j) * tile.stride - tile.kernel / 2;
    for (int c = 0; c < count; ++c) {
      int32_t sum = 0;
      for (int a = 0; a < tile.kernel; ++a) {
        for (int b = 0; b < tile.kernel; ++b) {
          if (tile.rows[a] == nullptr || left + b < 0 || left + b >= tile.width) continue;
          sum += tile.rows[a][int64_t{left + b} * tile.channels + c] * weight[(a * tile.kernel + b) * tile.channels + c];
        }
      }
      acc[c] = sum;
    }
  }
}

void affine(const AffineParameters& affine, const int32_t* acc, int64_t pixels, int count, int16_t* y, int64_t y_stride) {
  for (int64_t p = 0; p < pixels; ++p, acc += kDenseChannels, y += y_stride) {
    for (int c = 0; c < count; ++c) {
      const int16_t value = sat16(round_shift(int64_t{acc[c]} * affine.multiplier[c] + affine.bias[c], affine.shift));
      y[c] = affine.relu ? std::max<int16_t>(value, 0) : value;
    }
  }
}

void pool_row(const int16_t* const rows[4], int width, int channels, int16_t* y) {
  constexpr int kBlur[3] = {1, 2, 1};
  for (int j = 0; j < width / 2; ++j) {
    for (int c = 0; c < channels; ++c) {
      int32_t sum = 0;
      for (int a = 0; a < 3; ++a) {
        if (rows[a] == nullptr || rows[a + 1] == nullptr) continue;
        for (int b = 0; b < 3; ++b) {
          const int column = 2 * j + b - 1;
          if (column < 0 || column >= width - 1) continue;
          const int16_t* top = rows[a] + int64_t{column} * channels + c;
          const int16_t* bottom = rows[a + 1] + int64_t{column} * channels + c;
          const int16_t m = std::max(std::max(top[0], top[channels]), std::max(bottom[0], bottom[channels]));
          sum += kBlur[a] * kBlur[b] * std::max<int>(m, 0);
        }
      }
      *y++ = static_cast<int16_t>(round_shift(sum, 4));
    }
  }
}

void channel_sums(const int16_t* x, int64_t pixels, int channels, bool relu, int32_t* sums) {
  std::fill_n(sums, channels, 0);
  for (int64_t p = 0; p < pixels; ++p, x += channels) {
    for (int c = 0; c < channels; ++c) sums[c] += relu ? std::max<int>(x[c], 0) : x[c];
  }
}

int32_t dot_i16(const int16_t* x, const int16_t* w, int count) {
  int32_t sum = 0;
  for (int i = 0; i < count; ++i) sum += static_cast<int32_t>(x[i]) * w[i];
  return sum;
}

int64_t differing_bits(const uint64_t* a, const uint64_t* b, int64_t words) {
  int64_t count = 0;
  for (int64_t i = 0; i < words; ++i) count += std::popcount(a[i] ^ b[i]);
  return count;
}

}  // namespace

const Kernels& kernels_scalar() {
  static const Kernels table{"scalar",       sign_bits,   expand_bits, binary_weight_words, set_binary_channel, binary_expand, binary_tile,
                             block_apply,    dense_tile,  depthwise_tile, affine,           pool_row,           channel_sums,  dot_i16,
                             differing_bits};
  return table;
}

}  // namespace bitreplay
