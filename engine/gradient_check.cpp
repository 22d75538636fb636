// Every gradient table equals the plain one on sizes around its tiles, on extreme values, for every width of gradients and
// weights and with several threads; buffers end at their allocation.
#include "gradient_check.h"

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bits.h"
#include "gradient_table.h"
#include "head.h"
#include "head_kernels.h"
#include "random.h"
#include "workers.h"

namespace bitreplay {
namespace {

std::vector<const GradientTable*> faster_tables() {
  std::vector<const GradientTable*> tables;
#ifdef BITREPLAY_HAVE_AVX2
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) tables.push_back(&gradient_avx2());
  if (has_gradient_avx512()) tables.push_back(&gradient_avx512());
#endif
  return tables;
}

// A buffer that ends exactly at its allocation, so that a sanitizer sees one value too far; 64-aligned.
template <class T>
class Exact {
 public:
  explicit Exact(size_t size) : size_(size), data_(static_cast<T*>(::operator new(std::max<size_t>(size, 1) * sizeof(T), std::align_val_t{64}))) {
    std::fill_n(data_.get(), size, T{});
  }
  Exact(const Exact& other) : Exact(other.size_) { std::copy_n(other.data(), size_, data()); }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  friend bool operator==(const Exact& a, const Exact& b) { return std::equal(a.data(), a.data() + a.size_, b.data(), b.data() + b.size_); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  size_t size_;
  std::unique_ptr<T, Free> data_;
};

enum class Pattern { low, high, alternating, random };
constexpr Pattern kPatterns[] = {Pattern::low, Pattern::high, Pattern::alternating, Pattern::random};

struct Source {
  uint64_t seed, step, index = 0;
  uint64_t operator()() { return draw(seed, Purpose::live_order, step, index++); }
};

// Values of -limit..limit.
template <class T>
Exact<T> values(size_t count, int64_t limit, Pattern pattern, Source& random) {
  Exact<T> result(count);
  for (size_t i = 0; i < count; ++i) {
    const int64_t any = static_cast<int64_t>(random() % static_cast<uint64_t>(2 * limit + 1)) - limit;
    result[i] = static_cast<T>(pattern == Pattern::low           ? -limit
                               : pattern == Pattern::high        ? limit
                               : pattern == Pattern::alternating ? (i % 2 ? -limit : limit)
                                                                 : any);
  }
  return result;
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

class Check {
 public:
  Check(const GradientTable& table, uint64_t seed, int threads) : fast_(table), seed_(seed), threads_(threads), workers_(threads) {}

  long done() const { return done_; }

  void products(const Batch& batch, int bits, Pattern g_pattern, Pattern b_pattern) {
    begin(batch, bits, "g " + std::to_string(static_cast<int>(g_pattern)) + ", bits " + std::to_string(static_cast<int>(b_pattern)));
    Source random = source();
    const auto pixels = static_cast<size_t>(batch.pixels());
    const auto rows = static_cast<size_t>(batch.channels) * kTaps;
    const auto gz = values<int16_t>(static_cast<size_t>(batch.size()), (1 << (bits - 1)) - 1, g_pattern, random);
    const auto weight = words(rows, batch.channels, b_pattern, random);
    const auto signs = words(pixels, batch.channels, b_pattern, random);
    Exact<int32_t> da(gz.size()), fast_da(gz.size());
    plain_.input_gradient(batch, bits, gz.data(), weight.data(), da.data(), scratch(plain_.input_gradient_scratch(batch, bits, threads_)), workers_);
    fast_.input_gradient(batch, bits, gz.data(), weight.data(), fast_da.data(), scratch(fast_.input_gradient_scratch(batch, bits, threads_)),
                         workers_);
    expect(da == fast_da, "input_gradient");
    Exact<int32_t> dw(rows * static_cast<size_t>(batch.channels)), fast_dw(dw.size());
    plain_.weight_gradient(batch, bits, gz.data(), signs.data(), dw.data(), scratch(plain_.step_weights_scratch(batch, bits, threads_)), workers_);
    fast_.weight_gradient(batch, bits, gz.data(), signs.data(), fast_dw.data(), scratch(fast_.step_weights_scratch(batch, bits, threads_)),
                          workers_);
    expect(dw == fast_dw, "weight_gradient");
  }

  void steps(const Batch& batch, int bits, Step step, Pattern pattern) {
    begin(batch, bits, "weight bits " + std::to_string(step.weight_bits) + ", exponent " + std::to_string(step.exponent) + ", decay " +
                           std::to_string(step.decay) + ", reset " + std::to_string(step.sign_reset));
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
        weight[i / channels * static_cast<size_t>(batch.words()) + i % channels / kWordBits] |= static_cast<uint64_t>(bit) << (i % channels % kWordBits);
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
    const auto one = values<int16_t>(channels, INT16_MAX, pattern, random), two = values<int16_t>(channels, INT16_MAX, Pattern::random, random);
    Exact<int16_t> out(size), fast_out(size);
    Exact<int64_t> sums = values<int64_t>(4 * channels, 1000, Pattern::random, random), fast_sums = sums;
    const auto sum = [&](Exact<int64_t>& of, size_t i) { return of.data() + i * channels; };
    const auto both = [&](const char* what, auto&& run) {
      const int shift = run(plain_, out.data(), sums), fast_shift = run(fast_, fast_out.data(), fast_sums);
      expect(shift == fast_shift && out == fast_out && sums == fast_sums, what);
    };

    both("norm_gradient", [&](const GradientTable& t, int16_t* to, Exact<int64_t>& s) {
      return t.norm_gradient(batch, g.data(), z.data(), mean.data(), one.data(), relu, rounding, to, sum(s, 0), sum(s, 1), workers_);
    });
    both("norm_gradient over z", [&](const GradientTable& t, int16_t* to, Exact<int64_t>& s) {
      std::copy_n(z.data(), size, to);
      return t.norm_gradient(batch, g.data(), to, mean.data(), one.data(), relu, rounding, to, sum(s, 0), sum(s, 1), workers_);
    });
    both("activation_gradient over g", [&](const GradientTable& t, int16_t* to, Exact<int64_t>& s) {
      std::copy_n(g.data(), size, to);
      return t.activation_gradient(batch, to, x.data(), one.data(), two.data(), rounding, to, sum(s, 0), sum(s, 1), sum(s, 2), sum(s, 3), workers_);
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
          Gate gate{kind >= 3, kind == 1 ? 0 : 1000, kind == 3 ? 0 : kind == 4 ? 11 : 30, kind % 2 ? two.data() : nullptr, nullptr};
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
  void expect(bool condition, const char* name) {
    ++done_;
    if (condition) return;
    std::fprintf(stderr, "FAILED: %s: %s (seed %llu)\n", name, what_.c_str(), static_cast<unsigned long long>(seed_));
    std::exit(1);
  }
  Source source() const { return {seed_, 1000000 + static_cast<uint64_t>(done_)}; }
  void* scratch(int64_t bytes) {
    scratch_ = std::make_unique<Exact<uint8_t>>(static_cast<size_t>(bytes));
    std::fill_n(scratch_->data(), bytes, uint8_t{0xa5});
    return scratch_->data();
  }

  const GradientTable& plain_ = gradient_scalar();
  const GradientTable& fast_;
  uint64_t seed_;
  int threads_;
  Workers workers_;
  std::unique_ptr<Exact<uint8_t>> scratch_;
  std::string what_;
  long done_ = 0;
};

void check_table(Check& check) {
  for (const int channels : {1, 3, 63, 64, 65, 100, 128}) {
    for (const Batch& shape : {Batch{1, 1, 1, channels}, Batch{2, 2, 3, channels}, Batch{7, 4, 4, channels}, Batch{2, 5, 7, channels}}) {
      for (int bits = 2; bits <= 16; ++bits) check.products(shape, bits, Pattern::random, Pattern::random);
      for (const Pattern g : kPatterns) {
        for (const Pattern b : kPatterns) {
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
          Step step{weight_bits, exponent, exponent % 3, exponent == 12, 5, 7, 2};
          check.steps({3, 2, 3, channels}, exponent == 4 ? 16 : 2, step, pattern);
          check.steps({2, 4, 4, channels}, exponent == 4 ? 8 : 15, step, pattern);
        }
      }
    }
  }
  for (const int channels : {1, 3, 63, 64, 65, 200}) {
    for (const Batch& shape : {Batch{1, 1, 1, channels}, Batch{2, 2, 3, channels}}) {
      for (int bits = 2; bits <= 16; ++bits) check.passes(shape, bits, kPatterns[bits % 4], bits % 3 == 0);
      for (const Pattern pattern : kPatterns) check.passes(shape, 16, pattern, true);
    }
  }
}

// ---- the head

std::vector<const HeadTable*> faster_heads() {
  std::vector<const HeadTable*> tables;
#ifdef BITREPLAY_HAVE_AVX2
  if (__builtin_cpu_supports("avx2")) tables.push_back(&head_avx2());
  if (has_gradient_avx512()) tables.push_back(&head_avx512());
#endif
  return tables;
}

class HeadCheck {
 public:
  HeadCheck(const HeadTable& table, uint64_t seed) : fast_(table), seed_(seed) {}
  long done() const { return done_; }

  void run(const HeadBatch& batch, Pattern pattern) {
    what_ = std::string(fast_.isa) + ", " + std::to_string(batch.rows) + " rows, " + std::to_string(batch.width) + " wide, " +
            std::to_string(batch.classes) + " classes, pattern " + std::to_string(static_cast<int>(pattern));
    Source random{seed_, 2000000 + static_cast<uint64_t>(done_)};
    const auto rows = static_cast<size_t>(batch.rows), width = static_cast<size_t>(batch.width), classes = static_cast<size_t>(batch.classes);
    const auto features = values<int8_t>(rows * width, 127, pattern, random);
    auto forward = values<int16_t>(classes * width, 32767, pattern, random);
    if (pattern == Pattern::low) std::fill_n(forward.data(), forward.size(), INT16_MIN);
    for (const int feature_bits : {0, 4, 5, 7, 12}) {
      both<int64_t>(rows * classes, "head_logits", [&](const HeadTable& t, int64_t* out) { t.logits(batch, features.data(), forward.data(), feature_bits, out); });
    }
    for (const int magnitude : {4, 16, 19, 21, 24, 40}) {
      const auto scores = values<int64_t>(rows * classes, int64_t{1} << magnitude, pattern, random);
      const auto prior = values<int64_t>(classes, 500000, Pattern::random, random);
      for (const int ghosts : {0, 1, 8}) {
        both<int64_t>(scores.size(), "head_softmax", [&](const HeadTable& t, int64_t* out) {
          std::copy_n(scores.data(), scores.size(), out);
          t.softmax(batch, out, prior.data(), ghosts);
        });
        // The plain one is head.h's.
        Exact<int64_t> plain(scores.size()), rowwise(scores.size());
        std::copy_n(scores.data(), scores.size(), plain.data());
        head_scalar().softmax(batch, plain.data(), prior.data(), ghosts);
        for (size_t i = 0; i < scores.size(); ++i) rowwise[i] = scores[i] + prior[i % classes];
        for (size_t b = 0; b < rows; ++b) softmax({rowwise.data() + b * classes, classes}, ghosts);
        expect(plain == rowwise, "head_softmax against softmax");
      }
    }
    auto g = values<int16_t>(rows * classes, 32767, pattern, random);
    if (pattern == Pattern::low) std::fill_n(g.data(), g.size(), INT16_MIN);
    both<int32_t>(classes * width, "head_weight_gradient", [&](const HeadTable& t, int32_t* out) {
      Exact<uint8_t> scratch(static_cast<size_t>(head_scratch(batch)));
      t.weight_gradient(batch, features.data(), g.data(), out, scratch.data());
    });
    both<int64_t>(rows * width, "head_input_gradient", [&](const HeadTable& t, int64_t* out) { t.input_gradient(batch, g.data(), forward.data(), out); });
    const auto dw = values<int32_t>(width, INT32_MAX, pattern, random);
    const auto weight = values<int32_t>(width, INT32_MAX, pattern, random), anchor = values<int32_t>(width, INT32_MAX, Pattern::random, random);
    for (const int64_t rate : {int64_t{0}, int64_t{37}, int64_t{1} << 20, int64_t{INT32_MAX}, int64_t{1} << 31}) {
      for (const int64_t pull : {int64_t{0}, int64_t{999}, (int64_t{1} << 29) - 1, int64_t{1} << 29}) {
        for (const bool anchored : {false, true}) {
          const std::span<const int32_t> to = anchored ? std::span<const int32_t>(anchor.data(), width) : std::span<const int32_t>();
          Exact<int32_t> plain = weight, fast = weight, rowwise = weight;
          Exact<int16_t> plain_forward(width), fast_forward(width);
          head_scalar().descend({plain.data(), width}, dw.data(), rate, to, pull, plain_forward.data());
          fast_.descend({fast.data(), width}, dw.data(), rate, to, pull, fast_forward.data());
          descend({rowwise.data(), width}, {dw.data(), width}, rate, to, pull);
          expect(plain == fast && plain_forward == fast_forward && plain == rowwise, "head_descend");
        }
      }
    }
  }

 private:
  template <class T, class F>
  void both(size_t size, const char* name, F&& f) {
    Exact<T> plain(size), fast(size);
    f(head_scalar(), plain.data());
    f(fast_, fast.data());
    expect(plain == fast, name);
  }
  void expect(bool condition, const char* name) {
    ++done_;
    if (condition) return;
    std::fprintf(stderr, "FAILED: %s: %s (seed %llu)\n", name, what_.c_str(), static_cast<unsigned long long>(seed_));
    std::exit(1);
  }

  const HeadTable& fast_;
  uint64_t seed_;
  std::string what_;
  long done_ = 0;
};

void check_head(HeadCheck& check) {
  for (const Pattern pattern : kPatterns) {
    for (const HeadBatch& batch : {HeadBatch{1, 1, 1}, HeadBatch{2, 15, 3}, HeadBatch{3, 16, 4}, HeadBatch{7, 33, 5}, HeadBatch{5, 100, 13},
                                   HeadBatch{4, 512, 2}, HeadBatch{3, 1030, 9}, HeadBatch{128, 64, 50}, HeadBatch{2, 9000, 2}, HeadBatch{2, 65, 600}}) {
      check.run(batch, pattern);
    }
  }
  check.run({512, 32, 3}, Pattern::low);
}

double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The best of some rounds: the machine may be busy with other things.
template <class F>
double best_ms(F&& f) {
  double best = 1e9;
  for (int round = 0; round < 7; ++round) {
    const double begin = cpu_seconds();
    f();
    best = std::min(best, (cpu_seconds() - begin) * 1e3);
  }
  return best;
}

void bench_table(const GradientTable& table) {
  const Batch batch{178, 4, 4, 512};
  const auto size = static_cast<size_t>(batch.size());
  const size_t weights = 512 * 9 * 512;
  Source random{1, 1};
  Workers workers(1);
  for (const int bits : {8, 16}) {
    const auto g = values<int16_t>(size, (1 << (bits - 1)) - 1, Pattern::random, random);
    const auto z = values<int16_t>(size, 400, Pattern::random, random);
    const auto x = values<int16_t>(size, 2000, Pattern::random, random);
    const auto weight = words(512 * 9, 512, Pattern::random, random);
    const auto signs = words(static_cast<size_t>(batch.pixels()), 512, Pattern::random, random);
    const auto mean = values<int16_t>(512, 400, Pattern::random, random), multiplier = values<int16_t>(512, 12000, Pattern::random, random);
    Exact<int32_t> da(size);
    Exact<int16_t> out(size);
    Exact<int64_t> sums(4 * 512);
    Exact<int8_t> shadow8(weights);
    Exact<int16_t> shadow16(weights);
    Exact<uint64_t> bits_of_weights(512 * 9 * 8);
    const int64_t input_bytes = table.input_gradient_scratch(batch, bits, 1), weight_bytes = table.step_weights_scratch(batch, bits, 1);
    Exact<uint8_t> scratch(static_cast<size_t>(std::max(input_bytes, weight_bytes)));
    const Rounding rounding{bits, 1};
    const double macs = 178.0 * 100 * 512 * 512;  // 100 of the 144 taps of a 4x4 map are inside
    const double input = best_ms([&] { table.input_gradient(batch, bits, g.data(), weight.data(), da.data(), scratch.data(), workers); });
    const auto stepping = [&](int weight_bits, void* shadow) {
      return best_ms([&] {
        table.step_weights(batch, bits, g.data(), signs.data(), {weight_bits, 4, 0, false, 1, 1, 1}, shadow, bits_of_weights.data(), scratch.data(),
                           workers);
      });
    };
    const double step8 = stepping(8, shadow8.data()), step16 = stepping(16, shadow16.data()), step1 = stepping(1, nullptr);
    const double norm = best_ms([&] {
      table.norm_gradient(batch, g.data(), z.data(), mean.data(), multiplier.data(), true, rounding, out.data(), sums.data(), sums.data() + 512, workers);
    });
    const double activation = best_ms([&] {
      table.activation_gradient(batch, g.data(), x.data(), mean.data(), multiplier.data(), rounding, out.data(), sums.data(), sums.data() + 512,
                                sums.data() + 1024, sums.data() + 1536, workers);
    });
    const auto streaming = [&](const Gate& gate) {
      return best_ms([&] { table.stream_gradient(batch, g.data(), da.data(), x.data(), gate, 9, rounding, out.data(), sums.data(), workers); });
    };
    const double clip = streaming({false, 1000, 11, nullptr, nullptr}), approx = streaming({true, 0, 11, mean.data(), nullptr});
    const double open = streaming({false, 0, 11, nullptr, signs.data()});
    std::printf("%-7s q_b %2d: input_gradient %6.1f ms (%.3f T MAC/s), step_weights b_w 8 %6.1f ms (%.3f T MAC/s), 16 %6.1f, 1 %6.1f\n", table.isa,
                bits, input, macs / input / 1e9, step8, macs / step8 / 1e9, step16, step1);
    std::printf("%-7s q_b %2d: norm %.2f ms, activation %.2f, stream clip %.2f, ApproxSign %.2f, open %.2f; scratch %.2f MB and %.2f MB\n", table.isa,
                bits, norm, activation, clip, approx, open, static_cast<double>(input_bytes) / 1e6, static_cast<double>(weight_bytes) / 1e6);
  }
}

void bench_head(const HeadTable& table) {
  const HeadBatch batch{128, 1024, 50};
  Source random{2, 2};
  const auto features = values<int8_t>(128 * 1024, 127, Pattern::random, random);
  auto weight = values<int32_t>(50 * 1024, 1 << 25, Pattern::random, random);
  const Exact<int32_t> anchor = weight;
  Exact<int16_t> forward(50 * 1024), g(128 * 50);
  Exact<int32_t> dw(50 * 1024);
  Exact<int64_t> p(128 * 50), prior(50), dh(128 * 1024);
  Exact<uint32_t> position(128);
  Exact<uint8_t> scratch(static_cast<size_t>(head_scratch(batch)));
  for (size_t i = 0; i < 128; ++i) position[i] = static_cast<uint32_t>(i % 50);
  const auto many = [](auto&& f) {
    return best_ms([&] {
             for (int i = 0; i < 20; ++i) f();
           }) /
           20;
  };
  const auto logits = [&] { table.logits(batch, features.data(), forward.data(), 5, p.data()); };
  const auto soft = [&] { table.softmax(batch, p.data(), prior.data(), 8); };
  const auto gradient = [&] { head_gradient(batch, p.data(), position.data(), g.data()); };
  const auto sum = [&] { table.weight_gradient(batch, features.data(), g.data(), dw.data(), scratch.data()); };
  const auto descend = [&](bool anchored) {
    for (size_t c = 0; c < 50; ++c) {
      table.descend({weight.data() + c * 1024, 1024}, dw.data() + c * 1024, 40, anchored ? std::span(anchor.data() + c * 1024, 1024) : std::span<const int32_t>(),
                    300000, forward.data() + c * 1024);
    }
  };
  const double whole = many([&] { logits(), soft(), gradient(), sum(), descend(true); });
  std::printf("%-7s head step 128x1024->50: %.4f ms (logits %.4f, softmax %.4f, g %.4f, dW %.4f, descend %.4f, pulled %.4f); dh %.3f\n", table.isa,
              whole, many(logits), many([&] { logits(), soft(); }) - many(logits), many(gradient), many(sum), many([&] { descend(false); }),
              many([&] { descend(true); }), many([&] { table.input_gradient(batch, g.data(), forward.data(), dh.data()); }));
}

}  // namespace

long check_gradients(uint64_t seed) {
  long done = 0;
  for (const GradientTable* table : faster_tables()) {
    for (const int threads : {1, 3}) {
      Check check(*table, seed, threads);
      check_table(check);
      done += check.done();
    }
    std::printf("%s gradients equal scalar\n", table->isa);
  }
  for (const HeadTable* table : faster_heads()) {
    HeadCheck check(*table, seed);
    check_head(check);
    done += check.done();
    std::printf("%s head equals scalar\n", table->isa);
  }
  return done;
}

void bench_gradients() {
  for (const HeadTable* table : faster_heads()) bench_head(*table);
  for (const GradientTable* table : faster_tables()) bench_table(*table);
}

}  // namespace bitreplay
