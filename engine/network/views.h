// The views of a picture (docs/method.md, 1.1): itself and its mirror image; the same of its upper left and of its lower right, enlarged.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitreplay {

constexpr bool are_views(int views) { return views == 1 || views == 2 || views == 6; }
inline constexpr int kMostViews = 6;

// Writes view number `view` of an RGB image of side x side pixels.
void make_view(const uint8_t* image, size_t side, int view, uint8_t* out);

}  // namespace bitreplay
