// What the parts of the native check share: failing, counting, and random words that --seed repeats.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "random.h"

namespace bitreplay::check {

inline uint64_t g_seed = 1;
inline long g_checks = 0;

[[noreturn]] void fail(const std::string& what);

inline void expect(bool condition, const std::string& what) {
  ++g_checks;
  if (!condition) fail(what);
}

struct Source {
  uint64_t step, index = 0;
  uint64_t operator()() { return draw(g_seed, Purpose::live_order, step, index++); }
  int in(int low, int high) { return low + static_cast<int>((*this)() % static_cast<uint64_t>(high - low + 1)); }
};

// Exactly `count` values, so that a sanitizer sees one too far.
template <class T>
std::unique_ptr<T[]> exact(int64_t count) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(count)]());
}

// Values of a pattern: 0 zeros (bits) or all lowest, 1 all ones or highest, 2 alternating, 3 random, 4 small random.
constexpr int kPatterns = 5;
uint64_t pattern_word(int pattern, Source& random);
int16_t pattern_value(int pattern, Source& random);

std::vector<const Kernels*> faster_tables();

void check_forward(const Kernels& fast);
void check_operations();
void check_gradients();
void check_heads();
void check_training();

}  // namespace bitreplay::check
