#include "head.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "fixed_point.h"

namespace bitreplay {
namespace {

constexpr int64_t kLn2 = 45426;  // ln(2) with 16 fraction bits

}  // namespace

Buffer<int16_t> forward_weights(std::span<const int32_t> weights) {
  Buffer<int16_t> forward(weights.size());
  std::transform(weights.begin(), weights.end(), forward.begin(), forward_weight);
  return forward;
}

int64_t prior_correction(uint64_t classes, uint64_t numerator, uint64_t denominator) {
  return ((log2_q16(classes) + log2_q16(numerator) - log2_q16(denominator)) * kLn2) >> 16;
}

void consolidate(std::span<const int32_t> consolidated, std::span<int32_t> trained, std::span<uint32_t> past,
                 std::span<const uint32_t> current, int features) {
  int64_t sum = 0;
  int64_t entries = 0;
  for (size_t c = 0; c < current.size(); ++c) {
    if (current[c] == 0) continue;
    for (int j = 0; j < features; ++j) sum += trained[c * features + j];
    entries += features;
  }
  if (entries == 0) return;
  const int64_t mean = divide_round(sum, entries);
  for (size_t c = 0; c < current.size(); ++c) {
    if (current[c] == 0) continue;
    const uint32_t common = std::gcd(past[c], current[c]);
    const auto p = static_cast<int64_t>(integer_sqrt(uint64_t{past[c] / common} << 24));
    const auto q = static_cast<int64_t>(integer_sqrt(uint64_t{current[c] / common} << 24));
    for (int j = 0; j < features; ++j) {
      int32_t& t = trained[c * features + j];
      t = sat32(divide_round((past[c] == 0 ? 0 : p * consolidated[c * features + j]) + q * (t - mean), p + q));
    }
    past[c] = static_cast<uint32_t>(std::min<uint64_t>(uint64_t{past[c]} + current[c], std::numeric_limits<uint32_t>::max()));
  }
}

}  // namespace bitreplay
