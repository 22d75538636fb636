#include "network.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "bits.h"
#include "fixed_point.h"
#include "kernels.h"

namespace bitreplay {
namespace {

constexpr int kMaxImageSize = 1024;
constexpr int kMaxChannels = 2048;
constexpr int kMaxBlockChannels = 1024;  // 9 * channels and every sum below stay inside int16
constexpr int kMaxShift = 46;
constexpr int kMaxBlockShift = 30;
constexpr int64_t kMaxBias = int64_t{1} << 61;
constexpr int32_t kMaxBlockBias = 1 << 29;
constexpr int64_t kMaxActivation = int64_t{1} << 26;
constexpr int kMaxOperations = 256;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

void require_range(int value, int low, int high, const char* what) {
  require(value >= low && value <= high, std::string(what) + ": expected " + std::to_string(low) + " to " +
                                             std::to_string(high) + ", got " + std::to_string(value));
}

template <class T>
void require_count(std::span<const T> values, int64_t count, const char* what) {
  require(static_cast<int64_t>(values.size()) == count,
          std::string(what) + ": expected " + std::to_string(count) + " values, got " + std::to_string(values.size()));
}

template <class T>
Buffer<T> copy(std::span<const T> values) {
  return Buffer<T>(values.begin(), values.end());
}

Affine make_affine(int channels, int shift, std::span<const int16_t> multiplier, std::span<const int64_t> bias) {
  require_range(shift, 0, kMaxShift, "shift");
  require_count(multiplier, channels, "multiplier");
  require_count(bias, channels, "bias");
  for (const int64_t b : bias) require(b > -kMaxBias && b < kMaxBias, "bias: expected magnitudes below 2^61");
  return {copy(multiplier), copy(bias), shift};
}

int16_t apply(const Affine& affine, int channel, int64_t value) {
  return sat16(round_shift(value * affine.multiplier[channel] + affine.bias[channel], affine.shift));
}

// Every sum of |weight| * 32768 must fit int32.
void require_sum(std::span<const int8_t> weight, int64_t rows, int64_t length) {
  for (int64_t r = 0; r < rows; ++r) {
    int64_t sum = 0;
    for (int64_t i = 0; i < length; ++i) sum += std::abs(int{weight[r * length + i]});
    require(sum * 32768 < (int64_t{1} << 31), "weight: a channel's magnitudes sum to 65536 or more; 32-bit sums would overflow");
  }
}

}  // namespace

Network::Network(int image_size) : image_size_(image_size), shape_{image_size, image_size, 3} {
  require_range(image_size, 1, kMaxImageSize, "image_size");
  reserve(shape_);
}

void Network::reserve(Shape shape) {
  require(!complete_, "network: it is complete; nothing can be added");
  require(shape.height >= 1 && shape.width >= 1, "network: the map has shrunk to nothing");
  require(shape.size() <= kMaxActivation, "network: an activation has more than 2^26 values");
  require(prefix_.size() + tail_.size() < kMaxOperations, "network: more than 256 operations");
  largest_ = std::max(largest_, shape.size());
  largest_channels_ = std::max<int64_t>(largest_channels_, (shape.channels + kChannelTile - 1) / kChannelTile * kChannelTile);
  shape_ = shape;
}

void Network::add_conv(int in, int out, int kernel, int stride, bool depthwise, bool relu, int shift,
                       std::span<const int8_t> weight, std::span<const int16_t> multiplier, std::span<const int64_t> bias) {
  require(!has_cut_, "conv: only blocks may follow the cut");
  require(in == shape_.channels, "conv: expected " + std::to_string(shape_.channels) + " input channels, got " + std::to_string(in));
  require_range(out, 1, kMaxChannels, "conv channels");
  require(kernel == 1 || kernel == 3, "conv: expected kernel 1 or 3, got " + std::to_string(kernel));
  require_range(stride, 1, 2, "conv stride");
  require(!depthwise || in == out, "conv: a depth-wise one keeps its channels");
  const int64_t length = int64_t{kernel} * kernel * (depthwise ? 1 : in);
  require_count(weight, out * length, "conv weight");
  require_sum(weight, out, length);
  Conv conv{in, out, kernel, stride, depthwise, relu, Buffer<int16_t>(weight.size()), make_affine(out, shift, multiplier, bias)};
  for (int c = 0; c < out; ++c) {
    for (int64_t i = 0; i < length; ++i) conv.weight[depthwise ? i * out + c : c * length + i] = weight[c * length + i];
  }
  if (!depthwise) largest_patch_ = std::max(largest_patch_, length);
  reserve({(shape_.height - 1) / stride + 1, (shape_.width - 1) / stride + 1, out});
  prefix_.emplace_back(std::move(conv));
}

void Network::add_block(int channels, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                        std::span<const int16_t> multiplier, std::span<const int32_t> bias) {
  require(channels == shape_.channels,
          "block: expected " + std::to_string(shape_.channels) + " channels, got " + std::to_string(channels));
  require_range(channels, 1, kMaxBlockChannels, "block channels");
  require_range(shift, 0, kMaxBlockShift, "shift");
  const int words = words_for(channels);
  require_count(weight, int64_t{channels} * kTaps * words, "block weight");
  require_count(mean, channels, "block mean");
  require_count(multiplier, channels, "block multiplier");
  require_count(bias, channels, "block bias");
  for (const int32_t b : bias) require(b >= -kMaxBlockBias && b <= kMaxBlockBias, "block bias: expected magnitudes up to 2^29");
  const int padded = (channels + kChannelTile - 1) / kChannelTile * kChannelTile;
  Block block{channels, shift, Buffer<uint64_t>(static_cast<size_t>(padded) * kTaps * words, 0), copy(mean), copy(multiplier), copy(bias)};
  for (int c = 0; c < channels; ++c) {
    for (int i = 0; i < kTaps * words; ++i) {
      const uint64_t word = weight[static_cast<size_t>(c) * kTaps * words + i];
      require(i % words != words - 1 || (word & ~last_word_mask(channels)) == 0, "block weight: unused bits must be 0");
      block.weight[(static_cast<size_t>(c / kChannelTile) * kTaps * words + i) * kChannelTile + c % kChannelTile] = word;
    }
  }
  reserve(shape_);
  largest_bits_ = std::max(largest_bits_, int64_t{shape_.height} * shape_.width * words);
  (has_cut_ ? tail_ : prefix_).emplace_back(std::move(block));
}

void Network::add_pool() {
  require(!has_cut_, "pool: only blocks may follow the cut");
  require(shape_.height % 2 == 0 && shape_.width % 2 == 0, "pool: expected an even map");
  const int channels = shape_.channels;
  reserve({shape_.height / 2, shape_.width / 2, channels});
  prefix_.emplace_back(Pool{channels});
}

void Network::set_cut(std::span<const int32_t> threshold, std::span<const uint8_t> direction, std::span<const int16_t> alpha) {
  require(!has_cut_, "cut: there can be only one");
  require_count(threshold, shape_.channels, "cut threshold");
  require_count(direction, shape_.channels, "cut direction");
  require_count(alpha, shape_.channels, "cut alpha");
  for (const int32_t t : threshold) require_range(t, -32768, 32768, "cut threshold");
  for (const uint8_t d : direction) require_range(d, 0, 1, "cut direction");
  for (const int16_t a : alpha) require_range(a, -32767, 32767, "cut alpha");
  require(int64_t{shape_.height} * shape_.width <= 65536, "cut: expected a map of at most 65536 pixels");
  threshold_ = copy(threshold);
  direction_ = copy(direction);
  alpha_ = copy(alpha);
  cut_shape_ = shape_;
  latent_words_ = static_cast<size_t>(shape_.height) * shape_.width * words_for(shape_.channels);
  has_cut_ = true;
}

void Network::set_features(int pool_shift, int shift, int feature_bits, std::span<const int32_t> pool_multiplier,
                           std::span<const int8_t> weight, std::span<const int16_t> multiplier, std::span<const int64_t> bias) {
  require(has_cut_ && !complete_, "features: expected once, after the cut");
  const int channels = shape_.channels;
  require_count(pool_multiplier, channels, "pool_multiplier");
  for (const int32_t p : pool_multiplier) require_range(p, 0, INT32_MAX, "pool_multiplier");
  require_range(pool_shift, 0, kMaxShift, "pool_shift");
  require_range(feature_bits, 0, 12, "feature_bits");
  require_count(weight, int64_t{channels} * channels, "features weight");
  require_sum(weight, channels, channels);
  whitening_affine_ = make_affine(channels, shift, multiplier, bias);
  whitening_ = Buffer<int16_t>(weight.begin(), weight.end());
  pool_multiplier_ = copy(pool_multiplier);
  pool_shift_ = pool_shift;
  feature_bits_ = feature_bits;
  largest_patch_ = std::max<int64_t>(largest_patch_, channels);
  complete_ = true;
}

int64_t Network::bytes() const {
  int64_t total = bytes_of(threshold_) + bytes_of(direction_) + bytes_of(alpha_) + bytes_of(pool_multiplier_) + bytes_of(whitening_) +
                  bytes_of(whitening_affine_.multiplier) + bytes_of(whitening_affine_.bias);
  for (const auto* operations : {&prefix_, &tail_}) {
    for (const Operation& operation : *operations) {
      if (const auto* conv = std::get_if<Conv>(&operation)) {
        total += bytes_of(conv->weight) + bytes_of(conv->affine.multiplier) + bytes_of(conv->affine.bias);
      } else if (const auto* block = std::get_if<Block>(&operation)) {
        total += bytes_of(block->weight) + bytes_of(block->mean) + bytes_of(block->multiplier) + bytes_of(block->bias);
      }
    }
  }
  return total;
}

Scratch Network::make_scratch() const {
  const auto pad = static_cast<size_t>(words_for(static_cast<int>(largest_channels_)));
  return {Buffer<int16_t>(largest_),          Buffer<int16_t>(largest_),      Buffer<int16_t>(largest_patch_),
          Buffer<int16_t>(largest_channels_), Buffer<uint64_t>(largest_bits_), Buffer<uint64_t>(pad, 0)};
}

int64_t Network::scratch_bytes() const {
  const int64_t pad = words_for(static_cast<int>(largest_channels_));
  return 2 * (2 * largest_ + largest_patch_ + largest_channels_) + 8 * (largest_bits_ + pad);
}

void Network::run(const Conv& conv, Shape& shape, Scratch& scratch) const {
  const Shape result{(shape.height - 1) / conv.stride + 1, (shape.width - 1) / conv.stride + 1, conv.out};
  const Kernels& kernel = kernels();
  const int pad = conv.kernel / 2;
  const int length = conv.kernel * conv.kernel * conv.in;
  const int16_t* x = scratch.stream.data();
  int16_t* y = scratch.other.data();
  for (int i = 0; i < result.height; ++i) {
    for (int j = 0; j < result.width; ++j, y += conv.out) {
      const int top = i * conv.stride - pad;
      const int left = j * conv.stride - pad;
      if (conv.depthwise) {
        for (int c = 0; c < conv.out; ++c) {
          int32_t sum = 0;
          for (int a = 0; a < conv.kernel; ++a) {
            for (int b = 0; b < conv.kernel; ++b) {
              const int row = top + a, column = left + b;
              if (row < 0 || row >= shape.height || column < 0 || column >= shape.width) continue;
              sum += int32_t{x[(row * shape.width + column) * conv.in + c]} * conv.weight[(a * conv.kernel + b) * conv.out + c];
            }
          }
          y[c] = apply(conv.affine, c, sum);
        }
      } else {
        const int16_t* patch = x + (top * shape.width + left) * conv.in;
        if (conv.kernel > 1) {
          int16_t* p = scratch.patch.data();
          for (int a = 0; a < conv.kernel; ++a) {
            for (int b = 0; b < conv.kernel; ++b, p += conv.in) {
              const int row = top + a, column = left + b;
              if (row < 0 || row >= shape.height || column < 0 || column >= shape.width) {
                std::fill_n(p, conv.in, int16_t{0});
              } else {
                std::copy_n(x + (row * shape.width + column) * conv.in, conv.in, p);
              }
            }
          }
          patch = scratch.patch.data();
        }
        for (int c = 0; c < conv.out; ++c) {
          y[c] = apply(conv.affine, c, kernel.dot_i16(patch, conv.weight.data() + static_cast<size_t>(c) * length, length));
        }
      }
      if (conv.relu) {
        for (int c = 0; c < conv.out; ++c) y[c] = std::max<int16_t>(y[c], 0);
      }
    }
  }
  std::swap(scratch.stream, scratch.other);
  shape = result;
}

void Network::run(const Block& block, Shape& shape, Scratch& scratch) const {
  const int channels = block.channels;
  const int words = words_for(channels);
  const int padded = (channels + kChannelTile - 1) / kChannelTile * kChannelTile;
  const Kernels& kernel = kernels();
  int16_t* x = scratch.stream.data();
  uint64_t* bits = scratch.bits.data();
  for (int p = 0; p < shape.height * shape.width; ++p) pack_negative(x + int64_t{p} * channels, channels, bits + int64_t{p} * words);
  const uint64_t* taps[kTaps];
  int16_t* z = scratch.dots.data();
  for (int i = 0; i < shape.height; ++i) {
    for (int j = 0; j < shape.width; ++j, x += channels) {
      for (int t = 0; t < kTaps; ++t) {
        const int row = i + t / 3 - 1, column = j + t % 3 - 1;
        const bool inside = row >= 0 && row < shape.height && column >= 0 && column < shape.width;
        taps[t] = inside ? bits + int64_t{row * shape.width + column} * words : scratch.pad.data();
      }
      kernel.binary_conv3x3(taps, words, block.weight.data(), padded, kTaps * channels, z);
      for (int c = 0; c < channels; ++c) {
        const int64_t centred = std::max<int>(z[c], 0) - block.mean[c];
        x[c] = sat16(x[c] + round_shift(centred * block.multiplier[c] + block.bias[c], block.shift));
      }
    }
  }
}

void Network::run(const Pool& pool, Shape& shape, Scratch& scratch) const {
  const int channels = pool.channels;
  const int row_step = shape.width * channels;
  const int16_t* x = scratch.stream.data();
  int16_t* y = scratch.other.data();
  constexpr int kBlur[3] = {1, 2, 1};
  for (int i = 0; i < shape.height / 2; ++i) {
    for (int j = 0; j < shape.width / 2; ++j) {
      for (int c = 0; c < channels; ++c) {
        int32_t sum = 0;
        for (int a = 0; a < 3; ++a) {
          const int row = 2 * i + a - 1;
          if (row < 0 || row >= shape.height - 1) continue;
          for (int b = 0; b < 3; ++b) {
            const int column = 2 * j + b - 1;
            if (column < 0 || column >= shape.width - 1) continue;
            const int16_t* at = x + row * row_step + column * channels + c;
            const int16_t m = std::max(std::max(at[0], at[channels]), std::max(at[row_step], at[row_step + channels]));
            sum += kBlur[a] * kBlur[b] * std::max<int>(m, 0);
          }
        }
        *y++ = static_cast<int16_t>(round_shift(sum, 4));
      }
    }
  }
  std::swap(scratch.stream, scratch.other);
  shape = {shape.height / 2, shape.width / 2, channels};
}

void Network::latent(const uint8_t* image, uint64_t* row, Scratch& scratch) const {
  Shape shape{image_size_, image_size_, 3};
  for (int64_t i = 0; i < shape.size(); ++i) scratch.stream[i] = static_cast<int16_t>(2 * image[i] - 255);
  for (const Operation& operation : prefix_) std::visit([&](const auto& o) { run(o, shape, scratch); }, operation);
  const int channels = shape.channels;
  const int words = words_for(channels);
  const int16_t* x = scratch.stream.data();
  std::fill_n(row, latent_words_, uint64_t{0});
  for (int p = 0; p < shape.height * shape.width; ++p, x += channels, row += words) {
    for (int c = 0; c < channels; ++c) {
      const bool negative = (x[c] < threshold_[c]) != (direction_[c] != 0);
      row[c / kWordBits] |= static_cast<uint64_t>(negative) << (c % kWordBits);
    }
  }
}

void Network::features(const uint64_t* row, int8_t* features, Scratch& scratch) const {
  Shape shape = cut_shape_;
  const int channels = shape.channels;
  const int words = words_for(channels);
  const int pixels = shape.height * shape.width;
  int16_t* x = scratch.stream.data();
  for (int p = 0; p < pixels; ++p) {
    for (int c = 0; c < channels; ++c) {
      const int value = bit_at(row + int64_t{p} * words, c) ? -alpha_[c] : alpha_[c];
      x[int64_t{p} * channels + c] = static_cast<int16_t>(value);
    }
  }
  for (const Operation& operation : tail_) std::visit([&](const auto& o) { run(o, shape, scratch); }, operation);
  int16_t* pooled = scratch.patch.data();
  for (int c = 0; c < channels; ++c) {
    int64_t sum = 0;
    for (int p = 0; p < pixels; ++p) sum += std::max<int>(scratch.stream[int64_t{p} * channels + c], 0);
    pooled[c] = sat16(round_shift(sum * pool_multiplier_[c], pool_shift_));
  }
  const Kernels& kernel = kernels();
  for (int c = 0; c < channels; ++c) {
    const int32_t sum = kernel.dot_i16(pooled, whitening_.data() + static_cast<size_t>(c) * channels, channels);
    features[c] = static_cast<int8_t>(std::clamp<int>(apply(whitening_affine_, c, sum), -127, 127));
  }
}

}  // namespace bitreplay
