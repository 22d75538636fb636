// The views of a picture (docs/method.md, 1.1): itself, its mirror image, and both moved a little.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitreplay {

inline constexpr int kMostViews = 2;

// Writes view number `view` of an RGB image of side x side pixels.
void make_view(const uint8_t* image, size_t side, int view, uint8_t* out);

}  // namespace bitreplay
