// Forward and backward of a minibatch through the trained blocks (docs/method.md, 7.2 to 7.5).
#include <algorithm>
#include <cstdlib>

#include "bits.h"
#include "fixed_point.h"
#include "kernels/head_kernels.h"
#include "kernels/kernels.h"
#include "random.h"
#include "tail.h"

namespace bitreplay {
namespace {

constexpr size_t kExactLength = 512;  // 512 * 127 * 32767 < 2^31: what dot_i16 sums in 32 bits
constexpr int32_t kMaxOffset = (1 << 23) - 1;
constexpr int32_t kMaxBias = 1 << 29;
constexpr int kMultiplierRange = 30, kSlopeRange = 29, kOffsetBits = 8, kMaxOffsetRange = 23, kMaxBiasRange = 29;
// Tensors with a key of their own (docs/method.md, 9).
enum HeadTensor : uint64_t { kFeatureGradient = 1, kWhitened = 2, kPooled = 3, kStreamEnd = 4 };
enum BlockTensor : uint64_t { kSum = 1, kDots = 2, kInput = 4 };

// Bit 1 where |x| <= clip: the straight-through gradient passes.
void pack_open(const int16_t* x, Shape shape, int32_t clip, uint64_t* open) {
  const int words = words_for(shape.channels);
  for (int64_t p = 0; p < int64_t{shape.height} * shape.width; ++p, x += shape.channels, open += words) {
    std::fill_n(open, words, uint64_t{0});
    for (int c = 0; c < shape.channels; ++c) open[c / kWordBits] |= static_cast<uint64_t>(std::abs(int32_t{x[c]}) <= clip) << (c % kWordBits);
  }
}

// What the slopes see (3.3): w = sat16(u - alpha).
void slope_input(const Block& block, Shape shape, const int16_t* z, const int16_t* x, int16_t* w) {
  const int64_t size = shape.size();
  for (int64_t i = 0; i < size; ++i) {
    const auto c = static_cast<size_t>(i % shape.channels);
    const int64_t centred = (block.relu ? std::max<int>(z[i], 0) : z[i]) - block.mean[c];
    const int16_t v = sat16(round_shift(centred * block.multiplier[c] + block.bias[c], block.shift));
    w[i] = sat16(sat16(x[i] + v) - block.alpha[c]);
  }
}

}  // namespace

// Sizes of everything that a trainer allocates.
struct TailTrainer::Plan {
  Batch batch;
  size_t blocks, streams, features;
  bool activation;
  int64_t kernel_scratch;

