#include "writer.h"

#include "sha256.h"

namespace bitreplay {

void Tensors::add(const char* name, Type type, const void* data, std::span<const int64_t> shape) {
  require(count_ < room_.size() && shape.size() <= std::size(room_[0].shape), "tensor {}: expected fewer tensors, and at most 4 dimensions", {name});
  Tensor& tensor = room_[count_++];
  require(format_message(tensor.name, sizeof tensor.name, "{}", {name}) <= sizeof tensor.name, "tensor {}: expected a shorter name", {name});
  tensor.type = type;
  tensor.width = of_type(type).bytes;
  tensor.dimensions = static_cast<uint8_t>(shape.size());
  tensor.data = data;
  tensor.count = 1;
  for (size_t i = 0; i < shape.size(); ++i) tensor.count *= tensor.shape[i] = static_cast<uint64_t>(shape[i]);
}

namespace {

// f(tensor) in the order in which they lie in the file.
template <class Span, class F>
void each_in_place(Span tensors, const F& f) {
  for (int type = 0; type < kOwnTypes; ++type) {
    for (auto& tensor : tensors) {
      if (static_cast<int>(tensor.type) == type) f(tensor);
    }
  }
}

// Returns where the digest stands.
size_t write_header(Output& out, const char* kind, std::initializer_list<Word> words, std::span<const Tensor> tensors) {
  size_t digest = 0;
  const auto word = [&](const char* key) {
    out.text("\",\"");
    out.text(key);
    out.text("\":\"");
  };
  const auto digest_before = [&](const char* key) {
    if (digest != 0 || std::strcmp(key, "digest") < 0) return;
    word("digest");
    digest = out.written();
    for (int i = 0; i < 64; ++i) out.character('0');
  };
  out.text(R"({"__metadata__":{"bitreplay":")");
  out.text(kind);
  for (const Word& each : words) {
    digest_before(each.key);
    word(each.key);
    each.text(out);
  }
  digest_before("version");
  word("version");
  out.text("1\"}");
  for (const Tensor& tensor : tensors) {
    out.text(",\"");
    out.inside(tensor.name);
    out.text(R"(":{"data_offsets":[)");
    out.number(tensor.begin);
    out.character(',');
    out.number(tensor.begin + tensor.bytes());
    out.text(R"(],"dtype":")");
    out.text(of_type(tensor.type).code);
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

void write_values(Output& out, const Tensor& tensor) {
  const uint8_t bytes = of_type(tensor.type).bytes;
  if (tensor.width == bytes) return out.bytes(tensor.data, static_cast<size_t>(tensor.bytes()));
  for (size_t i = 0; i < tensor.count; ++i) {  // little-endian: the lower half of 64 bits comes first
    const int64_t value = tensor.width == 8 ? static_cast<const int64_t*>(tensor.data)[i] : static_cast<const int32_t*>(tensor.data)[i];
    out.bytes(&value, bytes);
  }
}

}  // namespace

void Tensors::arrange() {
  const auto tensors = room_.first(count_);
  for (size_t i = 1; i < count_; ++i) {  // nearly sorted as they come
    const Tensor tensor = tensors[i];
    size_t to = i;
    for (; to > 0 && std::strcmp(tensor.name, tensors[to - 1].name) < 0; --to) tensors[to] = tensors[to - 1];
    tensors[to] = tensor;
  }
  uint64_t end = 0;
  each_in_place(tensors, [&](Tensor& tensor) {
    tensor.begin = end;
    end += tensor.bytes();
  });
}

void Output::number(uint64_t value) {
  char digits[24];
  char* at = digits + 23;
  *at = '\0';
  do *--at = static_cast<char>('0' + value % 10);
  while ((value /= 10) != 0);
  text(at);
}

void Output::inside(const char* ascii, int depth) {
  for (; *ascii != '\0'; ++ascii) escape(static_cast<uint8_t>(*ascii), depth);
}

void Output::inside(Text characters, int depth) {
  for (uint32_t c = characters.next(); c < Text::kBad; c = characters.next()) escape(c, depth);
}

void Output::escape(uint32_t c, int depth) {
  if (depth == 0) return character(static_cast<char>(c));
  const auto unit = [&](uint32_t value) {
    inside("\\u", depth - 1);
    for (int shift = 12; shift >= 0; shift -= 4) escape(static_cast<uint8_t>("0123456789abcdef"[value >> shift & 15]), depth - 1);
  };
  if (c == '"' || c == '\\') {
    escape('\\', depth - 1);
    escape(c, depth - 1);
  } else if (c >= 0x20 && c < 0x80) {
    escape(c, depth - 1);
  } else if (c < 0x10000) {
    unit(c);
  } else {
    unit(0xd800 + ((c - 0x10000) >> 10));
    unit(0xdc00 + ((c - 0x10000) & 0x3ff));
  }
}

size_t write_file(const char* kind, std::initializer_list<Word> words, const Tensors& tensors, uint8_t* buffer, size_t size) {
  Output out(buffer, size);
  uint64_t length = 0;
  out.bytes(&length, sizeof length);
  const size_t digest = write_header(out, kind, words, tensors.list());
  length = out.written() - sizeof length;
  if (length > kMaxHeader) fail(Error::classes, "names: expected a header of at most {} bytes, got {}; give shorter names", {kMaxHeader, length});
  each_in_place(tensors.list(), [&](const Tensor& tensor) { write_values(out, tensor); });
  if (out.written() > size) return out.written();
  std::memcpy(buffer, &length, sizeof length);
  Sha256 sha;
  sha.add(buffer, out.written());
  sha.hex(reinterpret_cast<char*>(buffer) + digest);
  return out.written();
}

}  // namespace bitreplay
