#include "model.h"

#include <algorithm>

#include "bits.h"
#include "kernels/kernels.h"

namespace bitreplay {
namespace {

// The members of one object of the description: `part`, or `part`[i].
class Fields {
 public:
  Fields(const File& file, const Json& object, const char* part) : file_(file), object_(object) {
    format_message(what_, sizeof what_, "{}", {part});
    require_object();
  }
  Fields(const File& file, const Json& object, const char* part, size_t i) : file_(file), object_(object) {
    format_message(what_, sizeof what_, "{}[{}]", {part, i});
    require_object();
  }
  int integer(const char* name, int64_t low, int64_t high, int missing) const { return has(name) ? integer(name, low, high) : missing; }
  int integer(const char* name, int64_t low, int64_t high) const {
    int64_t value = 0;
    const Json found = object_.find(name);
    if (!found.whole(low, high, value)) {
      fail(Error::format, "{}: network: {}.{}: expected {} to {}, got {}", {file_.where(), what_, name, low, high, Excerpt(found).text()});
    }
    return static_cast<int>(value);
  }
  bool flag(const char* name) const {
    bool value = false;
    if (!object_.find(name).boolean(value)) refuse(name, "true or false");
    return value;
  }
  bool flag(const char* name, bool missing) const { return object_.find(name).exists() ? flag(name) : missing; }
  Json list(const char* name, size_t most, const char* expected, size_t& count) const {
    const Json found = object_.find(name);
    count = 0;
    if (found.is_list()) {
      for (Entries items(found); count <= most && items.next();) ++count;
    }
    if (!found.is_list() || count > most) refuse(name, expected);
    return found;
  }
  // A list of so many numbers at most.
  size_t numbers(const char* name, std::span<int> values, int64_t low, int64_t high, const char* expected) const {
    size_t count = 0;
    const Json found = list(name, values.size(), expected, count);
    Entries items(found);
    for (size_t i = 0; items.next(); ++i) {
      int64_t value = 0;
      if (!items.value.whole(low, high, value)) refuse(name, expected);
      values[i] = static_cast<int>(value);
    }
    return count;
  }
  bool has(const char* name) const { return object_.find(name).exists(); }
  bool is(const char* operation) const { return object_.find("op").equals(operation); }
  Json find(const char* name) const { return object_.find(name); }
  [[noreturn]] void refuse(const char* name, const char* expected) const {
    fail(Error::format, "{}: network: {}.{}: expected {}, got {}", {file_.where(), what_, name, expected, Excerpt(object_.find(name)).text()});
  }

 private:
  void require_object() const {
    if (!object_.is_object()) fail(Error::format, "{}: network: {}: expected an object, got {}", {file_.where(), what_, Excerpt(object_).text()});
  }

