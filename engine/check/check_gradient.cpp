// Every gradient table equals the plain one on sizes around its tiles, on extreme values, for every width of gradients and
// weights and with several threads; buffers end at their allocation.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bits.h"
#include "check_values.h"
#include "kernels/gradient_table.h"
#include "workers.h"

namespace bitreplay::check {
namespace {

std::vector<const GradientTable*> gradient_tables() {
  std::vector<const GradientTable*> tables;
#ifdef BITREPLAY_HAVE_AVX2
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) tables.push_back(&gradient_avx2());
  if (has_gradient_avx512()) tables.push_back(&gradient_avx512());
#endif
#ifdef BITREPLAY_HAVE_NEON
  tables.push_back(&gradient_neon());
#endif
  return tables;
}

Exact<uint64_t> words(size_t rows, int channels, Pattern pattern, Source& random) {
  const auto count = static_cast<size_t>(words_for(channels));
  Exact<uint64_t> result(rows * count);
  for (size_t i = 0; i < rows * count; ++i) {
    result[i] = pattern == Pattern::low           ? 0
                : pattern == Pattern::high        ? ~uint64_t{0}
                : pattern == Pattern::alternating ? 0xaaaaaaaaaaaaaaaaULL
                                                  : random();
    if (i % count == count - 1) result[i] &= last_word_mask(channels);
  }
  return result;
}

class GradientCheck {
 public:
  GradientCheck(const GradientTable& table, int threads) : fast_(table), threads_(threads), workers_(threads) {}

  void products(const Batch& batch, int bits, Pattern g_pattern, Pattern b_pattern) {
    begin(batch, bits,
          "g " + std::to_string(static_cast<int>(g_pattern)) + ", bits " + std::to_string(static_cast<int>(b_pattern)));
    Source random = source();
    const auto pixels = static_cast<size_t>(batch.pixels());
    const auto rows = static_cast<size_t>(batch.channels) * kTaps;
    const auto gz = values<int16_t>(static_cast<size_t>(batch.size()), (1 << (bits - 1)) - 1, g_pattern, random);
    const auto weight = words(rows, batch.channels, b_pattern, random);
    const auto signs = words(pixels, batch.channels, b_pattern, random);
    Exact<int32_t> da(gz.size()), fast_da(gz.size());
    plain_.input_gradient(batch, bits, gz.data(), weight.data(), da.data(),
                          scratch(plain_.input_gradient_scratch(batch, bits, threads_)), workers_);
    fast_.input_gradient(batch, bits, gz.data(), weight.data(), fast_da.data(),
                         scratch(fast_.input_gradient_scratch(batch, bits, threads_)), workers_);
    expect(da == fast_da, "input_gradient");
    Exact<int32_t> dw(rows * static_cast<size_t>(batch.channels)), fast_dw(dw.size());
    plain_.weight_gradient(batch, bits, gz.data(), signs.data(), dw.data(),
                           scratch(plain_.step_weights_scratch(batch, bits, threads_)), workers_);
    fast_.weight_gradient(batch, bits, gz.data(), signs.data(), fast_dw.data(),
                          scratch(fast_.step_weights_scratch(batch, bits, threads_)), workers_);
    expect(dw == fast_dw, "weight_gradient");
  }

  void steps(const Batch& batch, int bits, Step step, Pattern pattern) {
    begin(batch, bits,
          "weight bits " + std::to_string(step.weight_bits) + ", exponent " + std::to_string(step.exponent) + ", decay " +
              std::to_string(step.decay));
    Source random = source();
    const auto rows = static_cast<size_t>(batch.channels) * kTaps;
    const auto gz = values<int16_t>(static_cast<size_t>(batch.size()), (1 << (bits - 1)) - 1, pattern, random);
    const auto signs = words(static_cast<size_t>(batch.pixels()), batch.channels, Pattern::random, random);
    auto shadow8 = values<int8_t>(rows * static_cast<size_t>(batch.channels), 127, pattern, random);
    auto shadow16 = values<int16_t>(rows * static_cast<size_t>(batch.channels), 32767, pattern, random);
    auto weight = words(rows, batch.channels, pattern, random);
    if (step.weight_bits > 1) {
      std::fill_n(weight.data(), weight.size(), 0);
      const auto channels = static_cast<size_t>(batch.channels);
      for (size_t i = 0; i < shadow8.size(); ++i) {
        const bool bit = step.weight_bits == 8 ? shadow8[i] < 0 : shadow16[i] < 0;
        weight[i / channels * static_cast<size_t>(batch.words()) + i % channels / kWordBits] |= static_cast<uint64_t>(bit)
                                                                                                << (i % channels % kWordBits);
      }
    }
    auto fast_shadow8 = shadow8;
    auto fast_shadow16 = shadow16;
    auto fast_weight = weight;
    void* shadow = step.weight_bits == 16 ? static_cast<void*>(shadow16.data()) : shadow8.data();
    void* fast_shadow = step.weight_bits == 16 ? static_cast<void*>(fast_shadow16.data()) : fast_shadow8.data();
    const int64_t flips = plain_.step_weights(batch, bits, gz.data(), signs.data(), step, shadow, weight.data(),
                                              scratch(plain_.step_weights_scratch(batch, bits, threads_)), workers_);
    const int64_t fast_flips = fast_.step_weights(batch, bits, gz.data(), signs.data(), step, fast_shadow, fast_weight.data(),
                                                  scratch(fast_.step_weights_scratch(batch, bits, threads_)), workers_);
    expect(flips == fast_flips && shadow8 == fast_shadow8 && shadow16 == fast_shadow16 && weight == fast_weight, "step_weights");
  }

