// Native measurements for benchmarks/speed/run.py: one work a call, one JSON line.
//   bitreplay_bench WORK [--threads N] [--seconds S] [--isa scalar|avx2|avx512]
// WORK: conv_56x56x64 (any HxWxC), head_step, learning_step_q8_w8 (bits of gradients and weights), roofline_dot, roofline_bandwidth.
// A convolution and the inner loops of the roofline are compared with plain code before they are timed; tests check the rest.
#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bits.h"
#include "fixed_point.h"
#include "network/forward.h"
#include "kernels/kernels.h"
#include "learn/lesson.h"
#include "random.h"
#include "learn/tail.h"
#include "workers.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define BITREPLAY_X86 1
#endif

namespace {

using namespace bitreplay;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string work, isa;
  int threads = 1;
  double seconds = 1;
};

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

uint64_t random_word(uint64_t index) { return draw(7, Purpose::live_order, 0, index); }
// In -limit..limit.
int random_value(uint64_t index, int limit) {
  return static_cast<int>(below(static_cast<uint64_t>(2 * limit + 1), random_word(index))) - limit;
}
template <class T>
std::vector<T> random_values(size_t count, uint64_t stream, int limit) {
  std::vector<T> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<T>(random_value((stream << 40) + i, limit));
  return values;
}

void print_times(const Options& options, const char* isa, std::vector<double> seconds, int64_t bytes) {
  if (seconds.empty()) throw std::runtime_error("not one call fits into the time");
  std::sort(seconds.begin(), seconds.end());
  std::printf("{\"work\": \"%s\", \"kernels\": \"%s\", \"threads\": %d, \"median_ms\": %.6f, \"best_ms\": %.6f, ", options.work.c_str(),
              isa, options.threads, 1e3 * seconds[seconds.size() / 2], 1e3 * seconds[0]);
  std::printf("\"calls\": %zu, \"bytes\": %lld}\n", seconds.size(), static_cast<long long>(bytes));
}

// Seconds of single calls, at least five, after a warm-up of a tenth of the time.
template <class F>
std::vector<double> time_calls(double limit, F&& call) {
  for (const auto begin = Clock::now(); since(begin) < limit / 10;) call();
  std::vector<double> times;
  for (const auto begin = Clock::now(); times.size() < 5 || since(begin) < limit;) {
    const auto start = Clock::now();
    call();
    times.push_back(since(start));
  }
  return times;
}

// One block: int16 residual stream in and out ----------------------------------------------------------------------------------

constexpr int kStream = 4000;  // typical magnitude of a stream

Block make_block(int channels, const std::vector<uint64_t>& weight) {
  Block block;
  block.channels = channels;
  block.shift = 8;
  const auto n = static_cast<size_t>(channels);
  block.mean.assign(n, static_cast<int16_t>(channels / 8));
  block.multiplier.resize(n);
  block.bias.resize(n);
  for (size_t c = 0; c < n; ++c) {
    block.multiplier[c] = static_cast<int16_t>(random_value(c, 16000));
    block.bias[c] = random_value(n + c, kStream << block.shift);
  }
  set_block_weight(block, weight);
  return block;
}

std::vector<uint64_t> random_bits(size_t rows, int channels, uint64_t stream) {
  const auto words = static_cast<size_t>(words_for(channels));
  std::vector<uint64_t> bits(rows * words);
  for (size_t i = 0; i < bits.size(); ++i) {
    bits[i] = random_word((stream << 40) + i) & (i % words == words - 1 ? last_word_mask(channels) : ~uint64_t{0});
  }
  return bits;
}

