#include "names.h"

namespace bitreplay {

namespace {

bool is_between(uint32_t c, uint32_t first, uint32_t last) { return c >= first && c <= last; }

bool is_refused(uint32_t c) {  // controls, line breaks, marks of direction
  return c < 0x20 || is_between(c, 0x7f, 0x9f) || is_between(c, 0x2028, 0x2029) || c == 0x61c || is_between(c, 0x200e, 0x200f) ||
         is_between(c, 0x202a, 0x202e) || is_between(c, 0x2066, 0x2069);
}

bool is_blank(uint32_t c) {
  return c == 0x20 || c == 0xa0 || c == 0xad || c == 0x1680 || c == 0x180e || is_between(c, 0x2000, 0x200d) || c == 0x202f || c == 0x205f ||
         is_between(c, 0x2060, 0x2064) || c == 0x3000 || c == 0xfeff;
}

}  // namespace

bool is_name(std::string_view name) {
  Text text(name.data(), name.data() + name.size());
  bool visible = false;
  for (int count = 0;; ++count) {
    const uint32_t c = text.next();
    if (c == Text::kEnd) return visible && name != "." && name != "..";
    if (c == Text::kBad || is_refused(c) || count == kMaxName) return false;
    visible = visible || !is_blank(c);
  }
}

size_t Names::find(std::string_view name) const {
  size_t i = 0;
  while (i < size() && (*this)[i] != name) ++i;
  return i;
}

void Names::add(std::string_view name) {
  bytes_.insert(bytes_.end(), name.begin(), name.end());
  ends_.push_back(static_cast<uint32_t>(bytes_.size()));
}

bool Names::add(const Json& list) {
  for (Entries entries(list); entries.next();) {
    if (!entries.value.is_string() || ends_.size() == ends_.capacity()) return false;
    const size_t size = entries.value.copy(nullptr, 0), begin = bytes_.size();
    if (size > bytes_left()) return false;
    bytes_.resize(begin + size);
    entries.value.copy(bytes_.data() + begin, size);
    const std::string_view name(bytes_.data() + begin, size);
    if (!is_name(name) || find(name) != this->size()) return false;
    ends_.push_back(static_cast<uint32_t>(bytes_.size()));
  }
  return true;
}

}  // namespace bitreplay
