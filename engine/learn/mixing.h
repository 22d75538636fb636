// How the logits of the frozen branch and of the trained one make one, and how that is chosen on rows that were held back from training
// (docs/method.md, 7.7).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "memory.h"

namespace bitreplay {

inline constexpr int kMixingBits = 16;
inline constexpr int64_t kMostMixing = int64_t{1} << 20;

// logit = frozen * l(frozen) + branch * l(trained); 16 fraction bits each; l(frozen) of LDA is at its temperature.
struct Mixing {
  int64_t frozen = int64_t{1} << kMixingBits;
  int64_t branch = 0;
};

// The weight that brings the scores of LDA to logits: 1 / temperature, which depends on how many rows a class has.
int64_t inverse_temperature(int64_t rows, size_t classes);

inline constexpr size_t kMostHeld = 256;  // rows of a class that the branch is judged by

// Rows that were held back: logits (rows, classes) of LDA without the row at that temperature, and of the trained branch.
struct HeldBack {
  size_t classes = 0;
  std::span<const uint32_t> labels;
  std::span<const int64_t> frozen, branch;
};

struct Choice {
  Mixing mixing;       // of these logits
  int32_t worse = -1;  // an old class for whose sake the branch is not heard, or -1
};

// Both branches at one common scale, or LDA alone: what has the lowest log-loss, the mean over classes, on those rows; the branch only where it gains more
// than half a standard error (where it was heard before: at all), its scale is not a sign of overconfidence, and no old class loses by it.  old: 1 for a
// class that was known before the lesson.
Choice choose_mixing(const HeldBack& rows, std::span<const uint8_t> old, bool heard);

}  // namespace bitreplay
