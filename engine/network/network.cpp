#include "network.h"

#include <algorithm>
#include <cstdlib>

#include "bits.h"
#include "error.h"
#include "fixed_point.h"
#include "kernels/kernels.h"

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

// The beginnings of messages: "conv weight" is {"conv", " weight"}.
void require_range(int value, int low, int high, const char* what, const char* of = "") {
  require(value >= low && value <= high, "{}{}: expected {} to {}, got {}", {what, of, low, high, value});
}

template <class T>
void require_count(std::span<const T> values, int64_t count, const char* what, const char* of = "") {
  require(static_cast<int64_t>(values.size()) == count, "{}{}: expected {} values, got {}", {what, of, count, values.size()});
}

template <class T>
Buffer<T> copy(std::span<const T> values) {
  return Buffer<T>(values.begin(), values.end());
}

Affine make_affine(int channels, int shift, std::span<const int16_t> multiplier, std::span<const int64_t> bias, const char* what = "") {
  require_range(shift, 0, kMaxShift, what, "shift");
  require_count(multiplier, channels, what, "multiplier");
  require_count(bias, channels, what, "bias");
  require(std::ranges::all_of(bias, [](int64_t b) { return b > -kMaxBias && b < kMaxBias; }), "{}bias: expected magnitudes below 2^61", {what});
  return {copy(multiplier), copy(bias), shift};
}

// Whether a first convolution takes the image as it comes.
bool reads_image(const Conv& conv) { return conv.kernel == 3 && !conv.depthwise; }

// Every sum of |weight| * 32768 must fit int32.
void require_sum(std::span<const int8_t> weight, int64_t rows, int64_t length) {
  for (int64_t r = 0; r < rows; ++r) {
    int64_t sum = 0;
    for (int64_t i = 0; i < length; ++i) sum += std::abs(int{weight[r * length + i]});
    require(sum * 32768 < (int64_t{1} << 31), "weight: a channel's magnitudes sum to 65536 or more; 32-bit sums would overflow");
  }
}

void require_unused_bits(std::span<const uint64_t> weight, int channels, const char* what, const char* of) {
  const size_t words = static_cast<size_t>(words_for(channels));
  uint64_t unused = 0;
  for (size_t i = words - 1; i < weight.size(); i += words) unused |= weight[i] & ~last_word_mask(channels);
  require(unused == 0, "{}{}: unused bits must be 0", {what, of});
}

// A block, or what a down has of one, of checked values; its weight is checked and not yet set.
Block make_block(const char* what, int in, int out, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                 std::span<const int16_t> multiplier, std::span<const int32_t> bias, const BlockOptions& options) {
  require_range(in, 1, kMaxBlockChannels, what, " channels");
  require_range(out, 1, kMaxBlockChannels, what, " channels");
  require_range(shift, 0, kMaxBlockShift, "shift");
  const auto count = [&]<class T>(std::span<const T> values, int64_t expected, const char* name) {
    require_count(values, expected, what, name);
  };
  count(weight, int64_t{out} * kTaps * words_for(in), " weight");
  count(mean, out, " mean");
  count(multiplier, out, " multiplier");
  count(bias, out, " bias");
  require(std::ranges::all_of(mean, [&](int m) { return std::abs(m) <= kTaps * in; }),
          "{} mean: expected magnitudes up to {}, 9 * input channels", {what, kTaps * in});
  require(std::ranges::all_of(bias, [](int32_t b) { return b >= -kMaxBlockBias && b <= kMaxBlockBias; }),
          "{} bias: expected magnitudes up to 2^29", {what});
  require_unused_bits(weight, in, what, " weight");
  const bool activation = !options.alpha.empty();
  count(options.threshold, options.threshold.empty() ? 0 : in, " threshold");
  count(options.alpha, activation ? out : 0, " alpha");
  count(options.beta, activation ? out : 0, " beta");
  count(options.high, activation ? out : 0, " high");
  count(options.low, activation ? out : 0, " low");
  return {out, shift, options.relu, {}, copy(mean), copy(multiplier), copy(bias), copy(options.threshold), copy(options.alpha),
          copy(options.beta), copy(options.high), copy(options.low)};
}

}  // namespace

Network::Network(int image_size) : image_size_(image_size), shape_{image_size, image_size, 3} {
  require_range(image_size, 1, kMaxImageSize, "image_size");
  reserve(shape_);
}

void Network::expect(size_t prefix, size_t tail) {
  prefix_.reserve(prefix);
  tail_.reserve(tail);
}

