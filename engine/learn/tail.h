// The blocks behind the cut that are trained on the device (docs/method.md, 7): their values, and one pass of a minibatch
// forward, backward and one step.  Knows latent rows, gradients of features and steps; nothing of labels, heads or replay.
#pragma once

#include <cstdint>
#include <span>

#include "bits.h"
#include "network/forward.h"
#include "kernels/gradient.h"
#include "kernels/kernels.h"
#include "memory.h"
#include "network/network.h"
#include "settings.h"
#include "workers.h"

namespace bitreplay {

// Whether training is built in; a device may do without, and learn with the head alone.
#ifdef BITREPLAY_NO_TAIL
inline constexpr bool kTrainsTail = false;
#else
inline constexpr bool kTrainsTail = true;
#endif

// What training needs to know of a block beyond its values; constants of the model file.
struct TailTraits {
  int exponent = 0;        // of the stream: real value = mantissa * 2^-exponent
  bool approx = false;     // ApproxSign; else straight-through where |x + t| <= clip
  int32_t clip = 0;        // stream units
  bool train_high = true;  // false for ReActNet
};

// One block that may be trained: its shadow weights as the model file has them, int8 (channels, 3, 3, channels).
struct TailSource {
  std::span<const int8_t> shadow;
  TailTraits traits;
};

// What a trained value of every channel is.
struct Master {
  enum Part : uint8_t { norm, threshold, activation };  // of a block, which need not have each

  const char* name;
  Part part;
  int shift;     // bits below the forward copy
  int32_t most;  // largest magnitude
};

// Values of one trained block: masters, and `forward` made from them.
struct TailBlock {
  Block forward;
  TailTraits traits;
  Buffer<uint64_t> bits;      // canonical (channels, 9, words)
  Buffer<int8_t> shadow8;     // canonical (channels, 3, 3, channels); that of weight_bits, the other is empty
  Buffer<int16_t> shadow16;
  Buffer<int32_t> multiplier, bias, threshold, alpha, beta, high, low;

  // The masters, once (7.1): f(what it is, master, its forward copy).
  template <class Self, class F>
  static void each_master(Self& self, const F& f) {
    constexpr int32_t kMost = INT32_MAX, kMostBias = 1 << 29, kMostOffset = (1 << 23) - 1;
    f(Master{"multiplier", Master::norm, 16, kMost}, self.multiplier, self.forward.multiplier);
    f(Master{"bias", Master::norm, 0, kMostBias}, self.bias, self.forward.bias);
    f(Master{"threshold", Master::threshold, 8, kMostOffset}, self.threshold, self.forward.threshold);
    f(Master{"alpha", Master::activation, 8, kMostOffset}, self.alpha, self.forward.alpha);
    f(Master{"beta", Master::activation, 8, kMostOffset}, self.beta, self.forward.beta);
    f(Master{"high", Master::activation, 16, kMost}, self.high, self.forward.high);
    f(Master{"low", Master::activation, 16, kMost}, self.low, self.forward.low);
  }
  // What a state keeps of a block: f(name, values, largest magnitude); its weights, and the masters that it has.
  template <class Self, class F>
  static void each_kept(Self& self, const F& f) {
    if (self.shadow8.empty() && self.shadow16.empty()) f("bits", self.bits, 0);
    if (!self.shadow8.empty()) f("shadow", self.shadow8, INT8_MAX);
    if (!self.shadow16.empty()) f("shadow", self.shadow16, INT16_MAX);
    each_master(self, [&](const Master& what, auto& master, auto&) {
      if (!master.empty()) f(what.name, master, what.most);
    });
  }

  // The same of a block that is trained with so many weight bits, before there is one: f.template operator()<T>(name, count, largest magnitude).
  template <class F>
  static void each_kept_of(const Block& block, int weight_bits, const F& f) {
    const auto channels = static_cast<size_t>(block.channels), taps = channels * kTaps;
    if (weight_bits == 1) f.template operator()<uint64_t>("bits", taps * static_cast<size_t>(words_for(block.channels)), 0);
    if (weight_bits == 8) f.template operator()<int8_t>("shadow", taps * channels, INT8_MAX);
    if (weight_bits == 16) f.template operator()<int16_t>("shadow", taps * channels, INT16_MAX);
    const bool has[] = {true, !block.threshold.empty(), !block.alpha.empty()};
    const TailBlock none;
    each_master(none, [&](const Master& what, const auto&, const auto&) {
      if (has[what.part]) f.template operator()<int32_t>(what.name, channels, what.most);
    });
  }

