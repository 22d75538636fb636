// Native check: every instruction set gives the scalar kernels' results, bit for bit, on sizes around the vector width and on
// adversarial values; fixed-point functions keep their promises.  Exits 1 on the first failure and names its parameters.
//   bitreplay_check [--bench] [--seed N]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bits.h"
#include "fixed_point.h"
#include "kernels.h"
#include "random.h"
#include "replay.h"

namespace {

using bitreplay::Kernels;

uint64_t g_seed = 1;
long g_checks = 0;

void fail(const std::string& what) {
  std::fprintf(stderr, "FAILED: %s (seed %llu)\n", what.c_str(), static_cast<unsigned long long>(g_seed));
  std::exit(1);
}

void expect(bool condition, const std::string& what) {
  ++g_checks;
  if (!condition) fail(what);
}

struct Source {
  uint64_t step, index = 0;
  uint64_t operator()() { return bitreplay::draw(g_seed, bitreplay::Purpose::live_order, step, index++); }
};

std::vector<const Kernels*> faster_tables() {
  std::vector<const Kernels*> tables;
#ifdef BITREPLAY_HAVE_AVX2
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) tables.push_back(&bitreplay::kernels_avx2());
#endif
  return tables;
}

// Buffers end exactly at their allocation, so that a sanitizer sees one word too far.
uint64_t pattern_word(int pattern, Source& random) {
  switch (pattern) {
    case 0: return 0;
    case 1: return ~uint64_t{0};
    case 2: return 0xaaaaaaaaaaaaaaaaULL;
    default: return random();
  }
}

void check_binary_conv(const Kernels& fast) {
  for (const int channels : {1, 3, 63, 64, 65, 128, 200, 256, 384, 512, 1024}) {
    for (int px = 0; px < 4; ++px) {
      for (int pw = 0; pw < 4; ++pw) {
        Source random{static_cast<uint64_t>(channels * 16 + px * 4 + pw)};
        const int words = bitreplay::words_for(channels);
        const int padded = (channels + bitreplay::kChannelTile - 1) / bitreplay::kChannelTile * bitreplay::kChannelTile;
        const uint64_t mask = bitreplay::last_word_mask(channels);
        std::vector<std::unique_ptr<uint64_t[]>> rows;
        const uint64_t* taps[bitreplay::kTaps];
        for (auto& tap : taps) {
          rows.emplace_back(new uint64_t[static_cast<size_t>(words)]);
          for (int w = 0; w < words; ++w) rows.back()[w] = pattern_word(px, random) & (w == words - 1 ? mask : ~uint64_t{0});
          tap = rows.back().get();
        }
        const size_t count = static_cast<size_t>(padded) * bitreplay::kTaps * static_cast<size_t>(words);
        std::unique_ptr<uint64_t[]> weights(new uint64_t[count]);
        for (size_t i = 0; i < count; ++i) {
          const bool last = static_cast<int>(i / bitreplay::kChannelTile) % words == words - 1;
          weights[i] = pattern_word(pw, random) & (last ? mask : ~uint64_t{0});
        }
        std::vector<int16_t> expected(static_cast<size_t>(padded)), got(static_cast<size_t>(padded));
        const int bits = bitreplay::kTaps * channels;
        bitreplay::kernels_scalar().binary_conv3x3(taps, words, weights.get(), padded, bits, expected.data());
        fast.binary_conv3x3(taps, words, weights.get(), padded, bits, got.data());
        expect(expected == got, std::string(fast.isa) + " binary_conv3x3, channels " + std::to_string(channels) + ", patterns " +
                                    std::to_string(px) + " " + std::to_string(pw));
      }
    }
  }
}

void check_dot(const Kernels& fast) {
  for (const int count : {0, 1, 2, 15, 16, 17, 27, 31, 32, 33, 64, 100, 255, 384, 516, 2047}) {
    for (int pattern = 0; pattern < 4; ++pattern) {
      Source random{static_cast<uint64_t>(count * 4 + pattern) + 100000};
      std::unique_ptr<int16_t[]> x(new int16_t[static_cast<size_t>(count)]), w(new int16_t[static_cast<size_t>(count)]);
      // The bound of kernels.h: sum |w| <= 65535.
      const int largest = count == 0 ? 0 : std::min(127, 65535 / count);
      for (int i = 0; i < count; ++i) {
        x[i] = pattern == 0 ? INT16_MIN : pattern == 1 ? INT16_MAX : static_cast<int16_t>(random());
        w[i] = static_cast<int16_t>(pattern < 2 ? largest : pattern == 2 ? -largest : static_cast<int>(random() % 255) - 127);
        if (pattern == 3) w[i] = static_cast<int16_t>(w[i] * largest / 127);
      }
      expect(bitreplay::kernels_scalar().dot_i16(x.get(), w.get(), count) == fast.dot_i16(x.get(), w.get(), count),
             std::string(fast.isa) + " dot_i16, count " + std::to_string(count) + ", pattern " + std::to_string(pattern));
    }
  }
}

