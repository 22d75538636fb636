// Native measurements for benchmarks/speed/run.py: one work a call, one JSON line; inputs are made as the checks make theirs.
//   bitreplay_bench WORK [--threads N] [--seconds S] [--isa scalar|avx2|avx512]
// WORK: conv_56x56x64 (any HxWxC), head_step, learning_step_q8_w8 (bits of gradients and weights), roofline_dot, roofline_bandwidth.
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "check.h"
#include "learn/lesson.h"
#include "learn/tail.h"
#include "network/forward.h"
#include "workers.h"

#ifdef BITREPLAY_HAVE_AVX2
#include <immintrin.h>
#endif

namespace {

using namespace bitreplay;
using namespace bitreplay::checks;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string work, isa;
  int threads = 1;
  double seconds = 1;
};

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Random values of -limit..limit, the same in every call.
template <class T>
std::vector<T> drawn(size_t count, uint64_t stream, int64_t limit) {
  Source random{stream};
  const auto result = values<T>(static_cast<int64_t>(count), -limit, limit, kRandom, random);
  return {result.begin(), result.end()};
}

std::vector<uint64_t> drawn_bits(size_t rows, int channels, uint64_t stream) {
  Source random{stream};
  const auto result = packed(static_cast<int64_t>(rows), channels, kRandom, random);
  return {result.begin(), result.end()};
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
  std::sort(times.begin(), times.end());
  return times;
}

void print_times(const Options& options, const std::vector<double>& seconds, int64_t bytes) {
  std::printf("{\"work\": \"%s\", \"kernels\": \"%s\", \"threads\": %d, \"median_ms\": %.6f, \"best_ms\": %.6f, \"calls\": %zu, \"bytes\": %lld}\n",
              options.work.c_str(), kernels().isa, options.threads, 1e3 * seconds[seconds.size() / 2], 1e3 * seconds[0], seconds.size(),
              static_cast<long long>(bytes));
}

constexpr int kStream = 4000;  // typical magnitude of a stream

// One block: int16 residual stream in and out.
void bench_conv(const Options& options) {
  Shape shape;
  if (std::sscanf(options.work.c_str(), "conv_%dx%dx%d", &shape.height, &shape.width, &shape.channels) != 3) {
    throw std::invalid_argument("expected conv_HxWxC");
  }
  const auto n = static_cast<size_t>(shape.channels);
  Block block;
  block.channels = shape.channels;
  block.shift = 8;
  block.mean.assign(n, static_cast<int16_t>(n / 8));
  const auto multiplier = drawn<int16_t>(n, 3, 16000);
  const auto bias = drawn<int32_t>(n, 4, kStream << block.shift);
  block.multiplier.assign(multiplier.begin(), multiplier.end());
  block.bias.assign(bias.begin(), bias.end());
  set_block_weight(block, drawn_bits(n * kTaps, shape.channels, 1));
  auto y = drawn<int16_t>(static_cast<size_t>(shape.size()), 2, kStream);
  ScratchPlan plan;
  plan.add(block, shape);
  Scratch scratch(plan, options.threads);
  Workers workers(options.threads);
  print_times(options, time_calls(options.seconds, [&] { block_forward(block, shape, y.data(), scratch, &workers); }), scratch.bytes());
}

struct TimeIsUp {};
constexpr int kForever = 1 << 20;

// lesson(report): the times between its reports; the first interval is the warm-up.  It is given up after the time and five intervals.
template <class F>
void bench_steps(const Options& options, F&& lesson) {
  const int64_t held = MemoryMeter::current.load();
  MemoryMeter::peak.store(held);
  std::vector<double> times;
  Clock::time_point begin, last;
  size_t reports = 0, before = 0;
  try {
    lesson([&](size_t done, size_t) {
      if (reports > 1) times.push_back(since(last) / static_cast<double>(done - before));
      if (reports++ == 1) begin = Clock::now();
      if (times.size() >= 5 && since(begin) > options.seconds) throw TimeIsUp{};
      last = Clock::now();
      before = done;
    });
  } catch (const TimeIsUp&) {
  }
  std::sort(times.begin(), times.end());
  print_times(options, times, MemoryMeter::peak.load() - held);
}

template <class T>
std::vector<T> labels_for(size_t rows, size_t classes) {
  std::vector<T> labels(rows);
  for (size_t i = 0; i < rows; ++i) labels[i] = static_cast<T>(i % classes);
  return labels;
}

