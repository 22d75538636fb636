// Every gradient table, scalar included, against docs/method.md 7.3 to 7.5 value by value, and its products against plain loops: on sizes
// around its tiles, on extreme values, for every width of gradients and weights and with several threads.
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <utility>

#include "check.h"
#include "fixed_point.h"
#include "kernels/training_tables.h"
#include "workers.h"

namespace bitreplay::checks {
namespace {

// ---- the meaning

int bits_of(uint64_t largest) { return static_cast<int>(std::bit_width(largest)); }

// requant of value(0) .. value(count - 1).
template <class F>
int requantise_each(int64_t count, const Rounding& rounding, int16_t* out, F&& value) {
  uint64_t largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, static_cast<uint64_t>(std::abs(int64_t{value(i)})));
  const int shift = std::max(0, bits_of(largest) - (rounding.bits - 1)), last = std::min(shift, 32);
  const int64_t limit = (1 << (rounding.bits - 1)) - 1;
  for (int64_t i = 0; i < count; ++i) {
    int64_t t = value(i);
    if (rounding.bits > kStochasticBits) {
      t = round_shift(t, shift);
    } else if (shift > 0) {
      t = ((t >> (shift - last)) + (noise(rounding.key, static_cast<uint32_t>(i)) >> (32 - last))) >> last;
    }
    out[i] = static_cast<int16_t>(std::clamp(t, -limit, limit));
  }
  return shift;
}

// What the gate lets through of da at value i, channel c.
int64_t gated(const Gate& gate, const Batch& batch, const int32_t* da, const int16_t* x, int64_t i, int64_t c) {
  if (gate.open) return bit_at(gate.open + i / batch.channels * batch.words(), static_cast<int>(c)) ? da[i] : 0;
  const int32_t a = std::abs(x[i] + (gate.threshold ? gate.threshold[c] : 0));
  if (!gate.approx) return a <= gate.clip ? da[i] : 0;
  const int64_t product = da[i] * std::max<int64_t>((int64_t{1} << gate.exponent) - a, 0);
  return gate.exponent == 0 ? product * 2 : round_shift(product, gate.exponent - 1);
}

// The step of one channel from its dw: of shadow weights, or of `negative`, the signs of the weights, where a weight has one bit.
void step_each(const int32_t* dw, int64_t count, const Step& step, uint64_t key, int32_t* shadow, uint8_t* negative) {
  uint64_t largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, static_cast<uint64_t>(std::abs(int64_t{dw[i]})));
  if (largest == 0) return;
  const int64_t limit = (1 << (step.weight_bits - 1)) - 1;
  const int k = std::min(31, bits_of(largest) - (step.weight_bits - 1 - step.exponent) + step.decay);
  const int shift = bits_of(largest) + step.exponent + step.decay;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t r = noise(key, static_cast<uint32_t>(i));
    if (step.weight_bits == 1) {
      const uint64_t chance = shift > 63 ? 0 : (static_cast<uint64_t>(std::abs(int64_t{dw[i]})) << 32) >> shift;
      if (dw[i] != 0 && (dw[i] > 0) != (negative[i] != 0) && r < chance) negative[i] ^= 1;
    } else {
      const int64_t change = k > 0 ? (dw[i] + int64_t{r >> (32 - k)}) >> k : dw[i] * (int64_t{1} << -k);
      shadow[i] = static_cast<int32_t>(std::clamp(shadow[i] - change, -limit, limit));
      negative[i] = shadow[i] < 0;
    }
  }
}

// ---- tables against it

class GradientCheck {
 public:
  GradientCheck(const GradientTable& table, int threads) : table_(table), threads_(threads), workers_(threads) {}

  void products(const Batch& batch, int bits, Pattern g_pattern, Pattern b_pattern) {
    begin(batch, {bits, g_pattern, b_pattern});
    const auto gz = gradients(batch, bits, g_pattern);
    const auto weight = packed(int64_t{batch.channels} * kTaps, batch.channels, b_pattern, random_);
    const auto signs = packed(batch.pixels(), batch.channels, b_pattern, random_);
    Exact<int32_t> da[2] = {Exact<int32_t>(gz.size()), Exact<int32_t>(gz.size())};
    for (const bool plain : {true, false}) {
      const GradientTable& table = plain ? gradient_scalar() : table_;
      auto scratch = room(input_gradient_scratch(batch, bits, threads_, table));
      input_gradient(batch, bits, gz.data(), weight.data(), da[plain].data(), scratch.data(), workers_, table);
    }
    expect(da[0] == da[1], "input_gradient");
    expect(weight_gradients(batch, bits, gz, signs, table_) == weight_gradients(batch, bits, gz, signs, gradient_scalar()), "weight_gradient");
  }

