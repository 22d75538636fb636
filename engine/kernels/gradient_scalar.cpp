// The plain meaning of gradient.h: read this one.  Simple loops that a compiler can vectorise; one thread does all.
#include <algorithm>
#include <bit>
#include <cstdlib>

#include "bits.h"
#include "fixed_point.h"
#include "gradient_table.h"
#include "random.h"

namespace bitreplay {
namespace {
namespace plain {

int bits_of(uint64_t largest) { return static_cast<int>(std::bit_width(largest)); }

// How far values whose largest is `largest` are shifted to have `bits` bits (7.3).
int shift_for(uint64_t largest, int bits) { return std::max(0, bits_of(largest) - (bits - 1)); }

int16_t round_to(int64_t t, int shift, const Rounding& rounding, int64_t index) {
  const int64_t limit = (1 << (rounding.bits - 1)) - 1;
  if (rounding.bits > kStochasticBits) {
    t = round_shift(t, shift);
  } else if (shift > 0) {
    const int last = std::min(shift, 32);
    const uint32_t r = noise(rounding.key, static_cast<uint32_t>(index)) >> (32 - last);
    t = ((t >> (shift - last)) + r) >> last;
  }
  return static_cast<int16_t>(std::clamp(t, -limit, limit));
}

template <class T>
uint64_t largest_of(std::span<const T> values) {
  uint64_t largest = 0;
  for (const T v : values) largest = std::max(largest, static_cast<uint64_t>(std::abs(int64_t{v})));
  return largest;
}

template <class T>
int requantise(std::span<const T> values, const Rounding& rounding, int16_t* out, Workers&) {
  const int shift = shift_for(largest_of(values), rounding.bits);
  for (size_t i = 0; i < values.size(); ++i) out[i] = round_to(values[i], shift, rounding, static_cast<int64_t>(i));
  return shift;
}

int norm_gradient(const Batch& batch, const int16_t* g, const int16_t* z, const int16_t* mean, const int16_t* multiplier,
                  bool relu, const Rounding& rounding, int16_t* gz, int64_t* d_multiplier, int64_t* d_bias, Workers&) {
  const int channels = batch.channels;
  uint64_t largest = 0;
  for (int64_t i = 0; i < batch.size(); ++i) {
    const int c = static_cast<int>(i % channels);
    const int r = relu ? std::max<int>(z[i], 0) : z[i];
    d_multiplier[c] += int64_t{g[i]} * (r - mean[c]);
    d_bias[c] += g[i];
    largest = std::max(largest, static_cast<uint64_t>(std::abs(g[i] * multiplier[c])));
  }
  const int shift = shift_for(largest, rounding.bits);
  for (int64_t i = 0; i < batch.size(); ++i) {
    gz[i] = relu && z[i] <= 0 ? int16_t{0} : round_to(g[i] * multiplier[i % channels], shift, rounding, i);
  }
  return shift;
}

int activation_gradient(const Batch& batch, const int16_t* g, const int16_t* w, const int16_t* high, const int16_t* low,
                        const Rounding& rounding, int16_t* gu, int64_t* d_high, int64_t* d_low, int64_t* d_alpha, int64_t* d_beta,
                        Workers&) {
  const int channels = batch.channels;
  uint64_t largest = 0;
  for (int64_t i = 0; i < batch.size(); ++i) {
    const int c = static_cast<int>(i % channels);
    const int32_t t = g[i] * (w[i] >= 0 ? high[c] : low[c]);
    (w[i] >= 0 ? d_high : d_low)[c] += g[i] * w[i];
    d_alpha[c] -= t;
    d_beta[c] -= g[i];
    largest = std::max(largest, static_cast<uint64_t>(std::abs(t)));
  }
  const int shift = shift_for(largest, rounding.bits);
  for (int64_t i = 0; i < batch.size(); ++i) {
    const auto c = i % channels;
    gu[i] = round_to(g[i] * (w[i] >= 0 ? high[c] : low[c]), shift, rounding, i);
  }
  return shift;
}

// +1 and -1 of `channels` bits.
void expand(const uint64_t* words, int channels, int16_t* signs) {
  for (int i = 0; i < channels; ++i) signs[i] = bit_at(words, i) ? -1 : 1;
}

void add_scaled(int32_t factor, const int16_t* signs, int channels, int32_t* sums) {
  for (int i = 0; i < channels; ++i) sums[i] += factor * signs[i];
}

void input_gradient(const Batch& batch, int, const int16_t* gz, const uint64_t* weight, int32_t* da, void* scratch, Workers&) {
  const int channels = batch.channels, height = batch.height, width = batch.width;
  auto* signs = static_cast<int16_t*>(scratch);
  std::fill_n(da, batch.size(), 0);
  for (int o = 0; o < channels; ++o) {
    for (int tap = 0; tap < kTaps; ++tap) {
      expand(weight + (int64_t{o} * kTaps + tap) * batch.words(), channels, signs);
      const int dy = tap / 3 - 1, dx = tap % 3 - 1;
      for (int row = 0; row < batch.rows; ++row) {
        for (int y = std::max(0, dy); y < std::min(height, height + dy); ++y) {
          for (int x = std::max(0, dx); x < std::min(width, width + dx); ++x) {
            const int64_t to = (int64_t{row} * height + y) * width + x;
            const int64_t from = to - dy * width - dx;
            if (const int32_t g = gz[from * channels + o]) add_scaled(g, signs, channels, da + to * channels);
          }
        }
      }
    }
  }
}

int64_t input_gradient_scratch(const Batch& batch, int, int) { return batch.channels * int64_t{sizeof(int16_t)}; }

// d of 7.4, 4: what the gate lets through of da at value i, channel c.
int64_t gated(const Gate& gate, const Batch& batch, const int32_t* da, const int16_t* x, int64_t i, int c) {
  if (gate.open) return bit_at(gate.open + i / batch.channels * batch.words(), c) ? da[i] : 0;
  const int32_t a = std::abs(x[i] + (gate.threshold ? gate.threshold[c] : 0));
  if (!gate.approx) return a <= gate.clip ? da[i] : 0;
  const int64_t one = int64_t{1} << gate.exponent;
  const int64_t product = da[i] * std::max<int64_t>(one - a, 0);
  return gate.exponent == 0 ? product * 2 : round_shift(product, gate.exponent - 1);
}

int stream_gradient(const Batch& batch, const int16_t* gu, const int32_t* da, const int16_t* x, const Gate& gate, int shift,
                    const Rounding& rounding, int16_t* gx, int64_t* d_threshold, Workers&) {
  const int channels = batch.channels;
  const int64_t g_unit = int64_t{1} << std::max(shift, 0), d_unit = int64_t{1} << std::max(-shift, 0);
  uint64_t largest = 0;
  for (int64_t i = 0; i < batch.size(); ++i) {
    const int c = static_cast<int>(i % channels);
    const int64_t d = gated(gate, batch, da, x, i, c);
    if (d_threshold) d_threshold[c] += d;
    largest = std::max(largest, static_cast<uint64_t>(std::abs(gu[i] * g_unit + d * d_unit)));
  }
  const int drop = shift_for(largest, rounding.bits);
  for (int64_t i = 0; i < batch.size(); ++i) {
    const int64_t d = gated(gate, batch, da, x, i, static_cast<int>(i % channels));
    gx[i] = round_to(gu[i] * g_unit + d * d_unit, drop, rounding, i);
  }
  return drop;
}

// dW of output channel o: (9, channels).
void channel_gradient(const Batch& batch, const int16_t* gz, const uint64_t* bits, int o, int16_t* signs, int32_t* dw) {
  const int channels = batch.channels, height = batch.height, width = batch.width;
  std::fill_n(dw, kTaps * channels, 0);
  int32_t outside[kTaps] = {};  // sums of g where the tap sees the border, which is +1 in every channel
  for (int row = 0; row < batch.rows; ++row) {
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const int64_t pixel = (int64_t{row} * height + y) * width + x;
        expand(bits + pixel * batch.words(), channels, signs);
        for (int tap = 0; tap < kTaps; ++tap) {
          // The window around (y - dy, x - dx) sees this pixel by tap (dy, dx).
          const int dy = tap / 3 - 1, dx = tap % 3 - 1;
          if (y - dy >= 0 && y - dy < height && x - dx >= 0 && x - dx < width) {
            if (const int32_t g = gz[(pixel - dy * width - dx) * channels + o])
              add_scaled(g, signs, channels, dw + tap * channels);
          }
          if (y + dy < 0 || y + dy >= height || x + dx < 0 || x + dx >= width) outside[tap] += gz[pixel * channels + o];
        }
      }
    }
  }
  for (int tap = 0; tap < kTaps; ++tap) {
    for (int i = 0; i < channels; ++i) dw[tap * channels + i] += outside[tap];
  }
}

template <class T>
void step_shadow(std::span<const int32_t> dw, const Step& step, uint64_t key, T* shadow) {
  constexpr int kBits = 8 * sizeof(T);
  constexpr int64_t kLimit = (1 << (kBits - 1)) - 1;
  const uint64_t largest = largest_of(dw);
  if (largest == 0) return;
  const int k = std::min(31, bits_of(largest) - (kBits - 1 - step.exponent) + step.decay);
  for (size_t i = 0; i < dw.size(); ++i) {
    const int64_t change =
        k > 0 ? (dw[i] + int64_t{noise(key, static_cast<uint32_t>(i)) >> (32 - k)}) >> k : dw[i] * (int64_t{1} << -k);
    shadow[i] = static_cast<T>(std::clamp(shadow[i] - change, -kLimit, kLimit));
  }
}

// 7.5, b_w = 1: whether the weight with this bit turns over.
bool flips(int32_t dw, bool bit, int bits, const Step& step, uint64_t key, size_t index) {
  if (dw == 0 || (dw > 0) == bit) return false;
  const int shift = bits + step.exponent + step.decay;
  const uint64_t chance = shift > 63 ? 0 : (static_cast<uint64_t>(std::abs(int64_t{dw})) << 32) >> shift;
  return noise(key, static_cast<uint32_t>(index)) < chance;
}

int64_t step_weights(const Batch& batch, int, const int16_t* gz, const uint64_t* bits, const Step& step, void* shadow,
                     uint64_t* weight, void* scratch, Workers&) {
  const auto channels = static_cast<size_t>(batch.channels), words = static_cast<size_t>(batch.words());
  const size_t count = kTaps * channels;
  auto* dw = static_cast<int32_t*>(scratch);
  auto* signs = reinterpret_cast<int16_t*>(dw + count);
  int64_t flipped = 0;
  for (size_t o = 0; o < channels; ++o, weight += kTaps * words) {
    channel_gradient(batch, gz, bits, static_cast<int>(o), signs, dw);
    const uint64_t key = draw(step.seed, Purpose::weight_rounding, step.step, step.block << 32 | o);
    auto* shadow8 = static_cast<int8_t*>(shadow) + o * count;
    auto* shadow16 = static_cast<int16_t*>(shadow) + o * count;
    if (step.weight_bits == 8) step_shadow<int8_t>({dw, count}, step, key, shadow8);
    if (step.weight_bits == 16) step_shadow<int16_t>({dw, count}, step, key, shadow16);
    const int largest_bits = bits_of(largest_of(std::span<const int32_t>(dw, count)));
    for (size_t at = 0; at < count; ++at) {
      const size_t i = at % channels;
      uint64_t& word = weight[at / channels * words + i / kWordBits];
      const bool bit = (word >> (i % kWordBits)) & 1;
      const bool turned = step.weight_bits == 8    ? (shadow8[at] < 0) != bit
                          : step.weight_bits == 16 ? (shadow16[at] < 0) != bit
                                                   : flips(dw[at], bit, largest_bits, step, key, at);
      word ^= static_cast<uint64_t>(turned) << (i % kWordBits);
      flipped += turned;
    }
  }
  return flipped;
}

int64_t step_weights_scratch(const Batch& batch, int, int) {
  return batch.channels * (kTaps * int64_t{sizeof(int32_t)} + int64_t{sizeof(int16_t)});
}

void weight_gradient(const Batch& batch, int, const int16_t* gz, const uint64_t* bits, int32_t* dw, void* scratch, Workers&) {
  for (int o = 0; o < batch.channels; ++o) {
    channel_gradient(batch, gz, bits, o, static_cast<int16_t*>(scratch), dw + int64_t{o} * kTaps * batch.channels);
  }
}

}  // namespace plain
}  // namespace

const GradientTable& gradient_scalar() {
  static const GradientTable table{"scalar",
                                   plain::requantise<int32_t>,
                                   plain::requantise<int64_t>,
                                   plain::norm_gradient,
                                   plain::activation_gradient,
                                   plain::input_gradient,
                                   plain::input_gradient_scratch,
                                   plain::stream_gradient,
                                   plain::step_weights,
                                   plain::step_weights_scratch,
                                   plain::weight_gradient,
                                   plain::step_shadow<int8_t>,
                                   plain::step_shadow<int16_t>};
  return table;
}

}  // namespace bitreplay
