// Hands the functions of gradient.h to the table in force.
#include "gradient.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "fixed_point.h"
#include "gradient_table.h"

namespace bitreplay {
namespace {

const GradientTable& choose() {
#ifdef BITREPLAY_HAVE_AVX2
  const char* isa = kernels().isa;
  if (std::strcmp(isa, "avx512") == 0) return has_gradient_avx512() ? gradient_avx512() : gradient_avx2();
  if (std::strcmp(isa, "avx2") == 0) return gradient_avx2();
#endif
#ifdef BITREPLAY_HAVE_NEON
  if (std::strcmp(kernels().isa, "neon") == 0) return gradient_neon();
#endif
  return gradient_scalar();
}

}  // namespace

const GradientTable& gradient_table() {
  static const GradientTable& table = choose();
  return table;
}

int requantise(std::span<const int32_t> values, const Rounding& rounding, int16_t* out, Workers& workers) {
  return gradient_table().requantise32(values, rounding, out, workers);
}

int requantise(std::span<const int64_t> values, const Rounding& rounding, int16_t* out, Workers& workers) {
  return gradient_table().requantise64(values, rounding, out, workers);
}

int norm_gradient(const Batch& batch, const int16_t* g, const int16_t* z, const int16_t* mean, const int16_t* multiplier,
                  bool relu, const Rounding& rounding, int16_t* gz, int64_t* d_multiplier, int64_t* d_bias, Workers& workers) {
  return gradient_table().norm_gradient(batch, g, z, mean, multiplier, relu, rounding, gz, d_multiplier, d_bias, workers);
}

int activation_gradient(const Batch& batch, const int16_t* g, const int16_t* w, const int16_t* high, const int16_t* low,
                        const Rounding& rounding, int16_t* gu, int64_t* d_high, int64_t* d_low, int64_t* d_alpha, int64_t* d_beta,
                        Workers& workers) {
  return gradient_table().activation_gradient(batch, g, w, high, low, rounding, gu, d_high, d_low, d_alpha, d_beta, workers);
}

void input_gradient(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* weight, int32_t* da, void* scratch,
                    Workers& workers) {
  gradient_table().input_gradient(batch, gradient_bits, gz, weight, da, scratch, workers);
}

int64_t input_gradient_scratch(const Batch& batch, int gradient_bits, int threads) {
  return gradient_table().input_gradient_scratch(batch, gradient_bits, threads);
}

int stream_gradient(const Batch& batch, const int16_t* gu, const int32_t* da, const int16_t* x, const Gate& gate, int shift,
                    const Rounding& rounding, int16_t* gx, int64_t* d_threshold, Workers& workers) {
  return gradient_table().stream_gradient(batch, gu, da, x, gate, shift, rounding, gx, d_threshold, workers);
}

int64_t step_weights(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* bits, const Step& step,
                     void* shadow, uint64_t* weight, void* scratch, Workers& workers) {
  return gradient_table().step_weights(batch, gradient_bits, gz, bits, step, shadow, weight, scratch, workers);
}

int64_t step_weights_scratch(const Batch& batch, int gradient_bits, int threads) {
  return gradient_table().step_weights_scratch(batch, gradient_bits, threads);
}

void weight_gradient(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* bits, int32_t* dw, void* scratch,
                     Workers& workers) {
  gradient_table().weight_gradient(batch, gradient_bits, gz, bits, dw, scratch, workers);
}

void step_shadow(std::span<const int32_t> dw, const Step& step, uint64_t key, int8_t* shadow) {
  gradient_table().step_shadow8(dw, step, key, shadow);
}

void step_shadow(std::span<const int32_t> dw, const Step& step, uint64_t key, int16_t* shadow) {
  gradient_table().step_shadow16(dw, step, key, shadow);
}

void step_parameters(std::span<const int64_t> d, int range, int exponent, int decay, int32_t limit, int32_t* master) {
  uint64_t largest = 0;
  for (const int64_t v : d) largest = std::max(largest, static_cast<uint64_t>(std::abs(v)));
  if (largest == 0) return;
  const int k = std::min<int>(62, static_cast<int>(std::bit_width(largest)) - (range - exponent) + decay);
  for (size_t i = 0; i < d.size(); ++i) {
    // k < 0 leaves |change| < 2^(range - exponent - decay).
    const int64_t change = k >= 0 ? round_shift(d[i], k) : d[i] * (int64_t{1} << -k);
    master[i] = static_cast<int32_t>(std::clamp<int64_t>(master[i] - change, -int64_t{limit}, limit));
  }
}

}  // namespace bitreplay
