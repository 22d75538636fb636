// A file of docs/formats.md as bytes: sorted JSON in ASCII, tensors by descending type, then by name.  The same content gives the same bytes.
#pragma once

#include <cstring>
#include <initializer_list>
#include <span>

#include "error.h"
#include "file.h"
#include "function_ref.h"

namespace bitreplay {

struct Tensor {
  char name[40];
  Type type;
  uint8_t width;  // bytes of an integer in memory, which may have another size than in the file
  uint8_t dimensions;
  uint64_t shape[4];
  const void* data;
  uint64_t count, begin;

  uint64_t bytes() const { return count * of_type(type).bytes; }
};

// The tensors of a file that is to be written.
class Tensors {
 public:
  explicit Tensors(std::span<Tensor> room) : room_(room) {}

  void add(const char* name, Type type, const void* data, std::span<const int64_t> shape);
  template <class T>
  void add(const char* name, std::span<const T> values, std::initializer_list<int64_t> shape) {
    add(name, type_of<T>(), values.data(), {shape.begin(), shape.size()});
    require(room_[count_ - 1].count == values.size(), "tensor {}: expected {} values, got {}", {name, room_[count_ - 1].count, values.size()});
  }
  template <class T>
  void add(const char* name, std::span<const T> values) {
    add(name, values, {static_cast<int64_t>(values.size())});
  }
  // With 32 bits where every value is smaller than 2^30 in magnitude, else with 64.
  template <class T>
  void add_compact(const char* name, std::span<const T> values, std::initializer_list<int64_t> shape) {
    constexpr int64_t kSmall = int64_t{1} << 30;
    add(name, values, shape);
    bool small = true;
    for (const T v : values) small = small && v > -kSmall && v < kSmall;
    room_[count_ - 1].type = small ? Type::i32 : Type::i64;
  }
  std::span<const Tensor> list() const { return room_.first(count_); }
  void arrange();  // by name; and where each begins

 private:
  std::span<Tensor> room_;
  size_t count_ = 0;
};

// Counts what is written, and writes as much of it as there is room for.
class Output {
 public:
  Output(uint8_t* buffer, size_t size) : buffer_(buffer), size_(size) {}
  size_t written() const { return at_; }

  void bytes(const void* from, size_t count) {
    if (count > 0 && at_ <= size_ && count <= size_ - at_) std::memcpy(buffer_ + at_, from, count);
    at_ += count;
  }
  void character(char c) { bytes(&c, 1); }
  void text(const char* c) { bytes(c, std::strlen(c)); }
  void number(uint64_t value);
  // What stands in a string of the header: `depth` 1; or in a string of JSON that is in it: 2.
  void inside(const char* ascii, int depth = 1);
  void inside(Text characters, int depth);

 private:
  void escape(uint32_t c, int depth);

  uint8_t* buffer_;
  size_t size_, at_ = 0;
};

// A text of the metadata.
struct Word {
  const char* key;
  FunctionRef<void(Output&)> text;  // writes what stands between its quotes
};

// The file; writes at most `size` bytes of it and returns how many it has.  A buffer that is large enough gets its digest.
// words: sorted by their keys, beside those that every file has.
size_t write_file(const char* kind, std::initializer_list<Word> words, const Tensors& tensors, uint8_t* buffer, size_t size);

}  // namespace bitreplay
