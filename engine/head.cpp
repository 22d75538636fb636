#include "head.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "fixed_point.h"
#include "kernels.h"

namespace bitreplay {
namespace {

constexpr int kForwardBits = 11;    // fraction bits of a forward weight
constexpr int kLogitBits = 16;
constexpr size_t kExactLength = 512;  // 512 * 127 < 65536: what dot_i16 sums in 32 bits
constexpr int64_t kLog2E = 94548;   // log2(e) with 16 fraction bits
constexpr int64_t kLn2 = 45426;     // ln(2) with 16 fraction bits
constexpr int kRateBits = 16;
constexpr int kPullBits = 8;

}  // namespace

void logits(std::span<const int16_t> row, std::span<const int16_t> forward, int feature_bits, std::span<int64_t> out) {
  const Kernels& kernel = kernels();
  const size_t features = row.size();
  const int shift = feature_bits + kForwardBits - kLogitBits;
  for (size_t i = 0; i < out.size(); ++i) {
    const int16_t* w = forward.data() + i * features;
    int64_t sum = 0;
    for (size_t j = 0; j < features; j += kExactLength) {
      sum += kernel.dot_i16(w + j, row.data() + j, static_cast<int>(std::min(kExactLength, features - j)));
    }
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

void descend(std::span<int32_t> weight, std::span<const int32_t> gradient, int64_t rate, std::span<const int32_t> anchor,
             int64_t pull) {
  for (size_t i = 0; i < weight.size(); ++i) {
    int64_t step = round_shift(gradient[i] * rate, kRateBits);
    if (!anchor.empty()) step += round_shift((int64_t{weight[i]} - anchor[i]) * pull, kRateBits + kPullBits);
    weight[i] = sat32(weight[i] - step);
  }
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
