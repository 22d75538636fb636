#include "names.h"

namespace bitreplay {

bool is_name(std::string_view name) {
  Text text(name.data(), name.data() + name.size());
  while (true) {
    const uint32_t c = text.next();
    if (c == Text::kEnd) return !name.empty();
    if (c < 0x20 || (c >= 0x7f && c < 0xa0) || c == Text::kBad) return false;
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