// docs/method.md, 3.3, word for word.
std::vector<int16_t> plain_block(const Block& block, const std::vector<uint64_t>& weight, Shape shape,
                                 const std::vector<int16_t>& x) {
  const int channels = block.channels, words = words_for(channels);
  std::vector<int16_t> y(x);
  for (int i = 0; i < shape.height; ++i) {
    for (int j = 0; j < shape.width; ++j) {
      std::vector<uint64_t> window(static_cast<size_t>(9 * words), 0);
      for (int t = 0; t < 9; ++t) {
        const int row = i + t / 3 - 1, column = j + t % 3 - 1;
        if (row < 0 || row >= shape.height || column < 0 || column >= shape.width) continue;
        const int16_t* pixel = x.data() + int64_t{row * shape.width + column} * channels;
        for (int c = 0; c < channels; ++c) window[t * words + c / 64] |= static_cast<uint64_t>(pixel[c] < 0) << (c % 64);
      }
      for (int o = 0; o < channels; ++o) {
        int differing = 0;
        for (int k = 0; k < 9 * words; ++k) differing += std::popcount(window[k] ^ weight[int64_t{o} * 9 * words + k]);
        const int64_t r = std::max(9 * channels - 2 * differing, 0);
        const int64_t at = int64_t{i * shape.width + j} * channels + o;
        y[at] = sat16(x[at] + round_shift((r - block.mean[o]) * block.multiplier[o] + block.bias[o], block.shift));
      }
    }
  }
  return y;
}

void bench_conv(const Options& options) {
  Shape shape;
  if (std::sscanf(options.work.c_str(), "conv_%dx%dx%d", &shape.height, &shape.width, &shape.channels) != 3) {
    throw std::invalid_argument("expected conv_HxWxC");
  }
  const std::vector<uint64_t> weight = random_bits(static_cast<size_t>(shape.channels) * 9, shape.channels, 1);
  const Block block = make_block(shape.channels, weight);
  const auto x = random_values<int16_t>(static_cast<size_t>(shape.size()), 2, kStream);
  ScratchPlan plan;
  plan.add(block, shape);
  Scratch scratch(plan, options.threads);
  Workers workers(options.threads);
  std::vector<int16_t> y(x);
  block_forward(block, shape, y.data(), scratch, &workers);
  if (y != plain_block(block, weight, shape, x)) throw std::runtime_error("the block's result is not that of plain code");
  const auto times = time_calls(options.seconds, [&] { block_forward(block, shape, y.data(), scratch, &workers); });
  print_times(options, kernels().isa, times, scratch.bytes());
}

// Steps of a lesson --------------------------------------------------------------------------------------------------------------

struct TimeIsUp {};

// Takes the time between reports; the first interval is the warm-up.  Throws TimeIsUp after `limit` seconds and five intervals.
class StepClock {
 public:
  explicit StepClock(double limit) : limit_(limit) {}
  void operator()(size_t done) {
    const auto now = Clock::now();
    if (reports_ > 1) times_.push_back(std::chrono::duration<double>(now - last_).count() / static_cast<double>(done - done_));
    if (reports_++ == 1) begin_ = now;
    last_ = now;
    done_ = done;
    if (times_.size() >= 5 && since(begin_) > limit_) throw TimeIsUp{};
  }
  const std::vector<double>& times() const { return times_; }

 private:
  double limit_;
  int reports_ = 0;
  size_t done_ = 0;
  Clock::time_point begin_, last_;
  std::vector<double> times_;
};

constexpr int kForever = 1 << 20;

template <class F>
void bench_steps(const Options& options, F&& lesson) {
  StepClock clock(options.seconds);
  const int64_t held = MemoryMeter::current.load();
  MemoryMeter::peak.store(held);
  try {
    lesson([&clock](size_t done, size_t) { clock(done); });
  } catch (const TimeIsUp&) {
  }
  print_times(options, kernels().isa, clock.times(), MemoryMeter::peak.load() - held);
}

std::vector<int32_t> labels_for(size_t rows, int classes) {
  std::vector<int32_t> labels(rows);
  for (size_t i = 0; i < rows; ++i) labels[i] = static_cast<int32_t>(i) % classes;
  return labels;
}

