#include "model.h"

#include <algorithm>

#include "bits.h"
#include "kernels/kernels.h"

namespace bitreplay {
namespace {

constexpr int64_t kMaxOperations = 256;

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
  Json list(const char* name, size_t& count) const {
    const Json found = object_.find(name);
    count = 0;
    for (Entries items(found); items.next();) ++count;
    if (!found.is_list() || count > kMaxOperations) refuse(name, "a list of at most 256 operations");
    return found;
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

struct Binary {
  int shift;
  std::span<const uint64_t> weight;
  std::span<const int16_t> mean, multiplier;
  std::span<const int32_t> bias;
  BlockOptions options;
};

// What a block and a down have in common.
Binary read_binary(const Fields& f, File& file, const char* part, size_t i, int in, int out, bool relu) {
  Binary b{};
  b.shift = f.integer("shift", 0, 30);
  b.weight = file.take<uint64_t>(Name(part, i, "weight"), {out, 3, 3, words_for(in)});
  b.mean = file.take<int16_t>(Name(part, i, "mean"), {out});
  b.multiplier = file.take<int16_t>(Name(part, i, "multiplier"), {out});
  b.bias = file.take<int32_t>(Name(part, i, "bias"), {out});
  b.options.relu = f.flag("relu", relu);
  if (f.flag("threshold", false)) b.options.threshold = file.take<int16_t>(Name(part, i, "threshold"), {in});
  if (f.flag("activation", false)) {
    b.options.alpha = file.take<int16_t>(Name(part, i, "alpha"), {out});
    b.options.beta = file.take<int16_t>(Name(part, i, "beta"), {out});
    b.options.high = file.take<int16_t>(Name(part, i, "high"), {out});
    b.options.low = file.take<int16_t>(Name(part, i, "low"), {out});
  }
  return b;
}

std::span<const uint64_t> read_block(const Fields& f, File& file, Network& network, const char* part, size_t i) {
  const int channels = f.integer("channels", 1, 1024);
  const Binary b = read_binary(f, file, part, i, channels, channels, true);
  network.add_block(channels, b.shift, b.weight, b.mean, b.multiplier, b.bias, b.options);
  return b.weight;
}

void read_conv(const Fields& f, File& file, Network& network, size_t i) {
  const int in = f.integer("in", 1, 2048), out = f.integer("out", 1, 2048);
  const int kernel = f.integer("kernel", 1, 3), stride = f.integer("stride", 1, 2);
  const bool depthwise = f.flag("depthwise"), relu = f.flag("relu");
  const int shift = f.integer("shift", 0, 46);
  const Name name("prefix", i, "weight");
  const auto weight = depthwise ? file.take<int8_t>(name, {out, kernel, kernel}) : file.take<int8_t>(name, {out, kernel, kernel, in});
  const auto multiplier = file.take<int16_t>(Name("prefix", i, "multiplier"), {out});
  const auto bias = file.take<int64_t>(Name("prefix", i, "bias"), {out});
  network.add_conv(in, out, kernel, stride, depthwise, relu, shift, weight, multiplier, bias);
}

void read_down(const Fields& f, File& file, Network& network, size_t i) {
  const int in = f.integer("in", 1, 1024), out = f.integer("out", 1, 1024);
  const Binary b = read_binary(f, file, "prefix", i, in, out, false);
  const int shift = f.integer("shortcut_shift", 0, 46);
  const auto weight = file.take<uint64_t>(Name("prefix", i, "shortcut_weight"), {out, words_for(in)});
  const auto multiplier = file.take<int16_t>(Name("prefix", i, "shortcut_multiplier"), {out});
  const auto bias = file.take<int64_t>(Name("prefix", i, "shortcut_bias"), {out});
  network.add_down(in, out, b.shift, b.weight, b.mean, b.multiplier, b.bias, {shift, weight, multiplier, bias}, b.options);
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

void measure_conv(Room& room, int64_t in, int64_t out, int64_t kernel, bool depthwise) {
  const int64_t groups = (out + kDenseChannels - 1) / kDenseChannels, pairs = (kernel * in + 1) / 2;
  room.add(static_cast<uint64_t>(depthwise ? out * kernel * kernel : groups * kernel * pairs * 2 * kDenseChannels), sizeof(int16_t));
  room.add(static_cast<uint64_t>(out), sizeof(int16_t));
  room.add(static_cast<uint64_t>(out), sizeof(int64_t));
}

void measure_binary(Room& room, const Fields& f, int in, int out) {
  const auto width = static_cast<uint64_t>(out);
  room.add(static_cast<uint64_t>(kernels().binary_weight_words(in, out, 3)), sizeof(uint64_t));
  room.add(width, sizeof(int16_t));
  room.add(width, sizeof(int16_t));
  room.add(width, sizeof(int32_t));
  if (f.flag("threshold", false)) room.add(static_cast<uint64_t>(in), sizeof(int16_t));
  for (int i = 0; i < 4 && f.flag("activation", false); ++i) room.add(width, sizeof(int16_t));
}

}  // namespace

NetworkSize measure_network(const File& file, size_t trained, int weight_bits, Room& room) {
  const Fields top = top_of(file);
  NetworkSize size;
  int side = size.image_size = top.integer("image_size", 1, 1024);
  Entries prefix(top.list("prefix", size.prefix));
  room.add(size.prefix, sizeof(Operation));
  for (size_t i = 0; prefix.next(); ++i) {
    const Fields f(file, prefix.value, "prefix", i);
    if (f.is("conv")) {
      measure_conv(room, f.integer("in", 1, 2048), f.integer("out", 1, 2048), f.integer("kernel", 1, 3), f.flag("depthwise"));
      side = (side - 1) / f.integer("stride", 1, 2) + 1;
    } else if (f.is("block")) {
      const int channels = f.integer("channels", 1, 1024);
      measure_binary(room, f, channels, channels);
    } else if (f.is("pool")) {
      side /= 2;
    } else if (f.is("down")) {
      const int in = f.integer("in", 1, 1024), out = f.integer("out", 1, 1024);
      measure_binary(room, f, in, out);
      measure_conv(room, in, out, 1, false);
      side /= 2;
    } else {
      f.refuse("op", "conv, block, pool or down");
    }
  }
  size.features = Fields(file, top.find("cut"), "cut").integer("channels", 1, 1024);
  const auto width = static_cast<uint64_t>(size.features), words = static_cast<uint64_t>(words_for(size.features));
  size.latent_words = static_cast<uint64_t>(side) * static_cast<uint64_t>(side) * words;
  Entries tail(top.list("tail", size.tail));
  room.add(size.tail, sizeof(Block));
  room.add(trained, sizeof(TailBlock));
  for (size_t i = 0; tail.next(); ++i) {
    const Fields f(file, tail.value, "tail", i);
    measure_binary(room, f, size.features, size.features);
    if (i + trained < size.tail) continue;
    measure_binary(room, f, size.features, size.features);
    room.add(width * kTaps * words, sizeof(uint64_t));
    if (weight_bits > 1) room.add(width * kTaps * width, static_cast<uint64_t>(weight_bits) / 8);
    const bool has[] = {true, f.flag("threshold", false), f.flag("activation", false)};
    TailBlock none;
    TailBlock::each_master(none, [&](const Master& what, auto&, auto&) { room.add(has[what.part] ? width : 0, sizeof(int32_t)); });
  }
  room.add(width, sizeof(int16_t));  // cut
  room.add(words, sizeof(uint64_t));
  room.add(width, sizeof(int16_t));
  room.add(width, sizeof(int32_t));  // features
  room.add(width * width, sizeof(int16_t));
  room.add(width, sizeof(int16_t));
  room.add(width, sizeof(int64_t));
  return size;
}

int image_size_of(const File& file) { return top_of(file).integer("image_size", 1, 1024); }

size_t read_network(File& file, Network& network, std::span<TailSource> last) {
  const Fields top = top_of(file);
  if (file.word("card").exists()) file.json("card");  // shown by others, to whom it must be JSON
  size_t prefix_count = 0, tail_count = 0;
  Entries prefix(top.list("prefix", prefix_count));
  Entries tail(top.list("tail", tail_count));
  network.expect(prefix_count, tail_count);
  int channels = 3;
  for (size_t i = 0; prefix.next(); ++i) {
    const Fields f(file, prefix.value, "prefix", i);
    if (f.is("conv")) {
      read_conv(f, file, network, i);
      channels = f.integer("out", 1, 2048);
    } else if (f.is("block")) {
      read_block(f, file, network, "prefix", i);
    } else if (f.is("pool")) {
      f.integer("channels", channels, channels);
      network.add_pool();
    } else if (f.is("down")) {
      read_down(f, file, network, i);
      channels = f.integer("out", 1, 1024);
    } else {
      f.refuse("op", "conv, block, pool or down");
    }
  }
  channels = Fields(file, top.find("cut"), "cut").integer("channels", 1, 1024);
  const auto threshold = file.take<int32_t>("cut.threshold", {channels});
  const auto direction = file.take<uint8_t>("cut.direction", {channels});
  network.set_cut(threshold, direction, file.take<int16_t>("cut.alpha", {channels}));
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
