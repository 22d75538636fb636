// Native check: every instruction set gives the scalar kernels' results, bit for bit, on sizes around the vector width and on
// adversarial values; fixed-point functions keep their promises.  Exits 1 on the first failure and names its parameters.
//   bitreplay_check [--seed N]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "fixed_point.h"
#include "learn/replay.h"

namespace bitreplay::checks {

void fail(const std::string& what) {
  std::fprintf(stderr, "FAILED: %s (seed %llu)\n", what.c_str(), static_cast<unsigned long long>(g_seed));
  std::exit(1);
}

std::vector<const Kernels*> faster_tables() {
  std::vector<const Kernels*> tables;
#ifdef BITREPLAY_HAVE_AVX2
  if (has_avx2()) tables.push_back(&kernels_avx2());
  if (has_avx512()) tables.push_back(&kernels_avx512());
#endif
#ifdef BITREPLAY_HAVE_NEON
  tables.push_back(&kernels_neon());
#endif
  return tables;
}

std::string text(const std::string& name, std::initializer_list<int64_t> numbers) {
  std::string result = name;
  for (const int64_t n : numbers) result += ' ' + std::to_string(n);
  return result;
}

}  // namespace bitreplay::checks

namespace {

using namespace bitreplay::checks;

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
    for (int experience = 0; experience < 40; ++experience) {
      const size_t classes = std::max(replay.seen().size(), static_cast<size_t>(1 + random() % 12));
      std::vector<int32_t> labels(random() % 40);
      std::vector<uint64_t> rows(labels.size());
      for (size_t i = 0; i < labels.size(); ++i) {
        labels[i] = static_cast<int32_t>(random() % classes);
        rows[i] = static_cast<uint64_t>(labels[i]) << 32 | seen[static_cast<size_t>(labels[i])]++;
      }
      const std::vector<uint8_t> offered(labels.size(), 1);
      replay.commit(replay.plan(rows.data(), labels, offered, classes, g_seed, {}), rows.data());
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

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) g_seed = std::strtoull(argv[i + 1], nullptr, 10);
  }
  check_fixed_point();
  check_replay();
  for (const bitreplay::Kernels* table : faster_tables()) {
    check_forward(*table);
    std::printf("%s equals scalar\n", table->isa);
  }
  check_operations();
  check_gradients();
  check_heads();
  check_training();
  std::printf("%ld checks passed, operations with %s\n", g_checks, bitreplay::kernels().isa);
  return 0;
}