  template <class T>
  void steps(const Batch& batch, int bits, const Step& step, Pattern pattern) {
    begin(batch, {bits, step.weight_bits, step.exponent, step.decay, pattern});
    const int64_t channel = int64_t{batch.channels} * kTaps, count = channel * batch.channels;
    const auto gz = gradients(batch, bits, pattern);
    const auto signs = packed(batch.pixels(), batch.channels, kRandom, random_);
    auto weight = packed(channel, batch.channels, pattern, random_);
    auto shadow = values<T>(count, -std::numeric_limits<T>::max(), std::numeric_limits<T>::max(), pattern, random_);
    const auto dw = weight_gradients(batch, bits, gz, signs, gradient_scalar());
    Exact<int32_t> expected(count);
    Exact<uint8_t> negative(count), before(count);
    const auto bit = [&](int64_t i) -> bool { return bit_at(weight.data() + i / batch.channels * batch.words(), static_cast<int>(i % batch.channels)); };
    if (step.weight_bits > 1) {
      std::fill_n(weight.data(), weight.size(), 0);
      for (int64_t i = 0; i < count; ++i) {
        weight[i / batch.channels * batch.words() + i % batch.channels / kWordBits] |= uint64_t{shadow[i] < 0} << (i % batch.channels % kWordBits);
      }
    }
    for (int64_t i = 0; i < count; ++i) expected[i] = shadow[i], before[i] = negative[i] = bit(i);
    for (int64_t o = 0; o < batch.channels; ++o) {
      const uint64_t key = draw(step.seed, Purpose::weight_rounding, step.step, step.block << 32 | static_cast<uint64_t>(o));
      step_each(dw.data() + o * channel, channel, step, key, expected.data() + o * channel, negative.data() + o * channel);
    }
    auto scratch = room(step_weights_scratch(batch, bits, threads_, table_));
    int64_t flips = step_weights(batch, bits, gz.data(), signs.data(), step, shadow.data(), weight.data(), scratch.data(), workers_, table_);
    bool equal = true;
    for (int64_t i = 0; i < count; ++i) {
      equal &= shadow[i] == expected[i] && bit(i) == (negative[i] != 0);
      flips -= before[i] != negative[i];
    }
    for (int64_t row = 0; row < channel; ++row) equal &= (weight[(row + 1) * batch.words() - 1] & ~last_word_mask(batch.channels)) == 0;
    expect(equal && flips == 0, "step_weights");
  }