  const File& file_;
  Json object_;
  char what_[16];
};

Fields top_of(const File& file) { return {file, file.json("network"), "network"}; }

struct BinaryValues {
  int shift;
  std::span<const uint64_t> weight;
  std::span<const int16_t> mean, multiplier;
  std::span<const int32_t> bias;
  BlockOptions options;
};

void read_activation(File& file, const char* part, size_t i, int channels, BlockOptions& options) {
  options.alpha = file.take<int16_t>(Name(part, i, "alpha"), {channels});
  options.beta = file.take<int16_t>(Name(part, i, "beta"), {channels});
  options.high = file.take<int16_t>(Name(part, i, "high"), {channels});
  options.low = file.take<int16_t>(Name(part, i, "low"), {channels});
}

// What a block, a down and a binary convolution have in common; in: channels that a value sees, of `inputs`.
BinaryValues read_binary(const Fields& f, File& file, const char* part, size_t i, int kernel, int in, int inputs, int out, bool relu) {
  BinaryValues b{};
  b.shift = f.integer("shift", 0, 30);
  b.weight = file.take<uint64_t>(Name(part, i, "weight"), {out, kernel, kernel, words_for(in)});
  b.mean = file.take<int16_t>(Name(part, i, "mean"), {out});
  b.multiplier = file.take<int16_t>(Name(part, i, "multiplier"), {out});
  b.bias = file.take<int32_t>(Name(part, i, "bias"), {out});
  b.options.relu = f.flag("relu", relu);
  b.options.zero_pad = f.flag("zero_pad", false);
  if (f.flag("threshold", false)) b.options.threshold = file.take<int16_t>(Name(part, i, "threshold"), {inputs});
  if (f.flag("activation", false)) read_activation(file, part, i, out, b.options);
  return b;
}

Window read_window(const Fields& f, int64_t kernel, int64_t stride) {
  Window window{f.integer("kernel", 1, kernel), f.integer("stride", 1, stride), {}};
  if (f.has("pad")) {
    int sides[4] = {};
    const char* expected = "[top, left, bottom, right], whole numbers below the kernel";
    if (f.numbers("pad", sides, 0, window.kernel - 1, expected) != 4) f.refuse("pad", expected);
    window.pad = {sides[0], sides[1], sides[2], sides[3]};
  }
  return window;
}

// What an operation of the prefix reads, of the `values` that there are.
Inputs read_inputs(const Fields& f, size_t values) {
  Inputs from;
  if (f.has("from")) {
    from.count = static_cast<int>(f.numbers("from", from.values, 0, static_cast<int64_t>(values) - 1, "1 to 8 numbers of values before it"));
    if (from.count == 0) f.refuse("from", "1 to 8 numbers of values before it");
  }
  return from;
}

enum class Kind { conv, block, pool, down, binary, affine, activate, add, concat, gate, max_pool, average_pool };
constexpr const char* kKindNames[] = {"conv", "block", "pool", "down", "binary", "affine", "activate", "add", "concat", "gate", "max_pool", "average_pool"};

Kind kind_of(const Fields& f) {
  for (size_t i = 0; i < std::size(kKindNames); ++i) {
    if (f.is(kKindNames[i])) return static_cast<Kind>(i);
  }
  f.refuse("op", "conv, block, pool, down, binary, affine, activate, add, concat, gate, max_pool or average_pool");
}

std::span<const uint64_t> read_block(const Fields& f, File& file, Network& network, const char* part, size_t i) {
  const int channels = f.integer("channels", 1, 1024);
  const BinaryValues b = read_binary(f, file, part, i, 3, channels, channels, channels, true);
  network.add_block(channels, b.shift, b.weight, b.mean, b.multiplier, b.bias, b.options);
  return b.weight;
}

template <class T, class W>
void read_conv(const Fields& f, File& file, Network& network, size_t i) {
  const int in = f.integer("in", 1, 2048), out = f.integer("out", 1, 2048), groups = f.integer("groups", 1, in, 1);
  const Window window = read_window(f, 7, 4);
  const bool depthwise = f.flag("depthwise", false), relu = f.flag("relu", false);
  const int shift = f.integer("shift", 0, 46), kernel = window.kernel;
  const Name name("prefix", i, "weight");
  const auto weight = depthwise ? file.take<T>(name, {out, kernel, kernel}) : file.take<T>(name, {out, kernel, kernel, in / groups});
  const auto multiplier = file.take<W>(Name("prefix", i, "multiplier"), {out});
  const auto bias = file.take<int64_t>(Name("prefix", i, "bias"), {out});
  network.add_conv(window, in, out, groups, depthwise, relu, shift, weight, multiplier, bias);
}

void read_down(const Fields& f, File& file, Network& network, size_t i) {
  const int in = f.integer("in", 1, 1024), out = f.integer("out", 1, 1024);
  const BinaryValues b = read_binary(f, file, "prefix", i, 3, in, in, out, false);
  const int shift = f.integer("shortcut_shift", 0, 46);
  const auto weight = file.take<uint64_t>(Name("prefix", i, "shortcut_weight"), {out, words_for(in)});
  const auto multiplier = file.take<int16_t>(Name("prefix", i, "shortcut_multiplier"), {out});
  const auto bias = file.take<int64_t>(Name("prefix", i, "shortcut_bias"), {out});
  network.add_down(in, out, b.shift, b.weight, b.mean, b.multiplier, b.bias, {shift, weight, multiplier, bias}, b.options);
}

void read_alone(const Fields& f, File& file, Network& network, size_t i) {
  const int in = f.integer("in", 1, 1024), out = f.integer("out", 1, 1024), groups = f.integer("groups", 1, in, 1);
  const Window window = read_window(f, 3, 2);
  const BinaryValues b = read_binary(f, file, "prefix", i, window.kernel, in / groups, in, out, false);
  network.add_binary(window, in, out, groups, b.shift, b.weight, b.mean, b.multiplier, b.bias, b.options);
}

template <class W>
void read_affine(const Fields& f, File& file, Network& network, size_t i) {
  const int channels = f.integer("channels", 1, 2048);
  const auto multiplier = file.take<W>(Name("prefix", i, "multiplier"), {channels});
  const auto bias = file.take<int64_t>(Name("prefix", i, "bias"), {channels});
  network.add_scale(channels, f.flag("relu", false), f.integer("shift", 0, 46), multiplier, bias);
}

void read_activate(const Fields& f, File& file, Network& network, size_t i) {
  const int channels = f.integer("channels", 1, 2048);
  BlockOptions options;
  read_activation(file, "prefix", i, channels, options);
  network.add_activate(channels, options);
}

void read_add(const Fields& f, Network& network) {
  int multipliers[2] = {};
  const char* expected = "two whole numbers from -32768 to 32767";
  if (f.numbers("multipliers", multipliers, INT16_MIN, INT16_MAX, expected) != 2) f.refuse("multipliers", expected);
  network.add_add(multipliers[0], multipliers[1], f.integer("shift", 0, 30), f.flag("relu", false));
}

// One operation of the prefix.
void read_operation(const Fields& f, File& file, Network& network, size_t i) {
  const Inputs from = read_inputs(f, i + 1);
  network.read(from);
  const int channels = network.shape_of(from.count == 0 ? static_cast<int>(i) : from.values[0]).channels;
  const auto same = [&](const char* name) { f.integer(name, channels, channels); };
  const bool wide = f.flag("wide", false);
  switch (kind_of(f)) {
    case Kind::conv: return wide ? read_conv<int16_t, int32_t>(f, file, network, i) : read_conv<int8_t, int16_t>(f, file, network, i);
    case Kind::block: read_block(f, file, network, "prefix", i); return;
    case Kind::pool: same("channels"); return network.add_pool();
    case Kind::down: return read_down(f, file, network, i);
    case Kind::binary: return read_alone(f, file, network, i);
    case Kind::affine: return wide ? read_affine<int32_t>(f, file, network, i) : read_affine<int16_t>(f, file, network, i);
    case Kind::activate: return read_activate(f, file, network, i);
    case Kind::add: same("channels"); return read_add(f, network);
    case Kind::concat: return network.add_concat();
    case Kind::gate: same("channels"); return network.add_gate();
    case Kind::max_pool: same("channels"); return network.add_max_pool(read_window(f, 7, 4), f.flag("relu", false));
    case Kind::average_pool: same("channels"); return network.add_average_pool(read_window(f, 1024, 4));
  }
}

TailTraits read_traits(const Fields& f) {
  const bool approx = f.flag("approx_sign", false);
  const int exponent = f.integer("exponent", approx ? 0 : -16, 30);
  const int clip = exponent >= 2 ? 5 << (exponent - 2) : exponent >= 0 ? 1 + exponent : 0;  // floor(1.25 * 2^exponent)
  return {exponent, approx, f.has("clip") ? f.integer("clip", 0, INT32_MAX) : clip, f.flag("train_high", true)};
}

void require_same_signs(const File& file, const char* name, std::span<const int8_t> shadow, std::span<const uint64_t> bits, int channels) {
  const auto width = static_cast<size_t>(channels), words = static_cast<size_t>(words_for(channels));
  for (size_t i = 0; i < shadow.size(); ++i) {
    const bool bit = bit_at(bits.data() + i / width * words, static_cast<int>(i % width));
    if ((shadow[i] < 0) != bit) {
      fail(Error::format, "{}: tensor {}: expected negative values exactly where the bit of the weight is 1", {file.where(), name});
    }
  }
}

void measure_affine(Room& room, int channels) {
  room.add(static_cast<uint64_t>(channels), sizeof(int32_t));
  room.add(static_cast<uint64_t>(channels), sizeof(int64_t));
}

void measure_conv(Room& room, int64_t in, int64_t out, int64_t kernel, int64_t groups, bool depthwise) {
  groups /= depthwise ? 1 : merged_groups(static_cast<int>(out), static_cast<int>(groups));
  const int64_t tiles = (out / groups + kDenseChannels - 1) / kDenseChannels, pairs = (kernel * (in / groups) + 1) / 2;
  room.add(static_cast<uint64_t>(depthwise ? out * kernel * kernel : groups * tiles * kernel * pairs * 2 * kDenseChannels), sizeof(int16_t));
  measure_affine(room, static_cast<int>(out));
}

void measure_binary(Room& room, const Fields& f, int in, int inputs, int out, int kernel = 3, int groups = 1) {
  const auto width = static_cast<uint64_t>(out);
  room.add(static_cast<uint64_t>(groups * kernels().binary_weight_words(in, out / groups, kernel)), sizeof(uint64_t));
  room.add(width, sizeof(int16_t));
  room.add(width, sizeof(int16_t));
  room.add(width, sizeof(int32_t));
  if (f.flag("threshold", false)) room.add(static_cast<uint64_t>(inputs), sizeof(int16_t));
  if (f.flag("zero_pad", false)) room.add(width * static_cast<uint64_t>(kernel * kernel), sizeof(int16_t));
  for (int i = 0; i < 4 && f.flag("activation", false); ++i) room.add(width, sizeof(int16_t));
}

// Adds what an operation will allocate; returns the shape that it gives, of one whose values fit or not.
Shape measure_operation(Room& room, const Fields& f, std::span<const Shape> values) {
  const Inputs from = read_inputs(f, values.size());
  Shape in = from.count == 0 ? values.back() : values[static_cast<size_t>(from.values[0])];
  switch (kind_of(f)) {
    case Kind::conv: {
      const int channels = f.integer("in", 1, 2048), out = f.integer("out", 1, 2048), groups = f.integer("groups", 1, channels, 1);
      const Window window = read_window(f, 7, 4);
      measure_conv(room, channels, out, window.kernel, groups, f.flag("depthwise", false));
      return window.over(in, out);
    }
    case Kind::block: {
      const int channels = f.integer("channels", 1, 1024);
      measure_binary(room, f, channels, channels, channels);
      return in;
    }
    case Kind::pool: return pool_shape(in);
    case Kind::down: {
      const int channels = f.integer("in", 1, 1024), out = f.integer("out", 1, 1024);
      measure_binary(room, f, channels, channels, out);
      measure_conv(room, channels, out, 1, 1, false);
      return {in.height / 2, in.width / 2, out};
    }
    case Kind::binary: {
      const int channels = f.integer("in", 1, 1024), out = f.integer("out", 1, 1024), groups = f.integer("groups", 1, channels, 1);
      const Window window = read_window(f, 3, 2);
      measure_binary(room, f, channels / groups, channels, out, window.kernel, groups);
      return window.over(in, out);
    }
    case Kind::affine: measure_affine(room, f.integer("channels", 1, 2048)); return in;
    case Kind::activate: {
      const auto width = static_cast<uint64_t>(f.integer("channels", 1, 2048));
      for (const uint64_t bytes : {2, 2, 4, 2, 2, 2, 2}) room.add(width, bytes);
      return in;
    }
    case Kind::concat:
      for (int i = 1; i < from.count; ++i) in.channels += values[static_cast<size_t>(from.values[i])].channels;
      return in;
    case Kind::max_pool: return read_window(f, 7, 4).over(in, in.channels);
    case Kind::average_pool: return read_window(f, 1024, 4).over(in, in.channels);
    default: return in;
  }
}

constexpr const char* kPrefixList = "a list of at most 512 operations";
constexpr const char* kTailList = "a list of at most 256 operations";

}  // namespace

NetworkSize measure_network(const File& file, size_t trained, int weight_bits, Room& room) {
  const Fields top = top_of(file);
  NetworkSize size;
  size.image_size = top.integer("image_size", 1, 1024);
  Entries prefix(top.list("prefix", kMaxOperations, kPrefixList, size.prefix));
  room.add(size.prefix, sizeof(Node));
  room.add(Network::pieces_of(size.prefix), sizeof(Piece));
  Shape values[kMaxOperations + 1];
  values[0] = {size.image_size, size.image_size, 3};
  for (size_t i = 0; prefix.next(); ++i) values[i + 1] = measure_operation(room, Fields(file, prefix.value, "prefix", i), {values, i + 1});
  const Shape map = values[size.prefix];
  const bool has_cut = top.has("cut");
  size.features = Fields(file, top.find(has_cut ? "cut" : "features"), has_cut ? "cut" : "features").integer("channels", 1, 1024);
  const auto width = static_cast<uint64_t>(size.features), words = static_cast<uint64_t>(words_for(size.features));
  size.latent_words = has_cut ? static_cast<uint64_t>(map.pixels()) * words : (width + 7) / 8;
  Entries tail(top.list("tail", kMaxTail, kTailList, size.tail));
  room.add(size.tail, sizeof(Block));
  room.add(trained, sizeof(TailBlock));
  for (size_t i = 0; tail.next(); ++i) {
    const Fields f(file, tail.value, "tail", i);
    measure_binary(room, f, size.features, size.features, size.features);
    if (i + trained < size.tail) continue;
    measure_binary(room, f, size.features, size.features, size.features);
    room.add(width * kTaps * words, sizeof(uint64_t));
    if (weight_bits > 1) room.add(width * kTaps * width, static_cast<uint64_t>(weight_bits) / 8);
    const bool has[] = {true, f.flag("threshold", false), f.flag("activation", false)};
    TailBlock none;
    TailBlock::each_master(none, [&](const Master& what, auto&, auto&) { room.add(has[what.part] ? width : 0, sizeof(int32_t)); });
  }
  if (has_cut) {
    room.add(width, sizeof(int16_t));
    room.add(words, sizeof(uint64_t));
    room.add(width, sizeof(int16_t));
  }
  room.add(width, sizeof(int32_t));  // features
  room.add(width * width, sizeof(int16_t));
  room.add(width, sizeof(int32_t));
  room.add(width, sizeof(int64_t));
  return size;
}

int image_size_of(const File& file) { return top_of(file).integer("image_size", 1, 1024); }

size_t read_network(File& file, Network& network, std::span<TailSource> last) {
  const Fields top = top_of(file);
  if (file.word("card").exists()) file.json("card");  // shown by others, to whom it must be JSON
  size_t prefix_count = 0, tail_count = 0;
  Entries prefix(top.list("prefix", kMaxOperations, kPrefixList, prefix_count));
  Entries tail(top.list("tail", kMaxTail, kTailList, tail_count));
  network.expect(prefix_count, tail_count);
  for (size_t i = 0; prefix.next(); ++i) read_operation(Fields(file, prefix.value, "prefix", i), file, network, i);
  const bool has_cut = top.has("cut");
  const int channels = Fields(file, top.find(has_cut ? "cut" : "features"), has_cut ? "cut" : "features").integer("channels", 1, 1024);
  if (has_cut) {
    const auto threshold = file.take<int32_t>("cut.threshold", {channels});
    const auto direction = file.take<uint8_t>("cut.direction", {channels});
    network.set_cut(threshold, direction, file.take<int16_t>("cut.alpha", {channels}));
  } else if (tail_count > 0) {
    top.refuse("tail", "no operation where there is no cut");
  }
  const size_t sources = std::min(last.size(), tail_count);
  for (size_t i = 0; tail.next(); ++i) {
    const Fields f(file, tail.value, "tail", i);
    if (!f.is("block")) f.refuse("op", "block");
    const auto bits = read_block(f, file, network, "tail", i);
    const TailTraits traits = read_traits(f);
    const Name name("tail", i, "shadow");
    const auto shadow = file.take<int8_t>(name, {channels, 3, 3, channels});
    require_same_signs(file, name, shadow, bits, channels);
    if (i + sources >= tail_count) last[i + sources - tail_count] = {shadow, traits};
  }
  const Fields f(file, top.find("features"), "features");
  f.integer("channels", channels, channels);
  const int pool_shift = f.integer("pool_shift", 0, 46), shift = f.integer("shift", 0, 46), bits = f.integer("feature_bits", 0, 12);
  const auto pool_multiplier = file.take<int32_t>("features.pool_multiplier", {channels});
  const auto weight = file.take<int8_t>("features.weight", {channels, channels});
  const auto multiplier = file.take<int16_t>("features.multiplier", {channels});
  const auto bias = file.take<int64_t>("features.bias", {channels});
  network.set_features(pool_shift, shift, bits, pool_multiplier, weight, multiplier, bias, f.flag("relu", true));
  file.finish();
  return sources;
}

}  // namespace bitreplay
