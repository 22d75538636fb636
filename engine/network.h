// The frozen network in integers (docs/method.md, 3): u8 image -> packed latent row -> int8 features.
// Immutable once `set_features` has been called; knows nothing of labels, replay, randomness or files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "memory.h"

namespace bitreplay {

// Per-channel affine requantisation: sat16(round_shift(value * multiplier + bias, shift)).
struct Affine {
  Buffer<int16_t> multiplier;
  Buffer<int64_t> bias;
  int shift = 0;
};

// Shape of a tensor, NHWC without N.
struct Shape {
  int height = 0;
  int width = 0;
  int channels = 0;
  int64_t size() const { return int64_t{height} * width * channels; }
};

struct Conv {  // section 3.2
  int in = 0, out = 0, kernel = 0, stride = 0;
  bool depthwise = false, relu = false;
  Buffer<int16_t> weight;  // dense (out, kernel, kernel, in); depth-wise (kernel, kernel, channels)
  Affine affine;
};

struct Block {  // section 3.3
  int channels = 0, shift = 0;
  Buffer<uint64_t> weight;  // as kernels.h wants it
  Buffer<int16_t> mean, multiplier;
  Buffer<int32_t> bias;
};

struct Pool {  // section 3.4
  int channels = 0;
};

using Operation = std::variant<Conv, Block, Pool>;

// What one thread needs while it computes; made by Network::make_scratch.
struct Scratch {
  Buffer<int16_t> stream, other, patch, dots;
  Buffer<uint64_t> bits, pad;
  int64_t bytes() const {
    return bytes_of(stream) + bytes_of(other) + bytes_of(patch) + bytes_of(dots) + bytes_of(bits) + bytes_of(pad);
  }
};

class Network {
 public:
  // Starts a network for uint8 (image_size, image_size, 3); operations follow in order, checked as they come.
  // Every add_ and set_ throws std::invalid_argument when shapes or ranges do not fit.
  explicit Network(int image_size);

  void add_conv(int in, int out, int kernel, int stride, bool depthwise, bool relu, int shift, std::span<const int8_t> weight,
                std::span<const int16_t> multiplier, std::span<const int64_t> bias);
  // weight: (channels, 3, 3, words_for(channels)); goes to the prefix before `set_cut` and to the tail after it.
  void add_block(int channels, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                 std::span<const int16_t> multiplier, std::span<const int32_t> bias);
  void add_pool();
  void set_cut(std::span<const int32_t> threshold, std::span<const uint8_t> direction, std::span<const int16_t> alpha);
  void set_features(int pool_shift, int shift, int feature_bits, std::span<const int32_t> pool_multiplier,
                    std::span<const int8_t> weight, std::span<const int16_t> multiplier, std::span<const int64_t> bias);

  int image_size() const { return image_size_; }
  size_t image_bytes() const { return static_cast<size_t>(image_size_) * image_size_ * 3; }
  int feature_count() const { return cut_shape_.channels; }
  int feature_bits() const { return feature_bits_; }
  size_t latent_words() const { return latent_words_; }
  int64_t latent_bits() const { return cut_shape_.size(); }
  int64_t bytes() const;          // of all parameters
  int64_t scratch_bytes() const;  // of one thread's scratch
  bool complete() const { return complete_; }

  Scratch make_scratch() const;
  // image: image_bytes() pixels; row: latent_words() words.
  void latent(const uint8_t* image, uint64_t* row, Scratch& scratch) const;
  // row: latent_words() words; features: feature_count() values in -127..127, real value times 2^feature_bits().
  void features(const uint64_t* row, int8_t* features, Scratch& scratch) const;

 private:
  void reserve(Shape shape);
  void run(const Conv& conv, Shape& shape, Scratch& scratch) const;
  void run(const Block& block, Shape& shape, Scratch& scratch) const;
  void run(const Pool& pool, Shape& shape, Scratch& scratch) const;

  int image_size_;
  Shape shape_;  // after the last operation added
  Shape cut_shape_;
  std::vector<Operation> prefix_, tail_;
  bool has_cut_ = false, complete_ = false;
  int64_t largest_ = 0, largest_bits_ = 0, largest_patch_ = 0, largest_channels_ = 0;
  size_t latent_words_ = 0;
  Buffer<int32_t> threshold_;
  Buffer<uint8_t> direction_;
  Buffer<int16_t> alpha_;
  Buffer<int32_t> pool_multiplier_;
  int pool_shift_ = 0, feature_bits_ = 0;
  Buffer<int16_t> whitening_;
  Affine whitening_affine_;
};

}  // namespace bitreplay
