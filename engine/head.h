// The CWR* head in integers (docs/method.md, 4): logits, softmax with ghosts, one gradient step, consolidation.
// Owns the arithmetic of the head; knows nothing of where a row came from.
#pragma once

#include <cstdint>
#include <span>

#include "memory.h"

namespace bitreplay {

inline constexpr int kProbabilityBits = 15;
inline constexpr int64_t kProbabilityOne = int64_t{1} << kProbabilityBits;

// Consolidated state: `weight` (classes, features) with 27 fraction bits, `past_count` rows seen before.
struct Head {
  Buffer<int32_t> weight;
  Buffer<uint32_t> past_count;
};

// What the forward pass reads of a weight: its top 16 bits.
constexpr int16_t forward_weight(int32_t weight) { return static_cast<int16_t>(weight >> 16); }

// Logits with 16 fraction bits of one row of features (values in -127..127): out[i] for row i of `forward` (out.size() rows).
void logits(std::span<const int16_t> row, std::span<const int16_t> forward, int feature_bits, std::span<int64_t> out);

// Softmax in place: logits (16 fraction bits) to probabilities (15 fraction bits), beside `ghosts` classes of logit 0.
void softmax(std::span<int64_t> values, int ghosts);

// prior = ln(classes * numerator / denominator) with 16 fraction bits; all > 0.
int64_t prior_correction(uint64_t classes, uint64_t numerator, uint64_t denominator);

// One step of one class: weight -= round_shift(gradient * rate, 16) + round_shift((weight - anchor) * pull, 24), saturating;
// an empty anchor pulls nothing.
void descend(std::span<int32_t> weight, std::span<const int32_t> gradient, int64_t rate, std::span<const int32_t> anchor,
             int64_t pull);

// CWR* consolidation: `trained` holds tw of the active classes on entry and their new cw on return; `past` is updated.
// classes whose `current` is 0 are not in the experience and stay as they are.
void consolidate(std::span<const int32_t> consolidated, std::span<int32_t> trained, std::span<uint32_t> past,
                 std::span<const uint32_t> current, int features);

}  // namespace bitreplay
