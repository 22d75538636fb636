// The CWR* head in integers (docs/method.md, 6): what is kept, the prior and consolidation; its
// steps are in head_kernels.h.  Owns the arithmetic of the head; knows nothing of where a row came from.
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
Buffer<int16_t> forward_weights(std::span<const int32_t> weights);

// prior = ln(classes * numerator / denominator) with 16 fraction bits; all > 0.
int64_t prior_correction(uint64_t classes, uint64_t numerator, uint64_t denominator);

// CWR* consolidation: `trained` holds tw of the active classes on entry and their new cw on return; `past` is updated.
// classes whose `current` is 0 are not in the experience and stay as they are.
void consolidate(std::span<const int32_t> consolidated, std::span<int32_t> trained, std::span<uint32_t> past,
                 std::span<const uint32_t> current, int features);

}  // namespace bitreplay
