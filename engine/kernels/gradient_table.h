// One table of the functions of gradient.h whose speed matters: their plain meaning (scalar), and the same for an instruction
// set.  Which one is in force follows kernels().isa.  The signatures, formulas and ranges are those of gradient.h.
#pragma once

#include "gradient.h"
#include "kernels.h"

namespace bitreplay {

struct GradientTable {
  const char* isa;
  int (*requantise32)(std::span<const int32_t> values, const Rounding& rounding, int16_t* out, Workers& workers);
  int (*requantise64)(std::span<const int64_t> values, const Rounding& rounding, int16_t* out, Workers& workers);
  int (*norm_gradient)(const Batch& batch, const int16_t* g, const int16_t* z, const int16_t* mean, const int16_t* multiplier,
                       bool relu, const Rounding& rounding, int16_t* gz, int64_t* d_multiplier, int64_t* d_bias,
                       Workers& workers);
  int (*activation_gradient)(const Batch& batch, const int16_t* g, const int16_t* w, const int16_t* high, const int16_t* low,
                             const Rounding& rounding, int16_t* gu, int64_t* d_high, int64_t* d_low, int64_t* d_alpha,
                             int64_t* d_beta, Workers& workers);
  void (*input_gradient)(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* weight, int32_t* da,
                         void* scratch, Workers& workers);
  int64_t (*input_gradient_scratch)(const Batch& batch, int gradient_bits, int threads);
  int (*stream_gradient)(const Batch& batch, const int16_t* gu, const int32_t* da, const int16_t* x, const Gate& gate, int shift,
                         const Rounding& rounding, int16_t* gx, int64_t* d_threshold, Workers& workers);
  int64_t (*step_weights)(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* bits, const Step& step,
                          void* shadow, uint64_t* weight, void* scratch, Workers& workers);
  int64_t (*step_weights_scratch)(const Batch& batch, int gradient_bits, int threads);
  void (*weight_gradient)(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* bits, int32_t* dw,
                          void* scratch, Workers& workers);
  void (*step_shadow8)(std::span<const int32_t> dw, const Step& step, uint64_t key, int8_t* shadow);
  void (*step_shadow16)(std::span<const int32_t> dw, const Step& step, uint64_t key, int16_t* shadow);
};

// The table in force.
const GradientTable& gradient_table();

const GradientTable& gradient_scalar();
#ifdef BITREPLAY_HAVE_AVX2
const GradientTable& gradient_avx2();
const GradientTable& gradient_avx512();
bool has_gradient_avx512();  // AVX-512 F, BW, VL, VNNI
#endif
#ifdef BITREPLAY_HAVE_NEON
const GradientTable& gradient_neon();
#endif

}  // namespace bitreplay
