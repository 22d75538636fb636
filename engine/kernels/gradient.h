// The arithmetic of the backward pass of binary 3x3 blocks over a whole minibatch, and of their steps (docs/method.md, 7.3 to 7.5).
// Knows pointers, shapes and bit widths; nothing of lessons, heads, labels or replay.  Tensors are NHWC: (rows, height, width,
// channels); packed ones (rows, height * width, words_for(channels)).  Results do not depend on threads or instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "bits.h"

namespace bitreplay {

class Workers;
struct GradientTable;  // the leaves for an instruction set: training_tables.h

// The table in force; checks hand others to the functions below.
const GradientTable& gradient_table();

// Shape of a minibatch's tensor.
struct Batch {
  int rows = 0, height = 0, width = 0, channels = 0;
  int64_t pixels() const { return int64_t{rows} * height * width; }
  int64_t size() const { return pixels() * channels; }
  int words() const { return words_for(channels); }
};

inline constexpr int kStochasticBits = 4;  // gradients of at most as many bits are rounded stochastically

// How a tensor of sums becomes int16 mantissas of `bits` bits (7.3); the key is read for bits <= 4 only.
struct Rounding {
  int bits = 16;
  uint64_t key = 0;
};

// How weights and parameters step (7.5).
struct Step {
  int weight_bits = 8;  // 1, 8, 16
  int exponent = 4;     // largest change is 2^-exponent of the range
  int decay = 0;
  uint64_t seed = 0, step = 0;  // of the keys: step = experience << 32 | step in the lesson
  uint64_t block = 0;
};

// out = requant(values); returns the shift.  out may not alias values.
int requantise(std::span<const int32_t> values, const Rounding& rounding, int16_t* out, Workers& workers,
               const GradientTable& table = gradient_table());
int requantise(std::span<const int64_t> values, const Rounding& rounding, int16_t* out, Workers& workers,
               const GradientTable& table = gradient_table());

// 7.4, 2: from g (with respect to u) and z (raw dot products): gz = requant(g * multiplier), then 0 where relu and z <= 0 (the
// largest is that of all values); |z| and |mean| at most 9 * channels, channels <= 1024.  Adds to
// d_multiplier and d_bias (channels).  Returns the shift.  gz may be g or z.
int norm_gradient(const Batch& batch, const int16_t* g, const int16_t* z, const int16_t* mean, const int16_t* multiplier, bool relu,
                  const Rounding& rounding, int16_t* gz, int64_t* d_multiplier, int64_t* d_bias, Workers& workers,
                  const GradientTable& table = gradient_table());

// 7.4, 1: w is what the slopes see (3.3).  gu = requant(g * slope); adds to d_high, d_low, d_alpha, d_beta (channels).  gu may be g.
int activation_gradient(const Batch& batch, const int16_t* g, const int16_t* w, const int16_t* high, const int16_t* low,
                        const Rounding& rounding, int16_t* gu, int64_t* d_high, int64_t* d_low, int64_t* d_alpha, int64_t* d_beta,
                        Workers& workers, const GradientTable& table = gradient_table());

// 7.4, 4, first half: da(rows, pixel, i) = sum over taps and o of gz(pixel - tap, o) * W(o, tap, i).
// weight: canonical (channels, 9, words).  |gz| < 2^(gradient_bits - 1).  scratch: input_gradient_scratch bytes, 64-aligned.
void input_gradient(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* weight, int32_t* da, void* scratch,
                    Workers& workers, const GradientTable& table = gradient_table());
int64_t input_gradient_scratch(const Batch& batch, int gradient_bits, int threads, const GradientTable& table = gradient_table());

// Which values of the block's input let the gradient of the sign through.
struct Gate {
  bool approx = false;              // ApproxSign instead of the clip
  int32_t clip = 0;                 // |x + threshold| <= clip, if not approx
  int exponent = 0;                 // of the stream, 0..30 if approx: one = 2^exponent
  const int16_t* threshold = nullptr;  // (channels), or nullptr for 0
  const uint64_t* open = nullptr;      // packed like the input's signs, bit 1 = let through: then x, clip and threshold are not read
};

// 7.4, 4, second half: gx = requant(gu * 2^k + d), k = shift; d from da and the gate on x (the block's input stream).
// d_threshold (channels) is added to, or nullptr.  gx may be gu; gate.open stands in for x where x was not kept.
int stream_gradient(const Batch& batch, const int16_t* gu, const int32_t* da, const int16_t* x, const Gate& gate, int shift,
                    const Rounding& rounding, int16_t* gx, int64_t* d_threshold, Workers& workers,
                    const GradientTable& table = gradient_table());

// 7.4, 3 and 7.5: dW from gz and the packed signs of the block's input, then the step of shadow weights (canonical (channels, 3,
// 3, channels); int8_t for 8 bits, int16_t for 16, ignored for 1) and of their bits `weight` (canonical).  No dW tensor is made.
// Returns how many bits flipped.
int64_t step_weights(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* bits, const Step& step, void* shadow,
                     uint64_t* weight, void* scratch, Workers& workers, const GradientTable& table = gradient_table());
int64_t step_weights_scratch(const Batch& batch, int gradient_bits, int threads, const GradientTable& table = gradient_table());

// dW alone, (channels, 9, channels): for tests and for looking at gradients.  scratch: step_weights_scratch bytes, 64-aligned.
void weight_gradient(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* bits, int32_t* dw, void* scratch,
                     Workers& workers, const GradientTable& table = gradient_table());

// The step of output channel `channel`, of its sums dw (9, channels): a part of step_weights.
int64_t step_channel(const Batch& batch, const int32_t* dw, const Step& step, int channel, void* shadow, uint64_t* weight,
                     const GradientTable& table);

// Normalised step of per-channel masters: range and limit as in 7.1.
void step_parameters(std::span<const int64_t> d, int range, int exponent, int decay, int32_t limit, int32_t* master);

}  // namespace bitreplay