  void passes(const Batch& batch, int bits, Pattern pattern, bool relu) {
    begin(batch, bits, "pattern " + std::to_string(static_cast<int>(pattern)) + ", relu " + std::to_string(relu));
    Source random = source();
    const auto size = static_cast<size_t>(batch.size()), channels = static_cast<size_t>(batch.channels);
    const Rounding rounding{bits, random()};
    const int dots = kTaps * batch.channels;
    const auto g = values<int16_t>(size, (1 << (bits - 1)) - 1, pattern, random);
    const auto z = values<int16_t>(size, dots, pattern == Pattern::low ? Pattern::high : pattern, random);
    const auto x = values<int16_t>(size, INT16_MAX, pattern == Pattern::high ? Pattern::random : pattern, random);
    const auto mean = values<int16_t>(channels, dots, pattern, random);
    const auto one = values<int16_t>(channels, INT16_MAX, pattern, random),
               two = values<int16_t>(channels, INT16_MAX, Pattern::random, random);
    Exact<int16_t> out(size), fast_out(size);
    Exact<int64_t> sums = values<int64_t>(4 * channels, 1000, Pattern::random, random), fast_sums = sums;
    const auto sum = [&](Exact<int64_t>& of, size_t i) { return of.data() + i * channels; };
    const auto both = [&](const char* what, auto&& run) {
      const int shift = run(plain_, out.data(), sums), fast_shift = run(fast_, fast_out.data(), fast_sums);
      expect(shift == fast_shift && out == fast_out && sums == fast_sums, what);
    };

    both("norm_gradient", [&](const GradientTable& t, int16_t* to, Exact<int64_t>& s) {
      return t.norm_gradient(batch, g.data(), z.data(), mean.data(), one.data(), relu, rounding, to, sum(s, 0), sum(s, 1),
                             workers_);
    });
    both("norm_gradient over z", [&](const GradientTable& t, int16_t* to, Exact<int64_t>& s) {
      std::copy_n(z.data(), size, to);
      return t.norm_gradient(batch, g.data(), to, mean.data(), one.data(), relu, rounding, to, sum(s, 0), sum(s, 1), workers_);
    });
    both("activation_gradient over g", [&](const GradientTable& t, int16_t* to, Exact<int64_t>& s) {
      std::copy_n(g.data(), size, to);
      return t.activation_gradient(batch, to, x.data(), one.data(), two.data(), rounding, to, sum(s, 0), sum(s, 1), sum(s, 2),
                                   sum(s, 3), workers_);
    });
    for (const int magnitude : {0, 7, 20, 28, 30, 31}) {
      const auto narrow = values<int32_t>(size, (int64_t{1} << magnitude) - 1, pattern, random);
      both("requantise int32", [&](const GradientTable& t, int16_t* to, Exact<int64_t>&) {
        return t.requantise32({narrow.data(), size}, rounding, to, workers_);
      });
      const auto wide = values<int64_t>(size, int64_t{1} << std::min(2 * magnitude, 61), pattern, random);
      both("requantise int64", [&](const GradientTable& t, int16_t* to, Exact<int64_t>&) {
        return t.requantise64({wide.data(), size}, rounding, to, workers_);
      });
    }
    const auto open = words(static_cast<size_t>(batch.pixels()), batch.channels, pattern, random);
    for (const int magnitude : {12, 27, 30}) {
      const auto da = values<int32_t>(size, (int64_t{1} << magnitude) - 1, pattern, random);
      for (const int shift : {-30, -1, 0, 9, 15, 46}) {
        for (int kind = 0; kind < 6; ++kind) {
          Gate gate{kind >= 3, kind == 1 ? 0 : 1000,
                    kind == 3   ? 0
                    : kind == 4 ? 11
                                : 30,
                    kind % 2 ? two.data() : nullptr, nullptr};
          if (kind == 0) gate.open = open.data();
          both("stream_gradient over gu", [&](const GradientTable& t, int16_t* to, Exact<int64_t>& s) {
            std::copy_n(g.data(), size, to);
            return t.stream_gradient(batch, to, da.data(), gate.open ? nullptr : x.data(), gate, shift, rounding, to,
                                     kind == 1 ? nullptr : sum(s, 0), workers_);
          });
        }
      }
    }
  }