// 128 rows of 1,024 features, 50 classes: softmax, gradient, step; the rows are gathered anew for every step, as in a lesson.
void bench_head(const Options& options) {
  constexpr size_t kRows = 128, kWidth = 1024, kClasses = 50;
  const auto labels = labels_for<int32_t>(kRows, kClasses);
  const auto features = drawn<int8_t>(kRows * kWidth, 5, 60);
  auto weight = drawn<int32_t>(kClasses * kWidth, 6, 1 << 22);
  const Lesson lesson{.live_labels = labels, .stored_labels = {}, .classes = kClasses, .width = kWidth, .feature_bits = 5};
  Settings settings;
  settings.learning_rate = 655;
  settings.live_batch = kRows;
  settings.epochs = kForever;
  settings.prior_correction = false;
  bench_steps(options, [&](StepReport report) { train_head(lesson, settings, features, {}, weight, report); });
}

// 50 live and 128 stored binary latents of 4x4x512 through three blocks, pooling, whitening and a head of 10 classes.
void bench_tail(const Options& options, int gradient_bits, int weight_bits) {
  constexpr int kChannels = 512, kSide = 4, kBlocks = 3, kClasses = 10;
  constexpr size_t kLive = 50, kStored = 128, kRowWords = size_t{kSide} * kSide * kChannels / kWordBits;
  const std::vector<int64_t> no_bias(kChannels, 0);
  Network network(2 * kSide);
  network.add_conv({3, 2, {}}, 3, kChannels, 1, false, false, 8, std::span<const int8_t>(drawn<int8_t>(kChannels * 27, 7, 100)),
                   std::span<const int16_t>(drawn<int16_t>(kChannels, 8, 100)), no_bias);
  network.set_cut(std::vector<int32_t>(kChannels, 0), std::vector<uint8_t>(kChannels, 0), std::vector<int16_t>(kChannels, kStream));
  std::vector<std::vector<int8_t>> shadows;
  std::vector<TailSource> sources;
  for (uint64_t b = 0; b < kBlocks; ++b) {
    const auto& shadow = shadows.emplace_back(drawn<int8_t>(size_t{kChannels} * kTaps * kChannels, 10 + b, 100));
    std::vector<uint64_t> bits(shadow.size() / kWordBits, 0);
    for (size_t i = 0; i < shadow.size(); ++i) bits[i / kWordBits] |= uint64_t{shadow[i] < 0} << (i % kWordBits);
    network.add_block(kChannels, 8, bits, std::vector<int16_t>(kChannels, 27), drawn<int16_t>(kChannels, 20 + b, 15000),
                      drawn<int32_t>(kChannels, 30 + b, kStream << 7));
  }
  network.set_features(14, 20, 5, std::vector<int32_t>(kChannels, (1 << 14) / (kSide * kSide)), drawn<int8_t>(size_t{kChannels} * kChannels, 40, 127),
                       drawn<int16_t>(kChannels, 41, 20), no_bias);
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
  const auto live = labels_for<int32_t>(kLive, kClasses);
  const auto stored = labels_for<uint16_t>(kStored, kClasses);
  const auto rows = drawn_bits((kLive + kStored) * kRowWords, kWordBits, 50);
  auto weight = drawn<int32_t>(size_t{kClasses} * kChannels, 51, 1 << 24);
  const Lesson lesson{.live_labels = live, .stored_labels = stored, .classes = kClasses, .width = kChannels, .feature_bits = 5};
  Workers workers(options.threads);
  const auto row = [&](size_t i) { return rows.data() + i * kRowWords; };
  bench_steps(options, [&](StepReport report) {
    train_tail(lesson, settings, network, tail, tail, row, [&](size_t i) { return row(kLive + i); }, weight, workers, report);
  });
}

// The roofline: seconds of one of many short runs, the fastest.
template <class F>
double fastest(double seconds, F&& run) {
  return time_calls(seconds, [&] {
    for (int i = 0; i < 20; ++i) run();
  })[0] / 20;
}

struct Loop {
  std::string name;
  double macs_a_second;
};

// The core's own: a tile of 32 pixels and 64 channels, a word a tap.
Loop tile_loop(double seconds) {
  constexpr int kChannels = 64, kPixels = 32;
  BinaryTile tile{kChannels, 1, 3, 1, 2, kPixels / 2, nullptr, nullptr};
  const auto window = drawn_bits(static_cast<size_t>(tile.window_rows() * tile.window_columns() + 3), kChannels, 60);
  const auto canonical = drawn_bits(kChannels * kTaps, kChannels, 61);
  Exact<uint64_t> weight(kernels().binary_weight_words(kChannels, kChannels, 3));
  Exact<uint8_t> expanded(kExpandedBytes);
  Exact<int16_t> z(kTilePixels * kTileChannels);
  for (int c = 0; c < kChannels; ++c) kernels().set_binary_channel(weight.data(), kChannels, 3, c, canonical.data() + c * kTaps);
  tile.window = window.data();
  tile.expanded = expanded.data();
  kernels().binary_expand(tile);
  return {std::string(kernels().isa) + ": the tile of the binary convolution, its result stored",
          kPixels * kChannels * kTaps * 64 / fastest(seconds, [&] { kernels().binary_tile(tile, weight.data(), 0, kChannels, z.data()); })};
}

