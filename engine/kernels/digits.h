// Products of gradients and bits by look-up, for instruction sets whose shuffle looks up bytes in a table of 16: the four bits of a step choose one
// of 16 sums of four gradients.  A sum is biased to be positive and divided into digits, one table each.  Looked-up digits add up in
// bytes, then in 16 bits, then in int32.
#pragma once

#include <algorithm>

#include "training_tables.h"

namespace bitreplay {

inline constexpr int kTable = 16;
inline constexpr int kDigits8 = 2, kDigits16 = 3;  // of a sum of four gradients of at most 8, 16 bits
inline constexpr int kDigitBits8 = 5, kDigitBits16 = 6;
inline constexpr int kBias8 = 4 * 127, kBias16 = 4 * 32767;

// sums += sum of g b over runs of `steps` steps.  Digits, of a tile: look_up(b, g, steps) adds steps, as many as a byte holds;
// move(bias, sums) adds all to the sums, less the bias, and begins anew; kMost: steps that its 16 bits hold.
template <int kDigits, class Digits>
__attribute__((always_inline)) inline void add_digits(const Run* runs, int count, int steps, int64_t b_step, int64_t g_step, Digits& digits, int32_t* sums) {
  constexpr int kBits = kDigits == kDigits8 ? kDigitBits8 : kDigitBits16, kRounds = 256 >> kBits, kBias = kDigits == kDigits8 ? kBias8 : kBias16;
  constexpr int kMost = Digits::kLargest >> kBits;
  int used = 0;
  for (const Run* run = runs; run < runs + count; ++run) {
    for (int step = 0; step < steps; step += kRounds) {
      const int now = std::min(kRounds, steps - step);
      if (used + now > kMost) {
        digits.move(used * kBias, sums);
        used = 0;
      }
      digits.look_up(run->b + step * b_step, run->g + step * g_step, now);
      used += now;
    }
  }
  digits.move(used * kBias, sums);
}

}  // namespace bitreplay