 private:
  void begin(const Batch& batch, int bits, const std::string& more) {
    what_ = std::string(fast_.isa) + ", " + std::to_string(batch.rows) + " rows of " + std::to_string(batch.height) + "x" +
            std::to_string(batch.width) + "x" + std::to_string(batch.channels) + ", " + std::to_string(bits) + " bits, " +
            std::to_string(threads_) + " threads, " + more;
  }
  void expect(bool condition, const char* name) { check::expect(condition, condition ? std::string() : name + (": " + what_)); }
  static Source source() { return {1000000 + static_cast<uint64_t>(g_checks)}; }
  void* scratch(int64_t bytes) {
    scratch_ = std::make_unique<Exact<uint8_t>>(static_cast<size_t>(bytes));
    std::fill_n(scratch_->data(), bytes, uint8_t{0xa5});
    return scratch_->data();
  }

  const GradientTable& plain_ = gradient_scalar();
  const GradientTable& fast_;
  int threads_;
  Workers workers_;
  std::unique_ptr<Exact<uint8_t>> scratch_;
  std::string what_;
};

void check_table(GradientCheck& check) {
  for (const int channels : {1, 3, 63, 64, 65, 100, 128}) {
    for (const Batch& shape :
         {Batch{1, 1, 1, channels}, Batch{2, 2, 3, channels}, Batch{7, 4, 4, channels}, Batch{2, 5, 7, channels}}) {
      for (int bits = 2; bits <= 16; ++bits) check.products(shape, bits, Pattern::random, Pattern::random);
      for (const Pattern g : kAllPatterns) {
        for (const Pattern b : kAllPatterns) {
          for (const int bits : {8, 16}) check.products(shape, bits, g, b);
        }
      }
    }
  }
  // Enough steps for sums of bytes to leave int16: over images, and over channels.
  check.products({140, 2, 2, 20}, 8, Pattern::high, Pattern::high);
  check.products({600, 1, 1, 20}, 8, Pattern::low, Pattern::high);
  check.products({3, 2, 3, 384}, 8, Pattern::low, Pattern::high);
  check.products({5, 2, 2, 640}, 16, Pattern::low, Pattern::high);
  for (const int channels : {1, 63, 65, 100}) {
    for (const Pattern pattern : {Pattern::alternating, Pattern::random}) {
      for (const int weight_bits : {1, 8, 16}) {
        for (const int exponent : {1, 4, 12, 20}) {
          Step step{weight_bits, exponent, exponent % 3, 5, 7, 2};
          check.steps({3, 2, 3, channels}, exponent == 4 ? 16 : 2, step, pattern);
          check.steps({2, 4, 4, channels}, exponent == 4 ? 8 : 15, step, pattern);
        }
      }
    }
  }
  for (const int channels : {1, 3, 63, 64, 65, 200}) {
    for (const Batch& shape : {Batch{1, 1, 1, channels}, Batch{2, 2, 3, channels}}) {
      for (int bits = 2; bits <= 16; ++bits) check.passes(shape, bits, kAllPatterns[bits % 4], bits % 3 == 0);
      for (const Pattern pattern : kAllPatterns) check.passes(shape, 16, pattern, true);
    }
  }
}

}  // namespace

void check_gradients() {
  for (const GradientTable* table : gradient_tables()) {
    for (const int threads : {1, 3}) {
      GradientCheck check(*table, threads);
      check_table(check);
    }
    std::printf("%s gradients equal scalar\n", table->isa);
  }
}

}  // namespace bitreplay::check
