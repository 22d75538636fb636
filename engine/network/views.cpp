#include "views.h"

namespace bitreplay {
namespace {

// Where a pixel of an enlarged cut of `cut` pixels lies in it: bilinear, centres on centres, in units of 1 / (2 * side).
struct Place {
  size_t low, high, fraction;
};

Place place_of(size_t i, size_t side, size_t cut) {
  const size_t unit = 2 * side, at = (2 * i + 1) * cut;
  if (at < side) return {0, 0, 0};
  const size_t low = (at - side) / unit;
  return {low, low + 1 < cut ? low + 1 : cut - 1, (at - side) % unit};
}

}  // namespace

void make_view(const uint8_t* image, size_t side, int view, uint8_t* out) {
  const bool mirrored = (view & 1) != 0, whole = view < 2;
  const size_t cut = whole ? side : side * 27 / 32, offset = view >= 4 ? side - cut : 0, unit = 2 * side;
  for (size_t y = 0; y < side; ++y) {
    const Place row = whole ? Place{y, y, 0} : place_of(y, side, cut);
    for (size_t x = 0; x < side; ++x, out += 3) {
      const size_t from = mirrored ? side - 1 - x : x;
      const Place column = whole ? Place{from, from, 0} : place_of(from, side, cut);
      const uint8_t* above = image + 3 * (row.low + offset) * side;
      const uint8_t* below = image + 3 * (row.high + offset) * side;
      for (size_t c = 0; c < 3; ++c) {
        const size_t left = 3 * (column.low + offset) + c, right = 3 * (column.high + offset) + c;
        const size_t upper = above[left] * (unit - column.fraction) + above[right] * column.fraction;
        const size_t lower = below[left] * (unit - column.fraction) + below[right] * column.fraction;
        out[c] = static_cast<uint8_t>((upper * (unit - row.fraction) + lower * row.fraction + unit * unit / 2) / (unit * unit));
      }
    }
  }
}

}  // namespace bitreplay