// 128 rows of 1,024 features, 50 classes: softmax, gradient, step; the rows are gathered anew for every step, as in a lesson.
void bench_head(const Options& options) {
  constexpr size_t kRows = 128, kWidth = 1024, kClasses = 50;
  const std::vector<int32_t> labels = labels_for(kRows, kClasses);
  const auto features = random_values<int8_t>(kRows * kWidth, 3, 60);
  std::vector<int32_t> weight = random_values<int32_t>(kClasses * kWidth, 4, 1 << 22);
  const Lesson lesson{.live_labels = labels, .stored_labels = {}, .classes = kClasses, .width = kWidth,
                      .feature_bits = 5};
  Settings settings;
  settings.learning_rate = 655;
  settings.live_batch = kRows;
  settings.epochs = kForever;
  settings.prior_correction = false;
  bench_steps(options, [&](StepReport report) {
    train_head(lesson, settings, features, {}, weight, report);
  });
}

// 50 live and 128 stored binary latents of 4x4x512 through three blocks, pooling, whitening and a head of 10 classes.
void bench_tail(const Options& options, int gradient_bits, int weight_bits) {
  constexpr int kChannels = 512, kSide = 4, kBlocks = 3, kClasses = 10;
  constexpr size_t kLive = 50, kStored = 128, kRowBits = size_t{kSide} * kSide * kChannels;
  Network network(2 * kSide);
  network.add_conv({3, 2, {}}, 3, kChannels, 1, false, false, 8, std::span<const int8_t>(random_values<int8_t>(kChannels * 27, 5, 100)),
                   std::span<const int16_t>(random_values<int16_t>(kChannels, 6, 100)), std::vector<int64_t>(kChannels, 0));
  network.set_cut(std::vector<int32_t>(kChannels, 0), std::vector<uint8_t>(kChannels, 0), std::vector<int16_t>(kChannels, kStream));
  std::vector<std::vector<int8_t>> shadows;
  std::vector<TailSource> sources;
  for (uint64_t b = 0; b < kBlocks; ++b) {
    shadows.push_back(random_values<int8_t>(size_t{kChannels} * 9 * kChannels, 10 + b, 100));
    std::vector<uint64_t> bits(size_t{kChannels} * 9 * kChannels / 64, 0);
    for (size_t i = 0; i < shadows[b].size(); ++i) bits[i / 64] |= static_cast<uint64_t>(shadows[b][i] < 0) << (i % 64);
    network.add_block(kChannels, 8, bits, std::vector<int16_t>(kChannels, 27), random_values<int16_t>(kChannels, 20 + b, 15000),
                      random_values<int32_t>(kChannels, 30 + b, kStream << 7));
  }
  network.set_features(14, 20, 5, std::vector<int32_t>(kChannels, (1 << 14) / (kSide * kSide)),
                       random_values<int8_t>(size_t{kChannels} * kChannels, 40, 127), random_values<int16_t>(kChannels, 41, 20),
                       std::vector<int64_t>(kChannels, 0));
  for (const auto& shadow : shadows) sources.push_back({shadow, {.exponent = 12, .clip = 5120}});
  Settings settings;
  settings.train_blocks = kBlocks;
  settings.gradient_bits = gradient_bits;
  settings.weight_bits = weight_bits;
  settings.learning_rate = 655;
  settings.live_batch = kLive;
  settings.tail_replay_batch = kStored;
  settings.tail_epochs = settings.tail_passes = kForever;
  Tail tail(network, settings, sources);

  const std::vector<int32_t> live_labels = labels_for(kLive, kClasses);
  const std::vector<int32_t> stored_ints = labels_for(kStored, kClasses);
  const std::vector<uint16_t> stored_labels(stored_ints.begin(), stored_ints.end());
  const std::vector<uint64_t> rows = random_bits((kLive + kStored) * kRowBits / kChannels, kChannels, 50);
  std::vector<int32_t> weight = random_values<int32_t>(size_t{kClasses} * kChannels, 51, 1 << 24);
  const Lesson lesson{.live_labels = live_labels, .stored_labels = stored_labels, .classes = kClasses, .width = kChannels, .feature_bits = 5};
  Workers workers(options.threads);
  const auto row = [&](size_t i) { return rows.data() + i * (kRowBits / 64); };
  bench_steps(options, [&](StepReport report) {
    train_tail(lesson, settings, network, tail, tail, row, [&](size_t i) { return row(kLive + i); }, weight, workers, report);
  });
}

