#include "json.h"

#include "error.h"

namespace bitreplay {
namespace {

int hex_digit(uint32_t c) {
  if (c >= '0' && c <= '9') return static_cast<int>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<int>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<int>(c - 'A' + 10);
  return -1;
}

template <class Next>
uint32_t four_digits(Next&& next) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    const int digit = hex_digit(next());
    if (digit < 0) return Text::kBad;
    value = value << 4 | static_cast<uint32_t>(digit);
  }
  return value;
}

// One character of a string, from what gives those of the text that holds it; kEnd at the closing mark.
template <class Next>
uint32_t string_character(Next&& next) {
  const uint32_t c = next();
  if (c == '"') return Text::kEnd;
  if (c < 0x20 || c >= Text::kBad) return Text::kBad;
  if (c != '\\') return c;
  switch (next()) {
    case '"': return '"';
    case '\\': return '\\';
    case '/': return '/';
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'u': break;
    default: return Text::kBad;
  }
  const uint32_t high = four_digits(next);
  if (high == Text::kBad || high < 0xd800 || high > 0xdfff) return high;
  if (high > 0xdbff || next() != '\\' || next() != 'u') return Text::kBad;  // half a character
  const uint32_t low = four_digits(next);
  if (low < 0xdc00 || low > 0xdfff) return Text::kBad;
  return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
}

uint32_t string_character(Text& text) {
  return string_character([&] { return text.next(); });
}

}  // namespace

int encode_utf8(uint32_t c, char* out) {
  if (c < 0x80) {
    out[0] = static_cast<char>(c);
    return 1;
  }
  const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  out[0] = static_cast<char>((0xf0 << (3 - more) & 0xff) | c >> (6 * more));
  for (int i = 1; i <= more; ++i) out[i] = static_cast<char>(0x80 | (c >> (6 * (more - i)) & 0x3f));
  return more + 1;
}

uint32_t Text::decode() {
  if (at_ == end_) return kEnd;
  const auto first = static_cast<uint8_t>(*at_++);
  if (first < 0x80) return first;
  const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  if (first < 0xc2 || first > 0xf4 || end_ - at_ < more) return kBad;
  uint32_t c = first & (0x3f >> more);
  for (int i = 0; i < more; ++i) {
    const auto byte = static_cast<uint8_t>(*at_++);
    if ((byte & 0xc0) != 0x80) return kBad;
    c = c << 6 | (byte & 0x3f);
  }
  const bool shorter = (more == 2 && c < 0x800) || (more == 3 && c < 0x10000);
  return shorter || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) ? kBad : c;
}

uint32_t Text::next() {
  if (!inside_) return decode();
  const Text before = *this;
  const uint32_t c = string_character([this] { return decode(); });
  if (c >= kBad) *this = before;  // stays at the end
  return c;
}

void Json::skip_space(Text& text) {
  while (true) {
    const uint32_t c = text.peek();
    if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
    text.next();
  }
}

bool Json::skip_word(Text& text, const char* word) {
  for (; *word != '\0'; ++word) {
    if (text.next() != static_cast<uint8_t>(*word)) return false;
  }
  return true;
}

bool Json::skip_string(Text& text) {
  if (text.next() != '"') return false;
  uint32_t c = 0;
  while (c < Text::kBad) c = string_character(text);
  return c == Text::kEnd;
}

bool Json::skip_number(Text& text) {
  const auto digits = [&] {
    int count = 0;
    for (; text.peek() - '0' < 10; ++count) text.next();
    return count > 0;
  };
  if (text.peek() == '-') text.next();
  if (text.peek() == 'I') return skip_word(text, "Infinity");
  if (text.peek() == '0') {
    text.next();
  } else if (!digits()) {
    return false;
  }
  if (text.peek() == '.') {
    text.next();
    if (!digits()) return false;
  }
  if ((text.peek() | 0x20) == 'e') {
    text.next();
    if (text.peek() == '+' || text.peek() == '-') text.next();
    if (!digits()) return false;
  }
  return true;
}

bool Json::skip(Text& text, int depth) {
  switch (const uint32_t c = text.peek()) {
    case '"': return skip_string(text);
    case 't': return skip_word(text, "true");
    case 'f': return skip_word(text, "false");
    case 'n': return skip_word(text, "null");
    case 'N': return skip_word(text, "NaN");
    case '{':
    case '[': {
      if (depth == kMaxDepth) return false;
      const uint32_t close = c == '{' ? '}' : ']';
      text.next();
      skip_space(text);
      if (text.peek() == close) {
        text.next();
        return true;
      }
      while (true) {
        if (c == '{') {
          skip_space(text);
          if (!skip_string(text)) return false;
          skip_space(text);
          if (text.next() != ':') return false;
        }
        skip_space(text);
        if (!skip(text, depth + 1)) return false;
        skip_space(text);
        const uint32_t after = text.next();
        if (after == close) return true;
        if (after != ',') return false;
      }
    }
    default: return skip_number(text);
  }
}

