// The passes and the steps of gradient.h: which worker does what, and the largest values that the rounding of a tensor depends on.
// Workers divide the channels, so that every sum has one owner; products are those of gradient_products.cpp.
#include "gradient.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "fixed_point.h"
#include "random.h"
#include "training_tables.h"
#include "workers.h"

namespace bitreplay {
namespace {

constexpr int kMaxParts = 64;
constexpr int kPartChannels = 64;  // channels come to a worker in multiples of this

int bits_of(uint64_t largest) { return static_cast<int>(std::bit_width(largest)); }

Drop drop_for(uint64_t largest, const Rounding& rounding) {
  const int shift = std::max(0, bits_of(largest) - (rounding.bits - 1));
  const bool any = shift > 0;
  return {shift, any ? shift - 1 : 0, any, any, (1 << (rounding.bits - 1)) - 1, any && rounding.bits <= kStochasticBits, rounding.key};
}

// The largest of f(begin, count) of the parts of `count` values.
template <class F>
uint64_t largest_of_parts(int64_t count, Workers& workers, F&& f) {
  const int parts = std::min(workers.count(), kMaxParts);
  uint64_t found[kMaxParts] = {};
  workers.run(parts, [&](int part) {
    const int64_t begin = count * part / parts;
    found[part] = f(begin, count * (part + 1) / parts - begin);
  });
  return *std::max_element(found, found + parts);
}

// sums(strip) for the strips that a team divides the channels into, then round(strip, drop) with what their largest asks for; returns
// the shift.
template <class F, class G>
int sum_and_round(const Batch& batch, const Rounding& rounding, Workers& workers, F&& sums, G&& round) {
  const int blocks = (batch.channels + kPartChannels - 1) / kPartChannels, parts = std::min({workers.count(), blocks, kMaxParts});
  const auto strip = [&](int part) {
    return Strip{batch.pixels(), batch.channels, blocks * part / parts * kPartChannels,
                 std::min(batch.channels, blocks * (part + 1) / parts * kPartChannels)};
  };
  uint64_t found[kMaxParts] = {};
  workers.run(parts, [&](int part) { found[part] = sums(strip(part)); });
  const Drop drop = drop_for(*std::max_element(found, found + kMaxParts), rounding);
  workers.run(parts, [&](int part) { round(strip(part), drop); });
  return drop.shift;
}

template <class T, class Largest, class Round>
int requantise_with(Largest largest, Round round, std::span<const T> values, const Rounding& rounding, int16_t* out, Workers& workers) {
  const auto count = static_cast<int64_t>(values.size());
  const Drop drop = drop_for(
      largest_of_parts(count, workers, [&](int64_t begin, int64_t size) { return largest(values.data() + begin, size); }), rounding);
  largest_of_parts(count, workers, [&](int64_t begin, int64_t size) {
    round(values.data() + begin, size, begin, drop, out + begin);
    return 0;
  });
  return drop.shift;
}

}  // namespace

const GradientTable& gradient_table() {
  static const GradientTable& table = in_force(kGradientTables);
  return table;
}

int requantise(std::span<const int32_t> values, const Rounding& rounding, int16_t* out, Workers& workers, const GradientTable& table) {
  return requantise_with(table.largest32, table.round32, values, rounding, out, workers);
}

int requantise(std::span<const int64_t> values, const Rounding& rounding, int16_t* out, Workers& workers, const GradientTable& table) {
  return requantise_with(table.largest64, table.round64, values, rounding, out, workers);
}

int norm_gradient(const Batch& batch, const int16_t* g, const int16_t* z, const int16_t* mean, const int16_t* multiplier, bool relu,
                  const Rounding& rounding, int16_t* gz, int64_t* d_multiplier, int64_t* d_bias, Workers& workers, const GradientTable& table) {
  const int32_t floor = relu ? 0 : INT16_MIN - 1;
  return sum_and_round(
      batch, rounding, workers,
      [&](const Strip& strip) { return table.norm_sums(strip, g, z, mean, multiplier, floor, d_multiplier, d_bias); },
      [&](const Strip& strip, const Drop& drop) { table.norm_round(strip, g, z, multiplier, floor, drop, gz); });
}

int activation_gradient(const Batch& batch, const int16_t* g, const int16_t* w, const int16_t* high, const int16_t* low,
                        const Rounding& rounding, int16_t* gu, int64_t* d_high, int64_t* d_low, int64_t* d_alpha, int64_t* d_beta,
                        Workers& workers, const GradientTable& table) {
  return sum_and_round(
      batch, rounding, workers,
      [&](const Strip& strip) { return table.activation_sums(strip, g, w, high, low, d_high, d_low, d_alpha, d_beta); },
      [&](const Strip& strip, const Drop& drop) { table.activation_round(strip, g, w, high, low, drop, gu); });
}

int stream_gradient(const Batch& batch, const int16_t* gu, const int32_t* da, const int16_t* x, const Gate& gate, int shift,
                    const Rounding& rounding, int16_t* gx, int64_t* d_threshold, Workers& workers, const GradientTable& table) {
  const uint64_t largest =
      largest_of_parts(batch.size(), workers, [&](int64_t begin, int64_t size) { return table.largest32(da + begin, size); });
  // |d| <= 2 |da|; |gu| <= 2^15: both terms stay below 2^30.
  const int room = 29 + std::min(shift, 0);
  const bool wide = shift > 14 || room <= 0 || largest >= uint64_t{1} << room;
  return sum_and_round(
      batch, rounding, workers,
      [&](const Strip& strip) { return table.stream[wide](strip, gu, da, x, gate, shift, d_threshold, nullptr, nullptr); },
      [&](const Strip& strip, const Drop& drop) { table.stream[wide](strip, gu, da, x, gate, shift, nullptr, &drop, gx); });
}

namespace {

// The normalised step of one channel's shadow weights, and of their bits: of words of a tap.  Returns how many bits flipped.
template <class T>
int64_t step_shadow(const Batch& batch, const int32_t* dw, int64_t count, const Step& step, uint64_t key, T* shadow, uint64_t* weight,
                    uint32_t largest, void (*shift)(const int32_t*, int64_t, int, uint64_t, T*), uint64_t (*signs)(const T*, int)) {
  const int k = std::min(31, bits_of(largest) - (static_cast<int>(8 * sizeof(T)) - 1 - step.exponent) + step.decay);
  if (largest > 0) shift(dw, count, k, key, shadow);
  int64_t flipped = 0;
  for (int tap = 0; tap < kTaps; ++tap, shadow += batch.channels) {
    for (int c = 0; c < batch.channels; c += kWordBits, ++weight) {
      const uint64_t now = signs(shadow + c, std::min(kWordBits, batch.channels - c));
      flipped += std::popcount(now ^ *weight);
      *weight = now;
    }
  }
  return flipped;
}

int64_t flip_bits(const Batch& batch, const int32_t* dw, const Step& step, uint64_t key, uint64_t* weight, uint32_t largest,
                  const GradientTable& table) {
  const int shift = bits_of(largest) + step.exponent + step.decay, up = std::max(32 - shift, 0), down = std::max(shift - 32, 0);
  if (largest == 0 || shift >= 64) return 0;
  int64_t flipped = 0;
  alignas(64) int8_t fall[kWordBits], rise[kWordBits];
  for (int tap = 0; tap < kTaps; ++tap) {
    for (int c = 0; c < batch.channels; c += kWordBits, ++weight) {
      const int at = tap * batch.channels + c, count = std::min(kWordBits, batch.channels - c);
      table.choose_flips(dw + at, count, static_cast<uint32_t>(at), up, down, key, fall, rise);
      const uint64_t turned = (table.signs8(fall, count) & ~*weight) | (table.signs8(rise, count) & *weight);
      flipped += std::popcount(turned);
      *weight ^= turned;
    }
  }
  return flipped;
}

}  // namespace

int64_t step_channel(const Batch& batch, const int32_t* dw, const Step& step, int channel, void* shadow, uint64_t* weight,
                     const GradientTable& table) {
  const uint64_t key = draw(step.seed, Purpose::weight_rounding, step.step, step.block << 32 | static_cast<uint64_t>(channel));
  const int64_t count = int64_t{kTaps} * batch.channels;
  const uint32_t largest = table.largest32(dw, count);
  weight += int64_t{channel} * kTaps * batch.words();
  if (step.weight_bits == 1) return flip_bits(batch, dw, step, key, weight, largest, table);
  if (step.weight_bits == 8)
    return step_shadow(batch, dw, count, step, key, static_cast<int8_t*>(shadow) + channel * count, weight, largest, table.shift8, table.signs8);
  return step_shadow(batch, dw, count, step, key, static_cast<int16_t*>(shadow) + channel * count, weight, largest, table.shift16, table.signs16);
}

void step_parameters(std::span<const int64_t> d, int range, int exponent, int decay, int32_t limit, int32_t* master) {
  uint64_t largest = 0;
  for (const int64_t v : d) largest = std::max(largest, static_cast<uint64_t>(std::abs(v)));
  if (largest == 0) return;
  const int k = std::min<int>(62, bits_of(largest) - (range - exponent) + decay);
  for (size_t i = 0; i < d.size(); ++i) {
    // k < 0 leaves |change| < 2^(range - exponent - decay).
    const int64_t change = k >= 0 ? round_shift(d[i], k) : d[i] * (int64_t{1} << -k);
    master[i] = static_cast<int32_t>(std::clamp<int64_t>(master[i] - change, -int64_t{limit}, limit));
  }
}

}  // namespace bitreplay
