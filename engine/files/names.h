// The names of classes, UTF-8, one behind the other in memory that is reserved once.
#pragma once

#include <string_view>

#include "memory.h"
#include "json.h"

namespace bitreplay {

inline constexpr size_t kNameBytes = 32;  // room of a class that is not known yet; what one does not need another may have

inline constexpr int kMaxName = 200;  // characters
inline constexpr const char* kNamesFault = "names: expected at most {} different names";

// Whether that is UTF-8 of a name (docs/formats.md, State): up to kMaxName characters, one of them visible, no controls, line breaks or marks
// of direction; neither "." nor "..", which an address would lose.  Written out, so that no library's tables change what is one.
bool is_name(std::string_view name);

class Names {
 public:
  void reserve(size_t classes, size_t bytes) {
    ends_.reserve(classes);
    bytes_.reserve(bytes);
  }
  size_t size() const { return ends_.size(); }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return {bytes_.data() + begin, ends_[i] - begin};
  }
  size_t find(std::string_view name) const;  // size() where it is not known
  size_t bytes_left() const { return bytes_.capacity() - bytes_.size(); }
  void add(std::string_view name);  // there must be room
  // Adds a JSON list of strings; false where one is no name or there twice, or there is no room.
  bool add(const Json& list);

 private:
  List<uint32_t> ends_;
  List<char> bytes_;
};

}  // namespace bitreplay