void Network::reserve(Shape shape) {
  require(!complete_, "network: it is complete; nothing can be added");
  require(shape.height >= 1 && shape.width >= 1, "network: the map has shrunk to nothing");
  require(shape.size() <= kMaxActivation, "network: an activation has more than 2^26 values");
  require(prefix_.size() + tail_.size() < kMaxOperations, "network: more than 256 operations");
  shape_ = shape;
}

void Network::add_conv(int in, int out, int kernel, int stride, bool depthwise, bool relu, int shift,
                       std::span<const int8_t> weight, std::span<const int16_t> multiplier, std::span<const int64_t> bias) {
  require(!has_cut_, "conv: only blocks may follow the cut");
  require(in == shape_.channels, "conv: expected {} input channels, got {}", {shape_.channels, in});
  require_range(out, 1, kMaxChannels, "conv channels");
  require(kernel == 1 || kernel == 3, "conv: expected kernel 1 or 3, got {}", {kernel});
  require_range(stride, 1, 2, "conv stride");
  require(!depthwise || in == out, "conv: a depth-wise one keeps its channels");
  const int64_t length = int64_t{kernel} * kernel * (depthwise ? 1 : in);
  require_count(weight, out * length, "conv weight");
  require_sum(weight, out, length);
  Conv conv{in, out, kernel, stride, depthwise, relu, {}, make_affine(out, shift, multiplier, bias)};
  conv.weight = conv_weight(conv, weight);
  const Shape from = shape_;
  reserve(conv_shape(conv, from));
  plan_.add(conv, from, prefix_.empty() && reads_image(conv));
  prefix_.emplace_back(std::move(conv));
}

void Network::add_block(int channels, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                        std::span<const int16_t> multiplier, std::span<const int32_t> bias, const BlockOptions& options) {
  require(channels == shape_.channels,
          "block: expected {} channels, got {}", {shape_.channels, channels});
  Block block = make_block("block", channels, channels, shift, weight, mean, multiplier, bias, options);
  set_block_weight(block, weight);
  reserve(shape_);
  plan_.add(block, shape_);
  if (has_cut_) {
    tail_.push_back(std::move(block));
  } else {
    prefix_.emplace_back(std::move(block));
  }
}

void Network::add_pool() {
  require(!has_cut_, "pool: only blocks may follow the cut");
  require(shape_.height % 2 == 0 && shape_.width % 2 == 0, "pool: expected an even map");
  const Pool pool{shape_.channels};
  plan_.add(pool, shape_);
  reserve(pool_shape(shape_));
  prefix_.emplace_back(pool);
}

void Network::add_down(int in, int out, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                       std::span<const int16_t> multiplier, std::span<const int32_t> bias, const Shortcut& shortcut,
                       const BlockOptions& options) {
  require(!has_cut_, "down: only blocks may follow the cut");
  require(in == shape_.channels, "down: expected {} input channels, got {}", {shape_.channels, in});
  require(shape_.height % 2 == 0 && shape_.width % 2 == 0, "down: expected an even map");
  Down down{in, out, make_block("down", in, out, shift, weight, mean, multiplier, bias, options), {}};
  require_count(shortcut.weight, int64_t{out} * words_for(in), "down shortcut_weight");
  require_unused_bits(shortcut.weight, in, "down", " shortcut_weight");
  // No sum of the shortcut passes 1024 * 32768 = 2^25.
  down.shortcut = {in, out, 1, 1, false, false, {}, make_affine(out, shortcut.shift, shortcut.multiplier, shortcut.bias, "shortcut_")};
  set_down_weight(down, weight, shortcut.weight);
  const Shape from = shape_;
  reserve(down_shape(down, from));
  plan_.add(down, from);
  prefix_.emplace_back(std::move(down));
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
  // x < t is x + (-t) < 0; -t of t = -32768, which nothing is below, does not fit int16: the opposite of t = 32768 stands for it.
  threshold_ = Buffer<int16_t>(threshold.size());
  direction_ = Buffer<uint64_t>(words_for(shape_.channels), 0);
  for (size_t c = 0; c < threshold.size(); ++c) {
    const bool never = threshold[c] == INT16_MIN;
    threshold_[c] = static_cast<int16_t>(never ? INT16_MIN : -threshold[c]);
    direction_[c / kWordBits] |= static_cast<uint64_t>(never != (direction[c] != 0)) << (c % kWordBits);
  }
  alpha_ = copy(alpha);
  cut_shape_ = shape_;
  latent_words_ = static_cast<size_t>(shape_.height) * shape_.width * words_for(shape_.channels);
  plan_.add_map(shape_);
  has_cut_ = true;
}