void check_fixed_point() {
  using namespace bitreplay;
  expect(round_shift(-1, 1) == 0 && round_shift(-3, 1) == -1 && round_shift(3, 1) == 2 && round_shift(5, 0) == 5, "round_shift");
  expect(divide_round(-1, 2) == 0 && divide_round(1, 2) == 1 && divide_round(-3, 2) == -1 && divide_round(-4, 3) == -1, "divide_round");
  Source random{7};
  for (int i = 0; i < 100000; ++i) {
    const uint64_t v = random() >> (random() % 64);
    const uint64_t root = integer_sqrt(v);
    expect(root * root <= v && v - root * root <= 2 * root, "integer_sqrt of " + std::to_string(v));
    if (v > 0) {
      const double error = static_cast<double>(log2_q16(v)) / 65536.0 - std::log2(static_cast<double>(v));
      expect(error <= 1e-9 && error > -2.5e-5, "log2_q16 of " + std::to_string(v));
    }
    const auto t = static_cast<int64_t>(random() % (31 << 16));
    expect(std::fabs(static_cast<double>(exp2_negative(t)) / (1 << 30) - std::exp2(-static_cast<double>(t) / 65536)) < 4e-6,
           "exp2_negative of " + std::to_string(t));
    const uint64_t n = (random() >> (random() % 63)) + 1;
    expect(below(n, random()) < n, "below");
  }
}

// Lessons of random size and content: capacity and balance hold, every row in the memory is the row that was offered.
void check_replay() {
  for (const size_t capacity : {size_t{0}, size_t{1}, size_t{7}, size_t{10}, size_t{100}}) {
    bitreplay::Replay replay(capacity, 1);
    Source random{capacity + 1};
    std::vector<uint64_t> seen(12, 0);
    for (uint64_t experience = 0; experience < 40; ++experience) {
      const size_t classes = std::max(replay.seen().size(), static_cast<size_t>(1 + random() % 12));
      std::vector<int32_t> labels(random() % 40);
      std::vector<uint64_t> rows(labels.size());
      for (size_t i = 0; i < labels.size(); ++i) {
        labels[i] = static_cast<int32_t>(random() % classes);
        rows[i] = static_cast<uint64_t>(labels[i]) << 32 | seen[static_cast<size_t>(labels[i])]++;
      }
      replay.commit(replay.plan(labels, classes, g_seed, experience), rows.data());
      expect(replay.size() <= capacity, "replay: above its capacity");
      std::vector<size_t> stored(classes, 0);
      for (size_t slot = 0; slot < replay.size(); ++slot) {
        expect(replay.row(slot)[0] >> 32 == replay.labels()[slot], "replay: a row and its label parted");
        ++stored[replay.labels()[slot]];
      }
      size_t most = 0;
      for (const size_t s : stored) most = std::max(most, s);
      for (size_t c = 0; c < classes; ++c) {
        expect(replay.seen()[c] == seen[c], "replay: offered rows miscounted");
        expect(stored[c] + 1 >= std::min<size_t>(most, seen[c]), "replay: unbalanced");
      }
    }
  }
}

void bench(const Kernels& table) {
  for (const int channels : {64, 128, 256, 384, 512}) {
    const int words = channels / 64;
    std::vector<uint64_t> x(static_cast<size_t>(bitreplay::kTaps * words), 3), w(static_cast<size_t>(channels * bitreplay::kTaps * words), 5);
    std::vector<int16_t> z(static_cast<size_t>(channels));
    const uint64_t* taps[bitreplay::kTaps];
    for (int t = 0; t < bitreplay::kTaps; ++t) taps[t] = x.data() + t * words;
    double best = 1e9;
    const int calls = 4000000 / (channels * words) + 1;
    for (int round = 0; round < 20; ++round) {
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < calls; ++i) table.binary_conv3x3(taps, words, w.data(), channels, 9 * channels, z.data());
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / calls);
    }
    std::printf("%-7s binary_conv3x3 %4d channels: %.3f T binary MAC/s\n", table.isa, channels, 9.0 * channels * channels / best / 1e12);
  }
}

}  // namespace

int main(int argc, char** argv) {
  bool timing = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--bench") == 0) timing = true;
    if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) g_seed = std::strtoull(argv[i + 1], nullptr, 10);
  }
  check_fixed_point();
  check_replay();
  for (const Kernels* table : faster_tables()) {
    check_binary_conv(*table);
    check_dot(*table);
    std::printf("%s equals scalar\n", table->isa);
  }
  std::printf("%ld checks passed\n", g_checks);
  if (timing) {
    bench(bitreplay::kernels_scalar());
    for (const Kernels* table : faster_tables()) bench(*table);
  }
  return 0;
}