  Plan(const Network& network, const Tail& tail, int max_rows, int threads)
      : batch{max_rows, network.cut_shape().height, network.cut_shape().width, network.cut_shape().channels},
        blocks(tail.blocks().size()),
        streams(1),
        features(static_cast<size_t>(max_rows) * network.feature_count()),
        activation(false) {
    for (const TailBlock& block : tail.blocks()) {
      if (block.keeps_stream()) streams = blocks + 1;
      activation |= !block.forward.alpha.empty();
    }
    const int bits = tail.settings().gradient_bits;
    kernel_scratch = std::max(step_weights_scratch(batch, bits, threads), input_gradient_scratch(batch, bits, threads));
  }
  size_t size() const { return static_cast<size_t>(batch.size()); }
  size_t packed() const { return blocks * static_cast<size_t>(batch.pixels()) * batch.words(); }
  size_t sums() const { return 8 * static_cast<size_t>(batch.channels); }
  size_t whitening() const { return static_cast<size_t>(batch.channels) * batch.channels; }
  int64_t bytes() const {
    const size_t open = streams == 1 ? packed() : 0;
    return static_cast<int64_t>(2 * (streams * size() + size() + (activation ? size() : 0) + features + whitening()) + 4 * size() +
                                8 * (packed() + open + features + sums())) +
           kernel_scratch;
  }
};

TailTrainer::TailTrainer(const Network& network, Tail& tail, int max_rows, Workers& workers)
    : network_(network), tail_(tail), workers_(workers) {
  const Plan plan(network, tail, max_rows, workers.count());
  batch_ = plan.batch;
  max_rows_ = max_rows;
  keep_streams_ = plan.streams > 1;
  scratch_.reserve(static_cast<size_t>(workers.count()));
  for (int i = 0; i < workers.count(); ++i) scratch_.push_back(network.make_scratch());
  streams_ = Buffer<int16_t>(plan.streams * plan.size());
  bits_ = Buffer<uint64_t>(plan.packed());
  open_ = Buffer<uint64_t>(keep_streams_ ? 0 : plan.packed());
  z_ = Buffer<int16_t>(plan.size());
  w_ = Buffer<int16_t>(plan.activation ? plan.size() : 0);
  da_ = Buffer<int32_t>(plan.size());
  wide_ = Buffer<int64_t>(plan.features);
  narrow_ = Buffer<int16_t>(plan.features);
  sums_ = Buffer<int64_t>(plan.sums());
  kernel_scratch_ = Buffer<uint8_t>(static_cast<size_t>(plan.kernel_scratch));
  // Whitening transposed: the gradient of a pooled feature is a dot product with a column.
  const size_t width = static_cast<size_t>(batch_.channels);
  whitening_ = Buffer<int16_t>(plan.whitening());
  for (size_t i = 0; i < width; ++i) {
    for (size_t j = 0; j < width; ++j) whitening_[j * width + i] = network.whitening()[i * width + j];
  }
}

int64_t TailTrainer::bytes(const Network& network, const Tail& tail, int max_rows, int threads) {
  return Plan(network, tail, max_rows, threads).bytes() + threads * network.scratch_bytes();
}

int16_t* TailTrainer::stream(size_t l) {
  return streams_.data() + (keep_streams_ ? l : 0) * static_cast<size_t>(max_rows_) * network_.cut_shape().size();
}

uint64_t* TailTrainer::packed(Buffer<uint64_t>& buffer, size_t l) {
  return buffer.data() + l * static_cast<size_t>(max_rows_) * network_.cut_shape().height * network_.cut_shape().width * batch_.words();
}

void TailTrainer::forward(std::span<const uint64_t* const> rows, int8_t* features) {
  const Shape shape = network_.cut_shape();
  const size_t size = static_cast<size_t>(shape.size());
  const size_t row_words = network_.latent_words();
  batch_.rows = static_cast<int>(rows.size());
  const size_t parts = static_cast<size_t>(workers_.count());
  workers_.run(workers_.count(), [&](int part) {
    Scratch& scratch = scratch_[static_cast<size_t>(part)];
    for (size_t row = static_cast<size_t>(part); row < rows.size(); row += parts) {
      tail_.enter(network_, rows[row], stream(0) + row * size, scratch);
      for (size_t l = 0; l < tail_.blocks_.size(); ++l) {
        const TailBlock& block = tail_.blocks_[l];
        int16_t* x = stream(l) + row * size;
        uint64_t* bits = packed(bits_, l) + row * row_words;
        int16_t* z = z_.data() + row * size;
        block_bits(block.forward, shape, x, bits);
        if (keep_streams_) {
          std::copy_n(x, size, stream(l + 1) + row * size);
          x = stream(l + 1) + row * size;
        } else {
          pack_open(x, shape, block.traits.clip, packed(open_, l) + row * row_words);
        }
        block_dots(block.forward, shape, bits, z);
        block_apply(block.forward, shape, z, x);
        tail_.round_stream(x, static_cast<int64_t>(size));
      }
      tail_.leave(network_, stream(tail_.blocks_.size()) + row * size, features + row * network_.feature_count(), scratch);
    }
  });
}

void TailTrainer::features(const Tail& tail, std::span<const uint64_t* const> rows, int8_t* features) {
  const size_t parts = static_cast<size_t>(workers_.count());
  workers_.run(workers_.count(), [&](int part) {
    for (size_t row = static_cast<size_t>(part); row < rows.size(); row += parts) {
      tail.features(network_, rows[row], features + row * network_.feature_count(), scratch_[static_cast<size_t>(part)]);
    }
  });
}

Rounding TailTrainer::rounding(const TailStep& at, uint64_t tensor) const {
  const int bits = tail_.settings_.gradient_bits;
  return {bits, bits <= kStochasticBits ? draw(at.seed, Purpose::gradient_rounding, at.experience << 32 | at.step, tensor) : 0};
}

void TailTrainer::head_backward(std::span<const int16_t> gradient, std::span<const int16_t> weight, const int8_t* features,
                                const TailStep& at) {
  const size_t rows = static_cast<size_t>(batch_.rows);
  const size_t width = static_cast<size_t>(batch_.channels);
  const size_t classes = gradient.size() / rows;
  const std::span<int64_t> wide{wide_.data(), rows * width};
  head_input_gradient({batch_.rows, batch_.channels, static_cast<int>(classes)}, gradient.data(), weight.data(), wide.data());
  requantise(wide, rounding(at, kFeatureGradient), narrow_.data(), workers_);
  const std::span<const int32_t> scale = network_.whitening_multiplier();
  for (size_t i = 0; i < wide.size(); ++i) wide[i] = std::abs(int{features[i]}) == 127 ? 0 : int64_t{narrow_[i]} * scale[i % width];
  requantise(wide, rounding(at, kWhitened), narrow_.data(), workers_);
  const Kernels& kernel = kernels();
  for (size_t b = 0; b < rows; ++b) {
    for (size_t j = 0; j < width; ++j) {
      int64_t sum = 0;
      for (size_t i = 0; i < width; i += kExactLength) {
        sum += kernel.dot_i16(narrow_.data() + b * width + i, whitening_.data() + j * width + i,
                              static_cast<int>(std::min(kExactLength, width - i)));
      }
      wide[b * width + j] = sum;
    }
  }
  requantise(wide, rounding(at, kPooled), narrow_.data(), workers_);
  const std::span<const int32_t> pool = network_.pool_multiplier();
  for (size_t i = 0; i < wide.size(); ++i) wide[i] = int64_t{narrow_[i]} * pool[i % width];
  requantise(wide, rounding(at, kStreamEnd), narrow_.data(), workers_);
  int16_t* g = stream(tail_.blocks_.size());
  const size_t pixels = static_cast<size_t>(batch_.height) * batch_.width;
  for (size_t b = 0; b < rows; ++b) {
    for (size_t p = 0; p < pixels; ++p, g += width) {
      for (size_t j = 0; j < width; ++j) g[j] = !network_.pool_relu() || g[j] > 0 ? narrow_[b * width + j] : int16_t{0};
    }
  }
}

void TailTrainer::block_backward(size_t l, const TailStep& at) {
  TailBlock& block = tail_.blocks_[l];
  const Settings& settings = tail_.settings_;
  const Block& forward = block.forward;
  const Shape shape = network_.cut_shape();
  const size_t size = static_cast<size_t>(shape.size());
  const size_t width = static_cast<size_t>(shape.channels);
  const size_t index = network_.tail().size() - tail_.blocks_.size() + l;  // counted from the tail's first
  const uint64_t tensors = 8 * (index + 1);
  const uint64_t* bits = packed(bits_, l);
  const bool has_threshold = !forward.threshold.empty();
  int16_t* g = stream(tail_.blocks_.size());
  std::fill(sums_.begin(), sums_.end(), 0);
  const auto sums = [&](size_t i) { return std::span(sums_.data() + i * width, width); };
  enum Sums : size_t { kMultiplier, kBias, kThreshold, kAlpha, kBeta, kHigh, kLow };

  const size_t parts = static_cast<size_t>(workers_.count());
  workers_.run(workers_.count(), [&](int part) {
    for (size_t row = static_cast<size_t>(part); row < static_cast<size_t>(batch_.rows); row += parts) {
      block_dots(forward, shape, bits + row * network_.latent_words(), z_.data() + row * size);
      if (!forward.alpha.empty()) {
        slope_input(forward, shape, z_.data() + row * size, stream(l) + row * size, w_.data() + row * size);
      }
    }
  });
  if (!forward.alpha.empty()) {
    activation_gradient(batch_, g, w_.data(), forward.high.data(), forward.low.data(), rounding(at, tensors + kSum), g,
                        sums(kHigh).data(), sums(kLow).data(), sums(kAlpha).data(), sums(kBeta).data(), workers_);
  }
  const int shift = norm_gradient(batch_, g, z_.data(), forward.mean.data(), forward.multiplier.data(), forward.relu,
                                  rounding(at, tensors + kDots), z_.data(), sums(kMultiplier).data(), sums(kBias).data(), workers_);
  const bool need_input = l > 0 || has_threshold;
  if (need_input) {
    input_gradient(batch_, settings.gradient_bits, z_.data(), block.bits.data(), da_.data(), kernel_scratch_.data(), workers_);
  }
  const Step step{settings.weight_bits, settings.weight_step, at.decay, at.seed, at.experience << 32 | at.step, index};
  step_weights(batch_, settings.gradient_bits, z_.data(), bits, step,
               settings.weight_bits == 16 ? static_cast<void*>(block.shadow16.data()) : block.shadow8.data(), block.bits.data(),
               kernel_scratch_.data(), workers_);
  if (need_input) {
    const TailTraits& traits = block.traits;
    const Gate gate{traits.approx, traits.clip, traits.exponent, has_threshold ? forward.threshold.data() : nullptr,
                    keep_streams_ ? nullptr : packed(open_, l)};
    stream_gradient(batch_, g, da_.data(), keep_streams_ ? stream(l) : nullptr, gate,
                    std::clamp(forward.shift + traits.exponent - shift, -30, 46), rounding(at, tensors + kInput), g,
                    has_threshold ? sums(kThreshold).data() : nullptr, workers_);
  }
  if (settings.parameter_step > 0) {
    const int exponent = settings.parameter_step;
    const int offset = std::min(block.traits.exponent + kOffsetBits, kMaxOffsetRange);
    const auto move = [&](Buffer<int32_t>& master, Sums which, int range, int32_t limit) {
      if (!master.empty()) step_parameters(sums(which), range, exponent, at.decay, limit, master.data());
    };
    move(block.multiplier, kMultiplier, kMultiplierRange, INT32_MAX);
    move(block.bias, kBias, std::min(block.traits.exponent + forward.shift, kMaxBiasRange), kMaxBias);
    move(block.threshold, kThreshold, offset, kMaxOffset);
    move(block.alpha, kAlpha, offset, kMaxOffset);
    move(block.beta, kBeta, offset, kMaxOffset);
    if (block.traits.train_high) move(block.high, kHigh, kSlopeRange, INT32_MAX);
    move(block.low, kLow, kSlopeRange, INT32_MAX);
  }
  block.refresh();
}

void TailTrainer::step(std::span<const int16_t> gradient, std::span<const int16_t> weight, const int8_t* features, const TailStep& at) {
  head_backward(gradient, weight, features, at);
  for (size_t l = tail_.blocks_.size(); l-- > 0;) block_backward(l, at);
}

}  // namespace bitreplay
