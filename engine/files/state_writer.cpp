// The same bytes as container.pack and state.pack_state of the Python package: sorted JSON in ASCII, tensors by descending type, then by
// name.
#include <algorithm>
#include <cstring>

#include "sha256.h"
#include "state.h"

namespace bitreplay {
namespace {

// The types in the order in which their tensors lie in a file.
enum Type : uint8_t { kU64, kI64, kU32, kI32, kU16, kI16, kI8, kU8, kTypes };
constexpr const char* kTypeNames[kTypes] = {"U64", "I64", "U32", "I32", "U16", "I16", "I8", "U8"};
template <class T>
constexpr Type type_of() {
  constexpr bool is_signed = std::is_signed_v<T>;
  return sizeof(T) == 8 ? (is_signed ? kI64 : kU64) : sizeof(T) == 4 ? (is_signed ? kI32 : kU32) : sizeof(T) == 2 ? (is_signed ? kI16 : kU16) : is_signed ? kI8 : kU8;
}

struct Tensor {
  char name[20];
  Type type;
  const void* data;
  int width;  // bytes of a value in memory, where that is an integer of another size than in the file; else 0
  uint64_t bytes, begin;
  uint64_t shape[2];
  int dimensions;
};

// Of a whole state, by name.
class Tensors {
 public:
  explicit Tensors(const DeviceLearner& from)
      : mixing_{from.learner->mixing().frozen, from.learner->mixing().branch}, saturated_(from.learner->statistics().saturated()) {
    const Learner& learner = *from.learner;
    const uint64_t classes = learner.classes(), width = static_cast<uint64_t>(from.network.feature_count());
    const Replay& replay = learner.replay();
    if (learner.settings().head == HeadKind::lda) {
      const Statistics& statistics = learner.statistics();
      const auto [narrow, wide] = statistics.moment();
      add("head.count", statistics.count(), {classes});
      add_compact("head.feature_sum", statistics.sums(), {classes, static_cast<uint64_t>(statistics.width())});
      add("head.mixing", std::span<const int64_t>(mixing_), {2});
      if (narrow.empty()) {
        add_compact("head.moment", wide, {wide.size()});
      } else {
        add_compact("head.moment", narrow, {narrow.size()});
      }
      add("head.saturated", std::span<const int64_t>(&saturated_, 1), {1});
    } else {
      add("head.mixing", std::span<const int64_t>(mixing_), {2});
      add("head.past_count", view(learner.head().past_count), {classes});
      add("head.weight", view(learner.head().weight), {classes, width});
    }
    if (from.carries_model) add("model", from.model, {from.model.size()});
    add("replay.labels", replay.labels(), {replay.size()});
    add("replay.rows", std::span(replay.row(0), replay.size() * replay.row_words()), {replay.size(), replay.row_words()});
    add("replay.seen", replay.seen(), {classes});
    const std::span<const TailBlock> blocks = learner.tail().blocks();
    for (size_t i = 0; i < blocks.size(); ++i) {
      TailBlock::each_kept(blocks[i], [&](const char* name, const auto& values, int32_t) {
        add(Name("tail", i, name), view(values), {values.size()});
      });
    }
    if (!blocks.empty()) add("tail.weight", learner.tail_weight(), {classes, width});
    std::sort(tensors_, tensors_ + count_, [](const Tensor& a, const Tensor& b) { return std::strcmp(a.name, b.name) < 0; });
    uint64_t end = 0;
    each_in_place([&](Tensor& tensor) {
      tensor.begin = end;
      end += tensor.bytes;
    });
  }

  const Tensor* begin() const { return tensors_; }
  const Tensor* end() const { return tensors_ + count_; }

  // f(tensor) in the order in which they lie in the file.
  template <class F>
  void each_in_place(const F& f) {
    for (int type = 0; type < kTypes; ++type) {
      for (size_t i = 0; i < count_; ++i) {
        if (tensors_[i].type == type) f(tensors_[i]);
      }
    }
  }

 private:
  template <class T>
  static std::span<const T> view(const Buffer<T>& buffer) {
    return {buffer.data(), buffer.size()};
  }
  template <class T>
  void add(const char* name, std::span<const T> values, std::initializer_list<uint64_t> shape) {
    Tensor& tensor = tensors_[count_++];
    format_message(tensor.name, sizeof tensor.name, "{}", {name});
    tensor.type = type_of<T>();
    tensor.data = values.data();
    tensor.width = 0;
    tensor.bytes = values.size_bytes();
    tensor.dimensions = 0;
    for (const uint64_t size : shape) tensor.shape[tensor.dimensions++] = size;
  }
  // With 32 bits where every value is smaller than 2^30, else with 64 (docs/formats.md).
  template <class T>
  void add_compact(const char* name, std::span<const T> values, std::initializer_list<uint64_t> shape) {
    add(name, values, shape);
    constexpr int64_t kSmall = int64_t{1} << 30;
    const bool small = std::all_of(values.begin(), values.end(), [](T v) { return v > -kSmall && v < kSmall; });
    if (small == (sizeof(T) == 4)) return;
    Tensor& tensor = tensors_[count_ - 1];
    tensor.type = small ? kI32 : kI64;
    tensor.width = sizeof(T);
    tensor.bytes = values.size() * (small ? 4 : 8);
  }
  int64_t mixing_[2], saturated_;
  Tensor tensors_[10 + 9 * kMaxTrainedBlocks];
  size_t count_ = 0;
};

class Writer {
 public:
  Writer(uint8_t* buffer, size_t size) : buffer_(buffer), size_(size) {}
  size_t written() const { return at_; }