// The roofline -------------------------------------------------------------------------------------------------------------------

constexpr int kPixels = 4;  // of a tile: as many rows of activations meet each weight while both are in registers

// T binary multiply-adds a second of the fastest of many short runs.
template <class F>
double peak(double seconds, double macs, F&& run) {
  double best = 1e9;
  for (const auto begin = Clock::now(); since(begin) < seconds;) {
    const auto start = Clock::now();
    for (int i = 0; i < 20; ++i) run();
    best = std::min(best, since(start) / 20);
  }
  return macs / best / 1e12;
}

// The core's own: a tile of 32 pixels and 64 channels, a word a tap.
double peak_of_tile(double seconds) {
  constexpr int kChannels = 64, kPixels32 = 32, kTileTaps = 9;
  const Kernels& table = kernels();
  BinaryTile tile{kChannels, 1, 3, 1, 2, kPixels32 / 2, nullptr, nullptr};
  const auto window = random_bits(static_cast<size_t>(tile.window_rows() * tile.window_columns() + 3), kChannels, 60);
  const auto canonical = random_bits(kChannels * kTileTaps, kChannels, 61);
  Buffer<uint64_t> weight(static_cast<size_t>(table.binary_weight_words(kChannels, kChannels, 3)), 0);
  Buffer<uint8_t> expanded(kExpandedBytes);
  Buffer<int16_t> z(kTilePixels * kTileChannels);
  for (int c = 0; c < kChannels; ++c) table.set_binary_channel(weight.data(), kChannels, 3, c, canonical.data() + c * kTileTaps);
  tile.window = window.data();
  tile.expanded = expanded.data();
  table.binary_expand(tile);
  const double macs = double{kPixels32} * kChannels * kTileTaps * 64;
  return peak(seconds, macs, [&] { table.binary_tile(tile, weight.data(), 0, kChannels, z.data()); });
}

#ifdef BITREPLAY_X86

// out(pixel, channel) = sum over k of popcount(weight(k, channel) xor x(pixel, k)), 32 channels, 64 bits a step.
__attribute__((target("avx512f,avx512vpopcntdq"))) void popcount_loop(const uint64_t* weight, const uint64_t* x, int steps,
                                                                      uint64_t* out) {
  __m512i sum[kPixels][4];
  for (auto& row : sum) std::fill(std::begin(row), std::end(row), _mm512_setzero_si512());
  for (int k = 0; k < steps; ++k, weight += 32) {
    const __m512i w0 = _mm512_loadu_si512(weight), w1 = _mm512_loadu_si512(weight + 8);
    const __m512i w2 = _mm512_loadu_si512(weight + 16), w3 = _mm512_loadu_si512(weight + 24);
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p) {
      const __m512i bits = _mm512_set1_epi64(static_cast<int64_t>(x[p * steps + k]));
      sum[p][0] = _mm512_add_epi64(sum[p][0], _mm512_popcnt_epi64(_mm512_xor_si512(w0, bits)));
      sum[p][1] = _mm512_add_epi64(sum[p][1], _mm512_popcnt_epi64(_mm512_xor_si512(w1, bits)));
      sum[p][2] = _mm512_add_epi64(sum[p][2], _mm512_popcnt_epi64(_mm512_xor_si512(w2, bits)));
      sum[p][3] = _mm512_add_epi64(sum[p][3], _mm512_popcnt_epi64(_mm512_xor_si512(w3, bits)));
    }
  }
  for (int p = 0; p < kPixels; ++p) {
    for (int v = 0; v < 4; ++v) _mm512_storeu_si512(out + (p * 4 + v) * 8, sum[p][v]);
  }
}

