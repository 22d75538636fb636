#include "head.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "fixed_point.h"

namespace bitreplay {
namespace {

constexpr int kForwardShift = 16;   // the forward pass reads the top 16 bits of a weight
constexpr int kLogitBits = 16;
constexpr int64_t kLog2E = 94548;   // log2(e) with 16 fraction bits
constexpr int64_t kLn2 = 45426;     // ln(2) with 16 fraction bits
constexpr int kRateBits = 16;

}  // namespace

void logits(std::span<const int8_t> row, std::span<const int32_t> weight, std::span<const uint32_t> active, int feature_bits,
            std::span<int64_t> out) {
  const size_t features = row.size();
  const int shift = feature_bits + (27 - kForwardShift) - kLogitBits;
  for (size_t i = 0; i < active.size(); ++i) {
    const int32_t* w = weight.data() + active[i] * features;
    int64_t sum = 0;
    for (size_t j = 0; j < features; ++j) sum += row[j] * (w[j] >> kForwardShift);
    out[i] = shift >= 0 ? round_shift(sum, shift) : sum * (int64_t{1} << -shift);
  }
}

void softmax(std::span<int64_t> values, int ghosts) {
  int64_t top = ghosts > 0 ? 0 : std::numeric_limits<int64_t>::min();
  for (const int64_t v : values) top = std::max(top, v);
  int64_t total = ghosts > 0 ? ghosts * exp2_negative((top * kLog2E) >> 16) : 0;
  for (int64_t& v : values) {
    v = exp2_negative(((top - v) * kLog2E) >> 16);
    total += v;
  }
  for (int64_t& v : values) v = divide_round(v * kProbabilityOne, total);
}

int64_t prior_correction(uint64_t classes, uint64_t numerator, uint64_t denominator) {
  return ((log2_q16(classes) + log2_q16(numerator) - log2_q16(denominator)) * kLn2) >> 16;
}

void descend(std::span<int32_t> weight, std::span<const int64_t> gradient, int64_t rate) {
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = sat32(weight[i] - round_shift(gradient[i] * rate, kRateBits));
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