  void bytes(const void* from, size_t count) {
    if (count > 0 && at_ <= size_ && count <= size_ - at_) std::memcpy(buffer_ + at_, from, count);
    at_ += count;
  }
  void character(char c) { bytes(&c, 1); }
  void text(const char* c) { bytes(c, std::strlen(c)); }
  void number(uint64_t value) {
    char digits[24];
    format_message(digits, sizeof digits, "{}", {value});
    text(digits);
  }
  // A text inside a string of the header: its quotes and backslashes are escaped.
  void inside(const char* c) {
    for (; *c != '\0'; ++c) {
      if (*c == '"' || *c == '\\') character('\\');
      character(*c);
    }
  }
  // The characters of a string in JSON that is itself inside a string of the header.
  void inside_string(std::string_view utf8) {
    Text name(utf8.data(), utf8.data() + utf8.size());
    for (uint32_t c = name.next(); c < Text::kBad; c = name.next()) {
      const char plain[] = {static_cast<char>(c), '\0'};
      if (c == '"' || c == '\\') {
        inside("\\");
        inside(plain);
      } else if (c < 0x80) {
        inside(plain);
      } else if (c < 0x10000) {
        unit(c);
      } else {
        unit(0xd800 + ((c - 0x10000) >> 10));
        unit(0xdc00 + ((c - 0x10000) & 0x3ff));
      }
    }
  }

 private:
  void unit(uint32_t value) {
    inside("\\");
    character('u');
    for (int shift = 12; shift >= 0; shift -= 4) character("0123456789abcdef"[value >> shift & 15]);
  }

  uint8_t* buffer_;
  size_t size_, at_ = 0;
};

// Returns where the digest stands.
size_t write_header(Writer& out, const DeviceLearner& from, const Tensors& tensors) {
  out.text(R"({"__metadata__":{"bitreplay":"state","digest":")");
  const size_t digest = out.written();
  for (int i = 0; i < 64; ++i) out.character('0');
  out.text(R"(","experience":")");
  out.number(from.learner->experience());
  out.text(R"(","model":")");
  out.bytes(from.model_digest, sizeof from.model_digest);
  out.text(R"(","names":"[)");
  for (size_t i = 0; i < from.names.size(); ++i) {
    out.inside(i == 0 ? "\"" : ", \"");
    out.inside_string(from.names[i]);
    out.inside("\"");
  }
  out.text(R"(]","settings":"{)");
  bool first = true;
  for_each_setting(from.settings, [&](const Setting& setting, auto value) {
    char scratch[24];
    out.inside(first ? "\"" : ", \"");
    out.text(setting.name);
    out.inside("\": ");
    out.inside(setting_text(setting.kind, static_cast<uint64_t>(value), scratch));
    first = false;
  });
  out.text(R"(}","version":"1"})");
  for (const Tensor& tensor : tensors) {
    out.text(",\"");
    out.text(tensor.name);
    out.text(R"(":{"data_offsets":[)");
    out.number(tensor.begin);
    out.character(',');
    out.number(tensor.begin + tensor.bytes);
    out.text(R"(],"dtype":")");
    out.text(kTypeNames[tensor.type]);
    out.text(R"(","shape":[)");
    for (int i = 0; i < tensor.dimensions; ++i) {
      if (i > 0) out.character(',');
      out.number(tensor.shape[i]);
    }
    out.text("]}");
  }
  out.character('}');
  while (out.written() % 8 != 0) out.character(' ');
  return digest;
}

void write_values(Writer& out, const Tensor& tensor) {
  if (tensor.width == 0) return out.bytes(tensor.data, static_cast<size_t>(tensor.bytes));
  const size_t count = static_cast<size_t>(tensor.bytes) / (tensor.type == kI32 ? 4 : 8);
  for (size_t i = 0; i < count; ++i) {  // little-endian: the lower half of 64 bits comes first
    const int64_t value = tensor.width == 8 ? static_cast<const int64_t*>(tensor.data)[i] : static_cast<const int32_t*>(tensor.data)[i];
    out.bytes(&value, tensor.type == kI32 ? 4 : 8);
  }
}

}  // namespace

size_t write_state(const DeviceLearner& from, uint8_t* buffer, size_t size) {
  Tensors tensors(from);
  Writer out(buffer, size);
  uint64_t length = 0;
  out.bytes(&length, sizeof length);
  const size_t digest = write_header(out, from, tensors);
  length = out.written() - sizeof length;
  if (length > kMaxHeader) fail(Error::memory, "state: its header would be longer than {} bytes; use shorter names", {kMaxHeader});
  tensors.each_in_place([&](const Tensor& tensor) { write_values(out, tensor); });
  if (out.written() > size) return out.written();
  std::memcpy(buffer, &length, sizeof length);
  Sha256 sha;
  sha.add(buffer, out.written());
  sha.hex(reinterpret_cast<char*>(buffer) + digest);
  return out.written();
}

}  // namespace bitreplay
