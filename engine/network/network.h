// The frozen network in integers (docs/method.md, 3): u8 image -> packed latent row -> int8 features.
// Immutable once `set_features` has been called; knows nothing of labels, replay, randomness or files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "forward.h"
#include "memory.h"

namespace bitreplay {

// What a block may have beyond QuickNet's (docs/method.md, 3.3); an empty span: not there.
struct BlockOptions {
  bool relu = true;
  std::span<const int16_t> threshold;
  std::span<const int16_t> alpha, beta, high, low;  // the activation: all or none
};

// The shortcut of a down (docs/method.md, 3.7); weight: (out, words_for(in)).
struct Shortcut {
  int shift = 0;
  std::span<const uint64_t> weight;
  std::span<const int16_t> multiplier;
  std::span<const int64_t> bias;
};

class Network {
 public:
  // Starts a network for uint8 (image_size, image_size, 3); operations follow in order, checked as they come.
  // Every add_ and set_ throws std::invalid_argument when shapes or ranges do not fit.
  explicit Network(int image_size);
  // Makes room for the list of operations at once.
  void expect(size_t prefix, size_t tail);

  void add_conv(int in, int out, int kernel, int stride, bool depthwise, bool relu, int shift, std::span<const int8_t> weight,
                std::span<const int16_t> multiplier, std::span<const int64_t> bias);
  // weight: (channels, 3, 3, words_for(channels)); goes to the prefix before `set_cut` and to the tail after it.
  void add_block(int channels, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                 std::span<const int16_t> multiplier, std::span<const int32_t> bias, const BlockOptions& options = {});
  void add_pool();
  // weight: (out, 3, 3, words_for(in)); a threshold of the options has `in` values, all else `out`.  Prefix only.
  void add_down(int in, int out, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                std::span<const int16_t> multiplier, std::span<const int32_t> bias, const Shortcut& shortcut, const BlockOptions& options);
  void set_cut(std::span<const int32_t> threshold, std::span<const uint8_t> direction, std::span<const int16_t> alpha);
  void set_features(int pool_shift, int shift, int feature_bits, std::span<const int32_t> pool_multiplier,
                    std::span<const int8_t> weight, std::span<const int16_t> multiplier, std::span<const int64_t> bias, bool relu = true);

  int image_size() const { return image_size_; }
  size_t image_bytes() const { return static_cast<size_t>(image_size_) * image_size_ * 3; }
  int feature_count() const { return cut_shape_.channels; }
  int feature_bits() const { return feature_bits_; }
  size_t latent_words() const { return latent_words_; }
  int64_t latent_bits() const { return cut_shape_.size(); }
  int64_t bytes(Layout layout = Layout::here) const;                       // of all parameters
  int64_t scratch_bytes(int parts = 1) const { return plan_.bytes(parts); }  // of one call's scratch, which `parts` workers share

  Scratch make_scratch(int parts = 1) const { return {plan_, parts}; }
  // image: image_bytes() pixels; row: latent_words() words.  `workers` share the image, at most scratch.parts() of them.
  void latent(const uint8_t* image, uint64_t* row, Scratch& scratch, Workers* workers = nullptr) const;
  // row: latent_words() words; features: feature_count() values in -127..127, real value times 2^feature_bits().
  void features(const uint64_t* row, int8_t* features, Scratch& scratch, Workers* workers = nullptr) const;

  // The steps of `features`, for a learner whose tail is its own: the stream of one row lies in tail_stream(scratch),
  // `expand` fills it from a latent row, `pool_features` reads it (or another stream of that shape).
  Shape cut_shape() const { return cut_shape_; }
  std::span<const Block> tail() const { return tail_; }
  int16_t* tail_stream(Scratch& scratch) const;
  void expand(const uint64_t* row, int16_t* x) const;
  void pool_features(const int16_t* x, int8_t* features, Scratch& scratch) const;

  // Constants that the gradient of the features needs (section 3.6).
  std::span<const int16_t> whitening() const { return {whitening_.data(), whitening_.size()}; }
  std::span<const int16_t> whitening_multiplier() const {
    return {whitening_affine_.multiplier.data(), whitening_affine_.multiplier.size()};
  }
  std::span<const int32_t> pool_multiplier() const { return {pool_multiplier_.data(), pool_multiplier_.size()}; }
  bool pool_relu() const { return pool_relu_; }

 private:
  void reserve(Shape shape);

  int image_size_;
  Shape shape_;  // after the last operation added
  Shape cut_shape_;
  List<Operation> prefix_;
  List<Block> tail_;
  bool has_cut_ = false, complete_ = false;
  ScratchPlan plan_;
  size_t latent_words_ = 0;
  Buffer<int16_t> threshold_;   // as sign_bits wants it
  Buffer<uint64_t> direction_;  // packed
  Buffer<int16_t> alpha_;
  Buffer<int32_t> pool_multiplier_;
  int pool_shift_ = 0, feature_bits_ = 0;
  bool pool_relu_ = true;
  Buffer<int16_t> whitening_;
  Affine whitening_affine_;
};

}  // namespace bitreplay