  void refresh();   // forward copies of the masters and of `bits`
  void restored();  // after the masters were replaced: `bits` from the shadow weights, then refresh
  // Whether the backward pass reads the block's input itself, not only which of its values let the gradient through.
  bool keeps_stream() const { return traits.approx || !forward.threshold.empty() || !forward.alpha.empty(); }
  int64_t bytes(Layout layout) const;
};

class Tail {
 public:
  Tail() = default;
  // sources: one for each of the last settings.train_blocks blocks of the network's tail.
  // Throws std::invalid_argument when settings or sizes do not fit.
  Tail(const Network& network, const Settings& settings, std::span<const TailSource> sources);

  const Settings& settings() const { return settings_; }
  std::span<TailBlock> blocks() { return blocks_; }
  std::span<const TailBlock> blocks() const { return blocks_; }
  int64_t bytes(Layout layout) const;

  // Features of one latent row: the frozen blocks of the network's tail, then these.  `workers` share the row.
  void features(const Network& network, const uint64_t* row, int8_t* features, Scratch& scratch, Workers* workers = nullptr) const;

  // Takes the values of a copy of this tail.  Cannot fail.
  void take_over(const Tail& trained) noexcept { blocks_ = trained.blocks_; }

  // How many binary weights there are, and how many have another sign in `other`.
  int64_t weights() const;
  int64_t differing_weights(const Tail& other) const;

 private:
  friend class TailTrainer;
  // The stream behind the frozen blocks of the tail.
  void enter(const Network& network, const uint64_t* row, int16_t* x, Scratch& scratch, Workers* workers = nullptr) const;
  void leave(const Network& network, const int16_t* x, int8_t* features, Scratch& scratch) const;
  void round_stream(int16_t* x, int64_t count) const;  // to forward_bits

  Settings settings_;
  List<TailBlock> blocks_;
};

// When a step happens: keys of its random numbers, and how far the lesson is.
struct TailStep {
  uint64_t seed = 0, experience = 0, step = 0;
  int decay = 0;
};

// Working memory of the training of one tail, for at most `max_rows` rows a minibatch; allocated once.
class TailTrainer {
 public:
  TailTrainer(const Network& network, Tail& tail, int max_rows, Workers& workers);
  static int64_t bytes(const Network& network, const Tail& tail, int max_rows, int threads, Layout layout);

  // features: (rows, feature_count) of the minibatch's latent rows; keeps what `step` needs.
  void forward(std::span<const uint64_t* const> rows, int8_t* features);
  // features of the same rows with another tail of the network; keeps nothing.
  void features(const Tail& tail, std::span<const uint64_t* const> rows, int8_t* features);
  // From the head's gradient (rows, classes), mantissas of gradient_bits bits, and the forward weights of those classes (classes,
  // feature_count): gradients of everything trained, and one step.
  void step(std::span<const int16_t> gradient, std::span<const int16_t> weight, const int8_t* features, const TailStep& at);

 private:
  struct Plan;
  int16_t* stream(size_t l);
  uint64_t* packed(Buffer<uint64_t>& buffer, size_t l);
  Rounding rounding(const TailStep& at, uint64_t tensor) const;
  void head_backward(std::span<const int16_t> gradient, std::span<const int16_t> weight, const int8_t* features, const TailStep& at);
  void block_backward(size_t l, const TailStep& at);

  const Network& network_;
  Tail& tail_;
  Workers& workers_;
  Batch batch_;        // of the current minibatch
  int max_rows_;
  bool keep_streams_;  // every block's input is kept
  List<Scratch> scratch_;
  Buffer<int16_t> streams_;  // (blocks + 1 or 1, max_rows, H, W, C): the blocks' inputs, then the last output, which becomes g
  Buffer<uint64_t> bits_, open_;
  Buffer<int16_t> z_, w_;
  Buffer<int32_t> da_;
  Buffer<int64_t> wide_, sums_;
  Buffer<int16_t> narrow_, whitening_;
  Buffer<uint8_t> kernel_scratch_;
};

}  // namespace bitreplay
