// JSON (RFC 8259, and Python's NaN and Infinity) read where it lies: nothing is allocated, values are found by looking through the text
// again.  A text may itself be a string of another JSON text, whose escapes are taken out on the way: so the header of a file and the
// JSON inside its strings are read alike.  Depth is limited to kMaxDepth.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitreplay {

// A sequence of characters (Unicode scalar values).
class Text {
 public:
  static constexpr uint32_t kEnd = 0xffffffff, kBad = 0xfffffffe;

  Text() = default;
  Text(const char* begin, const char* end, bool inside = false) : at_(begin), end_(end), inside_(inside) {}

  uint32_t next();                            // the next one, kEnd, or kBad where the text is not well formed
  uint32_t peek() const { return Text(*this).next(); }
  const char* place() const { return at_; }  // of the next one

 private:
  friend class Json;
  uint32_t decode();  // UTF-8

  const char *at_ = nullptr, *end_ = nullptr;
  bool inside_ = false;  // of a string: ends at its closing mark
};

// One value, in a text that `parse` has found to be sound.
class Json {
 public:
  static constexpr int kMaxDepth = 32;

  Json() = default;
  // Whether the whole text is one value; then that value.
  static bool parse(Text text, Json& value);

  bool exists() const { return exists_; }
  bool is_object() const { return kind() == '{'; }
  bool is_list() const { return kind() == '['; }
  bool is_string() const { return kind() == '"'; }
  bool boolean(bool& value) const;
  // A whole number, without fraction and exponent, of a magnitude below 2^64.
  bool whole(bool& negative, uint64_t& magnitude) const;
  bool whole(int64_t low, int64_t high, int64_t& value) const;
  // The value for a message: its text, a string's in single quotes, as far as 40 characters go; what cannot be printed as \u….
  void excerpt(char* out, size_t size) const;

  // The characters of a string that belongs to no other string: its own text can hold JSON.
  Text string() const;
  bool equals(const char* ascii) const;  // a string
  bool is_plain(size_t most) const;      // a string of at most so many characters of ASCII that can be printed
  // UTF-8 of a string: its bytes, of which at most `size` are written.
  size_t copy(char* out, size_t size) const;

  Json find(const char* key) const;  // the last member of that name

 private:
  friend class Entries;
  explicit Json(Text text) : text_(text), exists_(true) {}
  uint32_t kind() const { return exists_ ? text_.peek() : Text::kEnd; }
  Text behind_mark() const;  // where a string's characters begin
  static bool skip(Text& text, int depth);  // over a value
  static bool skip_string(Text& text);
  static bool skip_number(Text& text);
  static bool skip_word(Text& text, const char* word);
  static void skip_space(Text& text);

  Text text_;
  bool exists_ = false;
};

// The members of an object or the items of a list, one after the other.
class Entries {
 public:
  explicit Entries(const Json& container);
  bool next();
  Json key, value;  // no key in a list

 private:
  Text text_;
  bool object_ = false, first_ = true, done_ = true;
};

// Writes c as UTF-8, at most 4 bytes; returns how many.
int encode_utf8(uint32_t c, char* out);

}  // namespace bitreplay