// The same with a weight nibble a byte: popcounts are looked up in the table of the activation nibble.  64 channels, 2 pixels, 4 bits a
// step; a byte counter holds 63 steps.
__attribute__((target("avx2"))) void nibble_loop(const uint8_t* weight, const uint8_t* x, const uint8_t* tables, int steps,
                                                 uint16_t* out) {
  constexpr int kTile = 2, kVectors = 4;
  const __m256i low_bytes = _mm256_set1_epi16(255);
  std::memset(out, 0, kTile * kVectors * 32 * sizeof(uint16_t));
  for (int begin = 0; begin < steps; begin += 63) {
    const int end = std::min(steps, begin + 63);
    __m256i sum[kTile][kVectors];
    for (auto& row : sum) std::fill(std::begin(row), std::end(row), _mm256_setzero_si256());
    for (int k = begin; k < end; ++k) {
      const auto* w = reinterpret_cast<const __m256i*>(weight + static_cast<ptrdiff_t>(k) * kVectors * 32);
      const auto table0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(tables + 32 * x[k]));
      const auto table1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(tables + 32 * x[steps + k]));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const __m256i nibbles = _mm256_loadu_si256(w + v);
        sum[0][v] = _mm256_add_epi8(sum[0][v], _mm256_shuffle_epi8(table0, nibbles));
        sum[1][v] = _mm256_add_epi8(sum[1][v], _mm256_shuffle_epi8(table1, nibbles));
      }
    }
    for (int i = 0; i < kTile * kVectors; ++i) {  // even channels of 32 in the first half, odd ones in the second
      auto* o = reinterpret_cast<__m256i*>(out + i * 32);
      const __m256i bytes = sum[i / kVectors][i % kVectors];
      _mm256_storeu_si256(o, _mm256_add_epi16(_mm256_loadu_si256(o), _mm256_and_si256(bytes, low_bytes)));
      _mm256_storeu_si256(o + 1, _mm256_add_epi16(_mm256_loadu_si256(o + 1), _mm256_srli_epi16(bytes, 8)));
    }
  }
}

double peak_of_popcounts(double seconds) {
  constexpr int kSteps = 72, kChannels = 32;  // 512 channels, nine taps: 18 KiB of weights
  std::vector<uint64_t> weight(kSteps * kChannels), x(kPixels * kSteps), out(kPixels * kChannels);
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = random_word(i);
  for (size_t i = 0; i < x.size(); ++i) x[i] = random_word(weight.size() + i);
  popcount_loop(weight.data(), x.data(), kSteps, out.data());
  for (int i = 0; i < kPixels * kChannels; ++i) {
    uint64_t sum = 0;
    for (int k = 0; k < kSteps; ++k) sum += std::popcount(weight[k * kChannels + i % kChannels] ^ x[i / kChannels * kSteps + k]);
    if (sum != out[i]) throw std::runtime_error("the popcount loop is wrong");
  }
  return peak(seconds, 64.0 * kSteps * kChannels * kPixels, [&] { popcount_loop(weight.data(), x.data(), kSteps, out.data()); });
}

double peak_of_nibbles(double seconds) {
  constexpr int kSteps = 144, kChannels = 128, kTile = 2;  // 18 KiB of weights
  std::vector<uint8_t> weight(kSteps * kChannels), x(kTile * kSteps);
  alignas(32) uint8_t tables[16 * 32];
  std::vector<uint16_t> out(kTile * kChannels);
  for (int i = 0; i < 16 * 32; ++i) tables[i] = static_cast<uint8_t>(std::popcount(static_cast<unsigned>((i / 32) ^ (i % 16))));
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = random_word(i) & 15;
  for (size_t i = 0; i < x.size(); ++i) x[i] = random_word(weight.size() + i) & 15;
  nibble_loop(weight.data(), x.data(), tables, kSteps, out.data());
  for (int i = 0; i < kTile * kChannels; ++i) {
    const int within = i % 32, channel = i % kChannels - within + (within % 16) * 2 + within / 16;
    int sum = 0;
    for (int k = 0; k < kSteps; ++k) sum += tables[32 * x[i / kChannels * kSteps + k] + weight[k * kChannels + channel]];
    if (sum != out[i]) throw std::runtime_error("the nibble loop is wrong");
  }
  return peak(seconds, 4.0 * kSteps * kChannels * kTile, [&] { nibble_loop(weight.data(), x.data(), tables, kSteps, out.data()); });
}

