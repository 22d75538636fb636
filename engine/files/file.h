// A file of docs/formats.md where it lies in memory: header, digest, tensors as views.  Owns no memory of the file.  Whatever does not fit
// leaves by `fail` with Error::format, or Error::damaged where the bytes are not those that were written.
#pragma once

#include <initializer_list>
#include <span>
#include <type_traits>
#ifndef BITREPLAY_DEVICE
#include <string>
#include <unordered_map>
#endif

#include "error.h"
#include "json.h"

namespace bitreplay {

inline constexpr size_t kMaxHeader = size_t{1} << 21;
inline constexpr const char* kKinds[] = {"model", "state"};

// What the beginning of a file says it is, unverified; `content` may end behind the header.
struct Label {
  const char* kind = nullptr;  // one of kKinds; null: none of ours
  char digest[65] = {};
};
Label read_label(const void* content, size_t size);

// A value of a file as messages show it: at most 40 characters, all of which can be printed.
class Excerpt {
 public:
  explicit Excerpt(const Json& value) { value.excerpt(text_, sizeof text_); }
  const char* text() const { return text_; }

 private:
  char text_[48];
};

// What tensors are of: those that ours may be of, in the order in which they lie in a file, and others that are told from them.
enum class Type : uint8_t { u64, i64, u32, i32, u16, i16, i8, u8 };
inline constexpr int kOwnTypes = 8;
struct Dtype {
  const char *code, *name;
  uint8_t bytes;
};
inline constexpr Dtype kDtypes[] = {{"U64", "uint64", 8},  {"I64", "int64", 8},   {"U32", "uint32", 4},  {"I32", "int32", 4},
                                    {"U16", "uint16", 2},  {"I16", "int16", 2},   {"I8", "int8", 1},     {"U8", "uint8", 1},
                                    {"F16", "float16", 2}, {"F32", "float32", 4}, {"F64", "float64", 8}, {"BOOL", "bool", 1}};
inline const Dtype& of_type(Type type) { return kDtypes[static_cast<int>(type)]; }
template <class T>
constexpr Type type_of() {
  constexpr bool is_signed = std::is_signed_v<T>;
  if (sizeof(T) == 8) return is_signed ? Type::i64 : Type::u64;
  if (sizeof(T) == 4) return is_signed ? Type::i32 : Type::u32;
  if (sizeof(T) == 2) return is_signed ? Type::i16 : Type::u16;
  return is_signed ? Type::i8 : Type::u8;
}

class File {
 public:
  // Reads the header; kind: one of kKinds; where: what messages call the file; both outlive this.  content: at a multiple of 8.
  File(const void* content, size_t size, const char* kind, const char* where);
  // Whether the content is what was written, a pass over all of it, and the header describes arrays that lie one behind the other.  Before
  // any tensor is asked for.
  void verify();

  const char* where() const { return where_; }
  std::span<const uint8_t> content() const { return {content_, size_}; }
  const char* digest() const { return digest_; }  // 64 digits, no final 0
  // JSON in the metadata under that key.
  Json json(const char* key) const;
  Json word(const char* key) const { return words_.find(key); }

  // The values of a tensor, which must be there with that type and shape, and be taken once.
  template <class T>
  std::span<const T> take(const char* name, std::initializer_list<int64_t> shape);
  // Whether there is a tensor of that name and type.
  template <class T>
  bool holds(const char* name) const;
  // A list of bytes of any length; empty where there is none.
  std::span<const uint8_t> take_bytes(const char* name);
  // After all were taken: no other tensor is there, and every byte behind the header belongs to one.
  void finish() const;

  // Size of the first dimension of a tensor that has just one, else 0.
  int64_t length(const char* name) const;

 private:
  struct Place {
    uint64_t begin, end;
  };
  Json entry(const char* name) const;
  bool place_of(const Json& entry, Place& place) const;
  Place check_entry(const Json& name, const Json& entry) const;
  bool is_seam(uint64_t offset) const;  // where a tensor that is not empty begins, or the data end
  bool has_type(const char* name, Type type) const { return entry(name).find("dtype").equals(of_type(type).code); }
  const uint8_t* take_raw(const char* name, Type type, std::initializer_list<int64_t> shape);
  void note_taken(const char* name);

  const uint8_t* content_;
  size_t size_;
  const char *kind_, *where_;
  size_t start_ = 0;  // of the data
  Json header_, words_;
  char digest_[64];
  size_t tensors_ = 0, taken_ = 0;
#ifndef BITREPLAY_DEVICE
  // Those not taken yet, found at once: a header may be long and its author an enemy.  A device looks through the header instead.
  std::unordered_map<std::string, Json> entries_;
#endif
};

template <class T>
std::span<const T> File::take(const char* name, std::initializer_list<int64_t> shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return {reinterpret_cast<const T*>(take_raw(name, type_of<T>(), shape)), static_cast<size_t>(count)};
}

template <class T>
bool File::holds(const char* name) const {
  return has_type(name, type_of<T>());
}

// "prefix.3" and "weight" make "prefix.3.weight".
class Name {
 public:
  Name(const char* part, size_t index, const char* name) { format_message(text_, sizeof text_, "{}.{}.{}", {part, index, name}); }
  operator const char*() const { return text_; }

 private:
  char text_[48];
};

}  // namespace bitreplay