  void passes(const Batch& batch, int bits, Pattern pattern, bool relu) {
    begin(batch, {bits, pattern, relu});
    const int64_t size = batch.size(), channels = batch.channels, dots = kTaps * channels;
    const Rounding rounding{bits, random_()};
    const auto g = gradients(batch, bits, pattern);
    const auto z = values<int16_t>(size, -dots, dots, pattern == kLow ? kHigh : pattern, random_);
    const auto x = values<int16_t>(size, -INT16_MAX, INT16_MAX, pattern == kHigh ? kRandom : pattern, random_);
    const auto mean = values<int16_t>(channels, -dots, dots, pattern, random_);
    const auto one = values<int16_t>(channels, -INT16_MAX, INT16_MAX, pattern, random_);
    const auto two = values<int16_t>(channels, -INT16_MAX, INT16_MAX, kRandom, random_);
    // Both from the same sums; `over` is what the output lies over, if anything.
    const auto both = [&](const char* name, const Exact<int16_t>* over, auto&& meaning, auto&& run) {
      Exact<int64_t> sums = values<int64_t>(4 * channels, -1000, 1000, kRandom, random_), table_sums = sums;
      Exact<int16_t> out(size), table_out = over ? *over : out;
      int64_t* expected[4] = {sums.data(), sums.data() + channels, sums.data() + 2 * channels, sums.data() + 3 * channels};
      int64_t* got[4] = {table_sums.data(), table_sums.data() + channels, table_sums.data() + 2 * channels, table_sums.data() + 3 * channels};
      const int shift = meaning(out.data(), expected);
      expect(shift == run(table_out.data(), got) && out == table_out && sums == table_sums, name);
    };

    const auto norm = [&](int16_t* out, int64_t** sums) {
      for (int64_t i = 0; i < size; ++i) {
        sums[0][i % channels] += int64_t{g[i]} * ((relu ? std::max<int>(z[i], 0) : z[i]) - mean[i % channels]);
        sums[1][i % channels] += g[i];
      }
      const int shift = requantise_each(size, rounding, out, [&](int64_t i) { return g[i] * one[i % channels]; });
      for (int64_t i = 0; i < size; ++i) out[i] = relu && z[i] <= 0 ? int16_t{0} : out[i];
      return shift;
    };
    for (const auto* over : {static_cast<const Exact<int16_t>*>(nullptr), &z, &g}) {
      both("norm_gradient", over, norm, [&](int16_t* to, int64_t** s) {
        return norm_gradient(batch, over == &g ? to : g.data(), over == &z ? to : z.data(), mean.data(), one.data(), relu, rounding, to, s[0], s[1],
                             workers_, table_);
      });
    }
    const auto slope = [&](int64_t i) { return (x[i] >= 0 ? one : two)[i % channels]; };
    const auto activation = [&](int16_t* out, int64_t** sums) {
      for (int64_t i = 0; i < size; ++i) {
        sums[x[i] >= 0 ? 0 : 1][i % channels] += g[i] * x[i];
        sums[2][i % channels] -= g[i] * slope(i);
        sums[3][i % channels] -= g[i];
      }
      return requantise_each(size, rounding, out, [&](int64_t i) { return g[i] * slope(i); });
    };
    both("activation_gradient over g", &g, activation, [&](int16_t* to, int64_t** s) {
      return activation_gradient(batch, to, x.data(), one.data(), two.data(), rounding, to, s[0], s[1], s[2], s[3], workers_, table_);
    });
    for (const int magnitude : {0, 7, 20, 28, 30, 31}) {
      requantises<int32_t>(size, (int64_t{1} << magnitude) - 1, pattern, rounding, both);
      requantises<int64_t>(size, int64_t{1} << std::min(2 * magnitude, 61), pattern, rounding, both);
    }
    const auto open = packed(batch.pixels(), batch.channels, pattern, random_);
    for (const int magnitude : {12, 27, 30}) {
      const auto da = values<int32_t>(size, -((int64_t{1} << magnitude) - 1), (int64_t{1} << magnitude) - 1, pattern, random_);
      for (const int shift : {-30, -1, 0, 9, 15, 46}) {
        for (int kind = 0; kind < 6; ++kind) {
          Gate gate{kind >= 3, kind == 1 ? 0 : 1000, kind == 3 ? 0 : kind == 4 ? 11 : 30, kind % 2 ? two.data() : nullptr, nullptr};
          if (kind == 0) gate.open = open.data();
          const auto stream = [&](int16_t* out, int64_t** sums) {
            for (int64_t i = 0; kind != 1 && i < size; ++i) sums[0][i % channels] += gated(gate, batch, da.data(), x.data(), i, i % channels);
            return requantise_each(size, rounding, out, [&](int64_t i) {
              return g[i] * (int64_t{1} << std::max(shift, 0)) +
                     gated(gate, batch, da.data(), x.data(), i, i % channels) * (int64_t{1} << std::max(-shift, 0));
            });
          };
          both("stream_gradient over gu", &g, stream, [&](int16_t* to, int64_t** s) {
            return stream_gradient(batch, to, da.data(), gate.open ? nullptr : x.data(), gate, shift, rounding, to, kind == 1 ? nullptr : s[0],
                                   workers_, table_);
          });
        }
      }
    }
  }

