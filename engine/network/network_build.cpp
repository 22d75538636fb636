// Building a network: every operation is checked as it comes.
#include <algorithm>
#include <cstdlib>

#include "bits.h"
#include "error.h"
#include "fixed_point.h"
#include "kernels/kernels.h"
#include "network.h"

namespace bitreplay {
namespace {

constexpr int kMaxImageSize = 1024;
constexpr int kMaxBlockChannels = 1024;  // 9 * channels and every sum below stay inside int16
constexpr int kMaxShift = 46;
constexpr int kMaxBlockShift = 30;
constexpr int32_t kMaxMultiplier = 1 << 30;
constexpr int64_t kMaxBias = int64_t{1} << 61;
constexpr int32_t kMaxBlockBias = 1 << 29;
constexpr int64_t kMaxActivation = int64_t{1} << 26;
constexpr size_t kMaxTailBlocks = 256;

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

template <class W>
Affine make_affine(int channels, int shift, std::span<const W> multiplier, std::span<const int64_t> bias, const char* what = "") {
  require_range(shift, 0, kMaxShift, what, "shift");
  require_count(multiplier, channels, what, "multiplier");
  require_count(bias, channels, what, "bias");
  require(std::ranges::all_of(bias, [](int64_t b) { return b > -kMaxBias && b < kMaxBias; }), "{}bias: expected magnitudes below 2^61", {what});
  require(std::ranges::all_of(multiplier, [](int32_t m) { return m >= -kMaxMultiplier && m <= kMaxMultiplier; }), "{}multiplier: expected magnitudes up to 2^30", {what});
  return {Buffer<int32_t>(multiplier.begin(), multiplier.end()), copy(bias), shift};
}

// Every sum of |weight| * 32768 must fit int32.
template <class T>
void require_sum(std::span<const T> weight, int64_t rows, int64_t length) {
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

void require_window(const char* what, const Window& window, int kernel, int stride) {
  require_range(window.kernel, 1, kernel, what, " kernel");
  require_range(window.stride, 1, stride, what, " stride");
  if (window.pad.top < 0) return;
  for (const int side : {window.pad.top, window.pad.left, window.pad.bottom, window.pad.right}) {
    require_range(side, 0, window.kernel - 1, what, " pad");
  }
}

// A block, or what a down or a binary convolution has of one, of checked values; its weight is checked and not yet set.  in: channels that a value sees.
Block make_block(const char* what, int taps, int in, int inputs, int out, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                 std::span<const int16_t> multiplier, std::span<const int32_t> bias, const BlockOptions& options) {
  require_range(in, 1, kMaxBlockChannels, what, " channels");
  require_range(out, 1, kMaxBlockChannels, what, " channels");
  require_range(shift, 0, kMaxBlockShift, "shift");
  const auto count = [&]<class T>(std::span<const T> values, int64_t expected, const char* name) {
    require_count(values, expected, what, name);
  };
  count(weight, int64_t{out} * taps * words_for(in), " weight");
  count(mean, out, " mean");
  count(multiplier, out, " multiplier");
  count(bias, out, " bias");
  require(std::ranges::all_of(mean, [&](int m) { return std::abs(m) <= taps * in; }),
          "{} mean: expected magnitudes up to {}, {} * input channels", {what, taps * in, taps});
  require(std::ranges::all_of(bias, [](int32_t b) { return b >= -kMaxBlockBias && b <= kMaxBlockBias; }),
          "{} bias: expected magnitudes up to 2^29", {what});
  require_unused_bits(weight, in, what, " weight");
  const bool activation = !options.alpha.empty();
  count(options.threshold, options.threshold.empty() ? 0 : inputs, " threshold");
  count(options.alpha, activation ? out : 0, " alpha");
  count(options.beta, activation ? out : 0, " beta");
  count(options.high, activation ? out : 0, " high");
  count(options.low, activation ? out : 0, " low");
  return {out, shift, options.relu, {}, copy(mean), copy(multiplier), copy(bias), copy(options.threshold), copy(options.alpha),
          copy(options.beta), copy(options.high), copy(options.low), {}};
}

}  // namespace

Network::Network(int image_size) : image_size_(image_size), shape_{image_size, image_size, 3} {
  require_range(image_size, 1, kMaxImageSize, "image_size");
  limit(shape_);
}

void Network::expect(size_t prefix, size_t tail) {
  prefix_.reserve(prefix);
  pieces_.reserve(pieces_of(prefix));
  tail_.reserve(tail);
}

void Network::limit(Shape shape) const {
  require(!complete_, "network: it is complete; nothing can be added");
  require(shape.height >= 1 && shape.width >= 1, "network: the map has shrunk to nothing");
  require(shape.size() <= kMaxActivation, "network: an activation has more than 2^26 values");
}

Shape Network::begin(const char* what, int inputs) {
  require(!has_cut_, "{}: only blocks may follow the cut", {what});
  require(prefix_.size() < kMaxOperations, "network: more than {} operations", {kMaxOperations});
  const int values = static_cast<int>(prefix_.size()) + 1;
  if (next_.count == 0) next_ = {1, {values - 1}};
  require(inputs > 0 ? next_.count == inputs : next_.count >= 2 && next_.count <= kMaxInputs, "{}: expected {} values to read, got {}",
          {what, inputs > 0 ? inputs : 2, next_.count});
  for (int i = 0; i < next_.count; ++i) require_range(next_.values[i], 0, values - 1, what, " from");
  return shape_of(next_.values[0]);
}

void Network::add(Operation&& operation, Shape out) {
  limit(out);
  const Shape in = shape_of(next_.values[0]);
  plan_.add_work(operation, in);
  prefix_.push_back({std::move(operation), next_, in, out});
  shape_ = out;
  next_ = {};
}

template <class T, class W>
void Network::add_conv(const Window& window, int in, int out, int groups, bool depthwise, bool relu, int shift,
                       std::span<const T> weight, std::span<const W> multiplier, std::span<const int64_t> bias) {
  const Shape from = begin("conv", 1);
  require(in == from.channels, "conv: expected {} input channels, got {}", {from.channels, in});
  require_range(out, 1, kMostChannels, "conv channels");
  require_window("conv", window, depthwise ? 3 : 7, depthwise ? 2 : 4);
  require(!depthwise || (in == out && window.kernel != 2 && groups == 1), "conv: a depth-wise one keeps its channels, has kernel 1 or 3 and no groups");
  require(groups >= 1 && in % groups == 0 && out % groups == 0, "conv: expected groups that divide {} and {} channels, got {}", {in, out, groups});
  const int64_t length = int64_t{window.kernel} * window.kernel * (depthwise ? 1 : in / groups);
  require_count(weight, out * length, "conv weight");
  require_sum(weight, out, length);
  const int merged = depthwise ? 1 : merged_groups(out, groups);
  Conv conv{in, out, window.kernel, window.stride, depthwise, relu, {}, make_affine(out, shift, multiplier, bias), groups / merged, window.pad};
  const size_t sees = static_cast<size_t>(depthwise ? 1 : in / groups), wide = sees * static_cast<size_t>(merged);
  const size_t taps = static_cast<size_t>(window.kernel * window.kernel), outputs = static_cast<size_t>(out / groups);
  conv.weight = conv_weight(conv, [&](size_t i) -> int16_t {  // (out, taps, wide), of which an output sees a part
    const size_t channel = i / wide / taps, input = i % wide;
    if (input / sees != channel / outputs % static_cast<size_t>(merged)) return 0;
    return weight[i / wide * sees + input % sees];
  });
  const Shape shape = conv_shape(conv, from);
  add(std::move(conv), shape);
}

template void Network::add_conv(const Window&, int, int, int, bool, bool, int, std::span<const int8_t>, std::span<const int16_t>,
                                std::span<const int64_t>);
template void Network::add_conv(const Window&, int, int, int, bool, bool, int, std::span<const int16_t>, std::span<const int32_t>,
                                std::span<const int64_t>);

void Network::add_block(int channels, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                        std::span<const int16_t> multiplier, std::span<const int32_t> bias, const BlockOptions& options) {
  const Shape from = has_cut_ ? shape_ : begin("block", 1);
  require(channels == from.channels, "block: expected {} channels, got {}", {from.channels, channels});
  require(!has_cut_ || tail_.size() < kMaxTailBlocks, "network: more than 256 blocks behind the cut");
  require(!has_cut_ || !options.zero_pad, "block: expected a pad of +1 behind the cut");
  Block block = make_block("block", kTaps, channels, channels, channels, shift, weight, mean, multiplier, bias, options);
  set_block_weight(block, weight, options.zero_pad);
  if (!has_cut_) return add(std::move(block), from);
  limit(from);
  plan_.add(block, from);
  tail_.push_back(std::move(block));
}

void Network::add_pool() {
  const Shape from = begin("pool", 1);
  require(from.height % 2 == 0 && from.width % 2 == 0, "pool: expected an even map");
  add(Pool{from.channels}, pool_shape(from));
}

void Network::add_down(int in, int out, int shift, std::span<const uint64_t> weight, std::span<const int16_t> mean,
                       std::span<const int16_t> multiplier, std::span<const int32_t> bias, const Shortcut& shortcut,
                       const BlockOptions& options) {
  const Shape from = begin("down", 1);
  require(in == from.channels, "down: expected {} input channels, got {}", {from.channels, in});
  require(from.height % 2 == 0 && from.width % 2 == 0, "down: expected an even map");
  require(!options.zero_pad, "down: expected a pad of +1");
  Down down{in, out, make_block("down", kTaps, in, in, out, shift, weight, mean, multiplier, bias, options), {}};
  require_count(shortcut.weight, int64_t{out} * words_for(in), "down shortcut_weight");
  require_unused_bits(shortcut.weight, in, "down", " shortcut_weight");
  // No sum of the shortcut passes 1024 * 32768 = 2^25.
  down.shortcut = {in, out, 1, 1, false, false, {}, make_affine(out, shortcut.shift, shortcut.multiplier, shortcut.bias, "shortcut_"), 1, {}};
  set_down_weight(down, weight, shortcut.weight);
  const Shape shape = down_shape(down, from);
  add(std::move(down), shape);
}

void Network::add_binary(const Window& window, int in, int out, int groups, int shift, std::span<const uint64_t> weight,
                         std::span<const int16_t> mean, std::span<const int16_t> multiplier, std::span<const int32_t> bias,
                         const BlockOptions& options) {
  const Shape from = begin("binary", 1);
  require(in == from.channels, "binary: expected {} input channels, got {}", {from.channels, in});
  require_window("binary", window, 3, 2);
  require(window.kernel != 2, "binary: expected kernel 1 or 3, got 2");
  require(groups >= 1 && in % groups == 0 && out % groups == 0 && (groups == 1 || in / groups % kWordBits == 0),
          "binary: expected groups that divide {} and {} channels, each of a multiple of 64, got {}", {in, out, groups});
  require(options.alpha.empty(), "binary: expected no activation");
  Binary binary{in, groups, window,
                make_block("binary", window.kernel * window.kernel, in / groups, in, out, shift, weight, mean, multiplier, bias, options)};
  set_weight(binary, weight, options.zero_pad);
  const Shape shape = window.over(from, out);
  add(std::move(binary), shape);
}

template <class W>
void Network::add_scale(int channels, bool relu, int shift, std::span<const W> multiplier, std::span<const int64_t> bias) {
  const Shape from = begin("affine", 1);
  require(channels == from.channels, "affine: expected {} channels, got {}", {from.channels, channels});
  add(Scale{channels, relu, make_affine(channels, shift, multiplier, bias)}, from);
}

template void Network::add_scale(int, bool, int, std::span<const int16_t>, std::span<const int64_t>);
template void Network::add_scale(int, bool, int, std::span<const int32_t>, std::span<const int64_t>);

void Network::add_activate(int channels, const BlockOptions& options) {
  const Shape from = begin("activate", 1);
  require(channels == from.channels, "activate: expected {} channels, got {}", {from.channels, channels});
  for (const auto values : {options.alpha, options.beta, options.high, options.low}) require_count(values, channels, "activate");
  const auto width = static_cast<size_t>(channels);
  Block block{channels, 0, false, {}, Buffer<int16_t>(width, 0), Buffer<int16_t>(width, 0), Buffer<int32_t>(width, 0), {}, copy(options.alpha),
              copy(options.beta), copy(options.high), copy(options.low), {}};
  add(Activate{std::move(block)}, from);
}

void Network::add_add(int first, int second, int shift, bool relu) {
  const Shape from = begin("add", 2), other = shape_of(next_.values[1]);
  require(from.height == other.height && from.width == other.width && from.channels == other.channels, "add: expected two values of one shape");
  require_range(first, INT16_MIN, INT16_MAX, "add multipliers");
  require_range(second, INT16_MIN, INT16_MAX, "add multipliers");
  require_range(shift, 0, kMaxBlockShift, "add shift");
  add(Add{from.channels, shift, {static_cast<int16_t>(first), static_cast<int16_t>(second)}, relu}, from);
}

void Network::add_concat() {
  Shape out = begin("concat", 0);
  for (int i = 1; i < next_.count; ++i) {
    const Shape other = shape_of(next_.values[i]);
    require(out.height == other.height && out.width == other.width, "concat: expected maps of one size");
    out.channels += other.channels;
  }
  require_range(out.channels, 1, kMostChannels, "concat channels");
  add(Concat{out.channels}, out);
}

void Network::add_gate() {
  const Shape from = begin("gate", 2), gates = shape_of(next_.values[1]);
  require(gates.height == 1 && gates.width == 1 && gates.channels == from.channels, "gate: expected a second value of 1 x 1 and as many channels");
  add(ChannelGate{from.channels}, from);
}

void Network::add_max_pool(const Window& window, bool relu) {
  const Shape from = begin("max_pool", 1);
  require_window("max_pool", window, 7, 4);
  add(MaxPool{from.channels, window, relu}, window.over(from, from.channels));
}

void Network::add_average_pool(const Window& window) {
  const Shape from = begin("average_pool", 1);
  require_window("average_pool", window, kMaxImageSize, 4);
  add(AveragePool{from.channels, window}, window.over(from, from.channels));
}

void Network::set_cut(std::span<const int32_t> threshold, std::span<const uint8_t> direction, std::span<const int16_t> alpha) {
  require(!has_cut_, "cut: there can be only one");
  plan_prefix();
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
  require(!complete_, "features: expected once");
  const int channels = shape_.channels;
  if (!has_cut_) {
    plan_prefix();
    require_range(channels, 1, kMaxBlockChannels, "features channels");
    require(int64_t{shape_.height} * shape_.width <= 65536, "features: expected a map of at most 65536 pixels");
    cut_shape_ = shape_;
    latent_words_ = (static_cast<size_t>(channels) + sizeof(uint64_t) - 1) / sizeof(uint64_t);
  }
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

}  // namespace bitreplay