#ifdef BITREPLAY_HAVE_AVX2
constexpr int kPixels = 4;  // of a tile: as many rows of activations meet each weight while both are in registers

// out(pixel, channel) = sum over k of popcount(weight(k, channel) xor x(pixel, k)), 32 channels, 64 bits a step.
__attribute__((target("avx512f,avx512vpopcntdq"))) void popcount_loop(const uint64_t* weight, const uint64_t* x, int steps, uint64_t* out) {
  __m512i sum[kPixels][4];
  for (auto& row : sum) std::fill(std::begin(row), std::end(row), _mm512_setzero_si512());
  for (int k = 0; k < steps; ++k, weight += 32) {
    __m512i w[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) w[v] = _mm512_loadu_si512(weight + 8 * v);
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p) {
      const __m512i bits = _mm512_set1_epi64(static_cast<int64_t>(x[p * steps + k]));
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sum[p][v] = _mm512_add_epi64(sum[p][v], _mm512_popcnt_epi64(_mm512_xor_si512(w[v], bits)));
    }
  }
  for (int i = 0; i < 4 * kPixels; ++i) _mm512_storeu_si512(out + i * 8, sum[i / 4][i % 4]);
}

Loop vpopcnt_loop(double seconds) {
  constexpr int kSteps = 72, kChannels = 32;  // 512 channels, nine taps: 18 KiB of weights
  const auto weight = drawn_bits(kSteps * kChannels, kWordBits, 62), x = drawn_bits(kPixels * kSteps, kWordBits, 63);
  std::vector<uint64_t> out(kPixels * kChannels);
  return {"avx512: xor, VPOPCNTQ, add",
          64.0 * kSteps * kChannels * kPixels / fastest(seconds, [&] { popcount_loop(weight.data(), x.data(), kSteps, out.data()); })};
}
#endif

// Slower ones that were tried: tables of nibbles and a shuffle (AVX2), carry-save adders in front of VPOPCNTDQ (three operations a vector
// as well), VPERMB and VPERMI2B with tables of 6 and 7 bits.
void bench_dot(const Options& options) {
  Loop best = tile_loop(options.seconds / 2);
#ifdef BITREPLAY_HAVE_AVX2
  if (best.name.starts_with("avx512")) {
    if (const Loop other = vpopcnt_loop(options.seconds / 2); other.macs_a_second > best.macs_a_second) best = other;
  }
#endif
  std::printf("{\"work\": \"%s\", \"loop\": \"%s\", \"tmac_s\": %.4f}\n", options.work.c_str(), best.name.c_str(), best.macs_a_second / 1e12);
}

void bench_bandwidth(const Options& options) {
  constexpr size_t kWords = size_t{32} << 20;  // 256 MiB
  const std::vector<uint64_t> memory(kWords, 1);
  uint64_t sum = 0;
  const auto times = time_calls(options.seconds, [&] {
    for (const uint64_t word : memory) sum += word;
  });
  if (sum % kWords != 0) throw std::runtime_error("memory is not what was written");
  std::printf("{\"work\": \"%s\", \"loop\": \"sum of 256 MiB\", \"gbyte_s\": %.3f}\n", options.work.c_str(), 8.0 * kWords / times[0] / 1e9);
}

void run(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const bool named = name.starts_with("--");
    if (named && i + 1 >= argc) throw std::invalid_argument(name + ": expected a value");
    if (!named) {
      options.work = name;
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
  if (!options.isa.empty()) setenv("BITREPLAY_ISA", options.isa.c_str(), 1);
  int gradient_bits = 0, weight_bits = 0;
  if (options.work.starts_with("conv_")) return bench_conv(options);
  if (options.work == "head_step") return bench_head(options);
  if (std::sscanf(options.work.c_str(), "learning_step_q%d_w%d", &gradient_bits, &weight_bits) == 2) return bench_tail(options, gradient_bits, weight_bits);
  if (options.work == "roofline_dot") return bench_dot(options);
  if (options.work == "roofline_bandwidth") return bench_bandwidth(options);
  throw std::invalid_argument("no work '" + options.work + "'");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv), 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bitreplay_bench: %s\n", error.what());
    return 1;
  }
}