void Network::set_features(int pool_shift, int shift, int feature_bits, std::span<const int32_t> pool_multiplier,
                           std::span<const int8_t> weight, std::span<const int16_t> multiplier, std::span<const int64_t> bias, bool relu) {
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
  pool_relu_ = relu;
  plan_.add_features(channels);
  complete_ = true;
}

int64_t Network::bytes(Layout layout) const {
  int64_t total = bytes_of(threshold_) + bytes_of(direction_) + bytes_of(alpha_) + bytes_of(pool_multiplier_) + bytes_of(whitening_) +
                  bytes_of(whitening_affine_.multiplier) + bytes_of(whitening_affine_.bias);
  for (const Operation& operation : prefix_) {
    if (const auto* conv = std::get_if<Conv>(&operation)) {
      total += bytes_of(*conv);
    } else if (const auto* block = std::get_if<Block>(&operation)) {
      total += bytes_of(*block, block->channels, layout);
    } else if (const auto* down = std::get_if<Down>(&operation)) {
      total += bytes_of(down->block, down->in, layout) + bytes_of(down->shortcut);
    }
  }
  for (const Block& block : tail_) total += bytes_of(block, block.channels, layout);
  return total;
}

void Network::latent(const uint8_t* image, uint64_t* row, Scratch& scratch, Workers* workers) const {
  Shape shape{image_size_, image_size_, 3};
  int16_t* x = scratch.stream();
  auto operation = prefix_.begin();
  const Conv* first = prefix_.empty() ? nullptr : std::get_if<Conv>(&*operation);
  if (first != nullptr && reads_image(*first)) {
    conv_forward(*first, shape, image, x, scratch, workers);
    shape = conv_shape(*first, shape);
    ++operation;
  } else {
    for (int64_t i = 0; i < shape.size(); ++i) x[i] = static_cast<int16_t>(2 * image[i] - 255);
  }
  for (; operation != prefix_.end(); ++operation) {
    if (const auto* block = std::get_if<Block>(&*operation)) {
      block_forward(*block, shape, x, scratch, workers);
      continue;
    }
    if (const auto* down = std::get_if<Down>(&*operation)) {
      x = down_forward(*down, shape, x, scratch, workers);
      shape = down_shape(*down, shape);
      continue;
    }
    const auto* conv = std::get_if<Conv>(&*operation);
    const Shape result = conv != nullptr ? conv_shape(*conv, shape) : pool_shape(shape);
    int16_t* y = scratch.opposite(x, result);
    if (conv != nullptr) {
      conv_forward(*conv, shape, x, y, scratch, workers);
    } else {
      pool_forward(shape, x, y, scratch.parts(), workers);
    }
    x = y;
    shape = result;
  }
  kernels().sign_bits(x, threshold_.data(), shape.pixels(), shape.channels, row);
  for (size_t w = 0; w < latent_words_; ++w) row[w] ^= direction_[w % direction_.size()];
}

void Network::features(const uint64_t* row, int8_t* features, Scratch& scratch, Workers* workers) const {
  int16_t* x = tail_stream(scratch);
  expand(row, x);
  for (const Block& block : tail_) block_forward(block, cut_shape_, x, scratch, workers);
  pool_features(x, features, scratch);
}

int16_t* Network::tail_stream(Scratch& scratch) const { return scratch.stream(); }

void Network::expand(const uint64_t* row, int16_t* x) const {
  kernels().expand_bits(row, alpha_.data(), cut_shape_.pixels(), cut_shape_.channels, x);
}

void Network::pool_features(const int16_t* x, int8_t* features, Scratch& scratch) const {
  const int channels = cut_shape_.channels;
  const Kernels& kernel = kernels();
  int16_t* pooled = scratch.rows(0);
  auto* sums = reinterpret_cast<int32_t*>(pooled + channels + channels % 2);
  kernel.channel_sums(x, cut_shape_.pixels(), channels, pool_relu_, sums);
  for (int c = 0; c < channels; ++c) pooled[c] = sat16(round_shift(int64_t{sums[c]} * pool_multiplier_[c], pool_shift_));
  for (int c = 0; c < channels; ++c) {
    const int32_t sum = kernel.dot_i16(pooled, whitening_.data() + static_cast<size_t>(c) * channels, channels);
    features[c] = static_cast<int8_t>(std::clamp<int>(apply(whitening_affine_, c, sum), -127, 127));
  }
}

}  // namespace bitreplay