bool Json::parse(Text text, Json& value) {
  skip_space(text);
  value = Json(text);
  if (!skip(text, 0)) return false;
  skip_space(text);
  return text.next() == Text::kEnd;
}

bool Json::boolean(bool& value) const {
  const uint32_t c = kind();
  value = c == 't';
  return c == 't' || c == 'f';
}

bool Json::whole(bool& negative, uint64_t& magnitude) const {
  if (!exists_) return false;
  Text text = text_;
  negative = text.peek() == '-';
  if (negative) text.next();
  magnitude = 0;
  int digits = 0;
  for (; text.peek() - '0' < 10; ++digits) {
    const uint64_t digit = text.next() - '0';
    if (magnitude > (UINT64_MAX - digit) / 10) return false;
    magnitude = magnitude * 10 + digit;
  }
  const uint32_t after = text.peek();
  return digits > 0 && after != '.' && (after | 0x20) != 'e';
}

bool Json::whole(int64_t low, int64_t high, int64_t& value) const {
  bool negative;
  uint64_t magnitude;
  if (!whole(negative, magnitude) || magnitude > uint64_t{INT64_MAX}) return false;
  value = negative ? -static_cast<int64_t>(magnitude) : static_cast<int64_t>(magnitude);
  return value >= low && value <= high;
}

void Json::excerpt(char* out, size_t size) const {
  if (!exists_) {
    format_message(out, size, "nothing", {});
    return;
  }
  size_t at = 0;
  const auto put = [&](char c) {
    if (at + 1 < size && at < 40) out[at++] = c;
  };
  const auto show = [&](uint32_t c) {
    if (c >= 0x20 && c < 0x7f) return put(static_cast<char>(c));
    put('\\');
    put('u');
    for (int shift = c > 0xffff ? 20 : 12; shift >= 0; shift -= 4) put("0123456789abcdef"[c >> shift & 15]);
  };
  if (is_string()) {
    Text text = behind_mark();
    put('\'');
    for (uint32_t c; (c = string_character(text)) != Text::kEnd && at < 40;) show(c);
    put('\'');
  } else {
    Text text = text_, end = text_;
    skip(end, 0);
    while (text.place() != end.place() && at < 40) show(text.next());
  }
  out[at] = '\0';
}

bool Json::is_plain(size_t most) const {
  if (!is_string()) return false;
  Text text = behind_mark();
  for (size_t count = 0;; ++count) {
    const uint32_t c = string_character(text);
    if (c == Text::kEnd) return true;
    if (c < 0x20 || c > 0x7e || count == most) return false;
  }
}

Text Json::behind_mark() const {
  Text text = text_;
  text.next();
  return text;
}

Text Json::string() const { return Text(text_.at_ + 1, text_.end_, true); }

bool Json::equals(const char* ascii) const {
  if (!is_string()) return false;
  Text text = behind_mark();
  for (; *ascii != '\0'; ++ascii) {
    if (string_character(text) != static_cast<uint8_t>(*ascii)) return false;
  }
  return string_character(text) == Text::kEnd;
}

size_t Json::copy(char* out, size_t size) const {
  Text text = behind_mark();
  size_t total = 0;
  for (uint32_t c; (c = string_character(text)) != Text::kEnd;) {
    char bytes[4];
    const int count = encode_utf8(c, bytes);
    for (int i = 0; i < count; ++i, ++total) {
      if (total < size) out[total] = bytes[i];
    }
  }
  return total;
}

Json Json::find(const char* key) const {
  Json found;
  if (!is_object()) return found;
  for (Entries entries(*this); entries.next();) {
    if (entries.key.equals(key)) found = entries.value;
  }
  return found;
}

Entries::Entries(const Json& container) : text_(container.text_) {
  if (!container.is_object() && !container.is_list()) return;
  object_ = text_.next() == '{';
  done_ = false;
}

bool Entries::next() {
  if (done_) return false;
  Json::skip_space(text_);
  const uint32_t c = text_.peek();
  if (c == '}' || c == ']') {
    done_ = true;
    return false;
  }
  if (!first_) {
    text_.next();  // the comma
    Json::skip_space(text_);
  }
  first_ = false;
  if (object_) {
    key = Json(text_);
    Json::skip_string(text_);
    Json::skip_space(text_);
    text_.next();  // the colon
    Json::skip_space(text_);
  }
  value = Json(text_);
  Json::skip(text_, 0);
  return true;
}

}  // namespace bitreplay