#endif

// Slower ones that were tried: carry-save adders in front of VPOPCNTDQ (three operations a vector as well), VPERMB and VPERMI2B with
// tables of 6 and 7 bits.
void bench_dot(const Options& options) {
  std::string loop = std::string(kernels().isa) + ": the tile of the binary convolution, its result stored";
  double best = peak_of_tile(options.seconds / 2);
#ifdef BITREPLAY_X86
  __builtin_cpu_init();
  if (options.isa != "scalar" && __builtin_cpu_supports("avx2")) {
    const double rate = peak_of_nibbles(options.seconds / 2);
    if (rate > best) best = rate, loop = "avx2: table of an activation nibble, shuffled by weight nibbles";
  }
  if (options.isa != "scalar" && options.isa != "avx2" && __builtin_cpu_supports("avx512vpopcntdq")) {
    const double rate = peak_of_popcounts(options.seconds / 2);
    if (rate > best) best = rate, loop = "avx512: xor, VPOPCNTQ, add";
  }
#endif
  std::printf("{\"work\": \"%s\", \"loop\": \"%s\", \"tmac_s\": %.4f}\n", options.work.c_str(), loop.c_str(), best);
}

void bench_bandwidth(const Options& options) {
  constexpr size_t kWords = size_t{32} << 20;  // 256 MiB
  const std::vector<uint64_t> memory(kWords, 1);
  const auto times = time_calls(options.seconds, [&] {
    uint64_t sum = 0;
    for (const uint64_t word : memory) sum += word;
    if (sum != kWords) throw std::runtime_error("memory is not what was written");
  });
  const double best = *std::min_element(times.begin(), times.end());
  std::printf("{\"work\": \"%s\", \"loop\": \"sum of 256 MiB\", \"gbyte_s\": %.3f}\n", options.work.c_str(),
              8.0 * kWords / best / 1e9);
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name.rfind("--", 0) != 0) {
      options.work = name;
    } else if (i + 1 >= argc) {
      throw std::invalid_argument(name + ": expected a value");
    } else if (name == "--threads") {
      options.threads = std::atoi(argv[++i]);
    } else if (name == "--seconds") {
      options.seconds = std::atof(argv[++i]);
    } else if (name == "--isa") {
      options.isa = argv[++i];
    } else {
      throw std::invalid_argument("no option " + name);
    }
  }
  if (options.threads < 1 || options.seconds <= 0) throw std::invalid_argument("--threads and --seconds: expected more than 0");
  return options;
}

void run(const Options& options) {
  int gradient_bits = 0, weight_bits = 0;
  if (!options.isa.empty()) setenv("BITREPLAY_ISA", options.isa.c_str(), 1);
  if (options.work.rfind("conv_", 0) == 0) return bench_conv(options);
  if (options.work == "head_step") return bench_head(options);
  if (std::sscanf(options.work.c_str(), "learning_step_q%d_w%d", &gradient_bits, &weight_bits) == 2) {
    return bench_tail(options, gradient_bits, weight_bits);
  }
  if (options.work == "roofline_dot") return bench_dot(options);
  if (options.work == "roofline_bandwidth") return bench_bandwidth(options);
  throw std::invalid_argument("no work '" + options.work + "'");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(argc, argv));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bitreplay_bench: %s\n", error.what());
    return 1;
  }
}
