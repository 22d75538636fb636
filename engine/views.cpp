#include "views.h"

#include <algorithm>

namespace bitreplay {

void make_view(const uint8_t* image, size_t side, int view, uint8_t* out) {
  const bool mirrored = (view & 1) != 0;
  for (size_t y = 0; y < side; ++y) {
    for (size_t x = 0; x < side; ++x) std::copy_n(image + 3 * (y * side + (mirrored ? side - 1 - x : x)), 3, out + 3 * (y * side + x));
  }
}

}  // namespace bitreplay
