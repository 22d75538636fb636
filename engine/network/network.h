// The frozen network in integers (docs/method.md, 3): u8 image -> packed latent row -> int8 features.
// Immutable once `set_features` has been called; knows nothing of labels, replay, randomness or files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "forward.h"
#include "memory.h"
#include "plan.h"

namespace bitreplay {

// What a block may have beyond QuickNet's (docs/method.md, 3.3); an empty span: not there.
struct BlockOptions {
  bool relu = true;
  bool zero_pad = false;  // else +1
  std::span<const int16_t> threshold;
  std::span<const int16_t> alpha, beta, high, low;  // the activation: all or none
};

inline constexpr int kMaxInputs = 8;
inline constexpr size_t kMaxOperations = 512;  // before the cut

// The values that an operation of the prefix reads: 0 is the image, i + 1 what operation i gives.
struct Inputs {
  int count = 0;  // 0: the value before it
  int values[kMaxInputs] = {};
};

// One operation of the prefix, and where it stands in the graph.
struct Node {
  Operation operation;
  Inputs from;
  Shape in, out;              // of the first value read, of what is given
  int piece = 0, mean = 0;    // of the plan: its result, and a down's pooled map
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
  // Makes room for the lists of operations at once.
  void expect(size_t prefix, size_t tail);
  // What `expect` allocates beside lists of Node and Block.
  static size_t pieces_of(size_t prefix) { return 2 * prefix + 1; }

  // What the next operation reads; without it, or with no values, the value before it.
  void read(const Inputs& from) { next_ = from; }
  Shape shape_of(int value) const { return value == 0 ? Shape{image_size_, image_size_, 3} : prefix_[static_cast<size_t>(value) - 1].out; }

  // Weights and multipliers: int8_t and int16_t, or int16_t and int32_t.
  template <class T, class W>
  void add_conv(const Window& window, int in, int out, int groups, bool depthwise, bool relu, int shift, std::span<const T> weight,
                std::span<const W> multiplier, std::span<const int64_t> bias);
  // weight: (channels, 3, 3, words_for(channels)); goes to the prefix before `set_cut` and to the tail after it.
  void add_block(int channels, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                 std::span<const int16_t> multiplier, std::span<const int32_t> bias, const BlockOptions& options = {});
  void add_pool();
  // weight: (out, 3, 3, words_for(in)); a threshold of the options has `in` values, all else `out`.  Prefix only, as all that follow.
  void add_down(int in, int out, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                std::span<const int16_t> multiplier, std::span<const int32_t> bias, const Shortcut& shortcut, const BlockOptions& options);
  // weight: (out, kernel, kernel, words_for(in / groups)).
  void add_binary(const Window& window, int in, int out, int groups, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                  std::span<const int16_t> multiplier, std::span<const int32_t> bias, const BlockOptions& options);
  template <class W>  // int16_t or int32_t
  void add_scale(int channels, bool relu, int shift, std::span<const W> multiplier, std::span<const int64_t> bias);
  void add_activate(int channels, const BlockOptions& options);
  void add_add(int first, int second, int shift, bool relu);
  void add_concat();
  void add_gate();
  void add_max_pool(const Window& window, bool relu);
  void add_average_pool(const Window& window);
  void set_cut(std::span<const int32_t> threshold, std::span<const uint8_t> direction, std::span<const int16_t> alpha);
  void set_features(int pool_shift, int shift, int feature_bits, std::span<const int32_t> pool_multiplier,
                    std::span<const int8_t> weight, std::span<const int16_t> multiplier, std::span<const int64_t> bias, bool relu = true);

  int image_size() const { return image_size_; }
  size_t image_bytes() const { return static_cast<size_t>(image_size_) * image_size_ * 3; }
  int feature_count() const { return cut_shape_.channels; }
  int feature_bits() const { return feature_bits_; }
  size_t latent_words() const { return latent_words_; }
  // Whether a latent row is bits at a cut; else it is the features, a byte each.
  bool has_cut() const { return has_cut_; }
  int64_t latent_bits() const { return has_cut_ ? cut_shape_.size() : int64_t{8} * feature_count(); }
  // The largest distance of near-equal rows (section 5.1), of a share with 16 fraction bits: in bits, or in units of the features.
  int64_t near(int64_t share) const { return share * (has_cut_ ? cut_shape_.size() : int64_t{2} * feature_count() << feature_bits_) >> 16; }
  int64_t bytes() const;          // of all parameters
  int64_t scratch_bytes() const { return plan_.bytes(1); }              // of one call's scratch
  int64_t shared_scratch_bytes(int parts) const { return plan_.bytes(parts); }  // of one that `parts` workers share
  bool complete() const { return complete_; }

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
  std::span<const int32_t> whitening_multiplier() const {
    return {whitening_affine_.multiplier.data(), whitening_affine_.multiplier.size()};
  }
  std::span<const int32_t> pool_multiplier() const { return {pool_multiplier_.data(), pool_multiplier_.size()}; }
  bool pool_relu() const { return pool_relu_; }

 private:
  Shape begin(const char* what, int inputs);  // of an operation of the prefix: the shape of the first value that it reads
  void add(Operation&& operation, Shape out);
  void limit(Shape shape) const;
  void plan_prefix();  // after its last operation
  void run(const Node& node, const uint8_t* image, Scratch& scratch, Workers* workers) const;
  const int16_t* last_value(const uint8_t* image, Scratch& scratch, Workers* workers) const;

  int image_size_;
  Shape shape_;      // after the last operation added
  Shape cut_shape_;  // without a cut that of the map that the features are made of
  List<Node> prefix_;
  List<Piece> pieces_;
  Inputs next_;
  bool reads_image_ = false;  // the first operation reads the image as it comes
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