 private:
  template <class T, class F>
  void requantises(int64_t size, int64_t limit, Pattern pattern, const Rounding& rounding, F&& both) {
    const auto from = values<T>(size, -limit, limit, pattern, random_);
    both("requantise", nullptr, [&](int16_t* out, int64_t**) { return requantise_each(size, rounding, out, [&](int64_t i) { return from[i]; }); },
         [&](int16_t* to, int64_t**) { return requantise(std::span<const T>(from.data(), static_cast<size_t>(size)), rounding, to, workers_, table_); });
  }
  Exact<int16_t> gradients(const Batch& batch, int bits, Pattern pattern) {
    return values<int16_t>(batch.size(), 1 - (1 << (bits - 1)), (1 << (bits - 1)) - 1, pattern, random_);
  }
  Exact<int32_t> weight_gradients(const Batch& batch, int bits, const Exact<int16_t>& gz, const Exact<uint64_t>& signs, const GradientTable& table) {
    Exact<int32_t> dw(int64_t{batch.channels} * kTaps * batch.channels);
    auto scratch = room(step_weights_scratch(batch, bits, threads_, table));
    weight_gradient(batch, bits, gz.data(), signs.data(), dw.data(), scratch.data(), workers_, table);
    return dw;
  }
  void begin(const Batch& batch, std::initializer_list<int64_t> more) {
    what_ = text(text(table_.isa, {threads_, batch.rows, batch.height, batch.width, batch.channels}) + ',', more);
    random_ = {1000000 + static_cast<uint64_t>(g_checks)};
  }
  void expect(bool condition, const char* name) { checks::expect(condition, condition ? std::string() : name + (": " + what_)); }
  static Exact<uint8_t> room(int64_t bytes) {
    Exact<uint8_t> scratch(bytes);
    std::fill_n(scratch.data(), bytes, uint8_t{0xa5});
    return scratch;
  }

  const GradientTable& table_;
  int threads_;
  Workers workers_;
  std::string what_;
  Source random_{0};
};

void check_table(GradientCheck& check) {
  for (const int channels : {1, 3, 63, 64, 65, 100, 128}) {
    for (const Batch& shape : {Batch{1, 1, 1, channels}, Batch{2, 2, 3, channels}, Batch{7, 4, 4, channels}, Batch{2, 5, 7, channels}}) {
      for (int bits = 2; bits <= 16; ++bits) check.products(shape, bits, kRandom, kRandom);
      for (const Pattern g : kExtremes) {
        for (const Pattern b : kExtremes) {
          for (const int bits : {8, 16}) check.products(shape, bits, g, b);
        }
      }
    }
  }
  // Enough steps for sums of bytes to leave int16: over images, and over channels.
  check.products({140, 2, 2, 20}, 8, kHigh, kHigh);
  check.products({600, 1, 1, 20}, 8, kLow, kHigh);
  check.products({3, 2, 3, 384}, 8, kLow, kHigh);
  check.products({5, 2, 2, 640}, 16, kLow, kHigh);
  for (const int channels : {1, 63, 65, 100}) {
    for (const Pattern pattern : {kAlternating, kRandom}) {
      for (const int weight_bits : {1, 8, 16}) {
        for (const int exponent : {1, 4, 12, 20}) {
          const Step step{weight_bits, exponent, exponent % 3, 5, 7, 2};
          for (const auto& [shape, bits] : {std::pair{Batch{3, 2, 3, channels}, exponent == 4 ? 16 : 2}, {{2, 4, 4, channels}, exponent == 4 ? 8 : 15}}) {
            weight_bits == 16 ? check.steps<int16_t>(shape, bits, step, pattern) : check.steps<int8_t>(shape, bits, step, pattern);
          }
        }
      }
    }
  }
  for (const int channels : {1, 3, 63, 64, 65, 200}) {
    for (const Batch& shape : {Batch{1, 1, 1, channels}, Batch{2, 2, 3, channels}}) {
      for (int bits = 2; bits <= 16; ++bits) check.passes(shape, bits, kExtremes[bits % 4], bits % 3 == 0);
      for (const Pattern pattern : kExtremes) check.passes(shape, 16, pattern, true);
    }
  }
}

}  // namespace

void check_gradients() {
  for (const GradientTable* table : runnable<GradientTable>(kGradientTables)) {
    for (const int threads : {1, 3}) {
      GradientCheck check(*table, threads);
      check_table(check);
    }
    std::printf("%s gradients are right\n", table->isa);
  }
}

}  // namespace bitreplay::checks
