// Rounding, saturation, integer exponential, logarithm and square root (docs/method.md, preamble, 4.3, 6.2, 6.4).
// Every function is exact and the same on every machine; arithmetic shifts of negative numbers floor (C++20).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace bitreplay {

// floor((v + 2^(shift-1)) / 2^shift), v itself for shift 0.  |v| < 2^62, 0 <= shift <= 62.
constexpr int64_t round_shift(int64_t v, int shift) { return shift == 0 ? v : (v + (int64_t{1} << (shift - 1))) >> shift; }

constexpr int16_t sat16(int64_t v) { return static_cast<int16_t>(std::clamp<int64_t>(v, INT16_MIN, INT16_MAX)); }
constexpr int32_t sat32(int64_t v) { return static_cast<int32_t>(std::clamp<int64_t>(v, INT32_MIN, INT32_MAX)); }

// floor((2n + d) / (2d)) for d > 0: rounds half up.  |2n + d| < 2^63.
constexpr int64_t divide_round(int64_t n, int64_t d) {
  const int64_t top = 2 * n + d;
  const int64_t bottom = 2 * d;
  const int64_t q = top / bottom;
  return top % bottom < 0 ? q - 1 : q;
}

// floor(sqrt(v)), bit by bit.
constexpr uint64_t integer_sqrt(uint64_t v) {
  uint64_t root = 0;
  for (uint64_t bit = uint64_t{1} << 62; bit != 0; bit >>= 2) {
    if (v >= root + bit) {
      v -= root + bit;
      root = (root >> 1) + bit;
    } else {
      root >>= 1;
    }
  }
  return root;
}

// 2^-t with 30 fraction bits for t >= 0 with 16 fraction bits; error below 3e-6.
constexpr int64_t exp2_negative(int64_t t) {
  const int64_t whole = t >> 16;
  const int64_t f = t & 65535;
  if (whole > 30) return 0;
  int64_t r = 7346532;
  for (const int64_t c : {-57151877LL, 257095898LL, -744157487LL, 1073739778LL}) r = c + ((r * f) >> 16);
  return r >> whole;
}

// log2(v) with 16 fraction bits, floor, v > 0.
constexpr int64_t log2_q16(uint64_t v) {
  const int k = 63 - std::countl_zero(v);
  uint64_t x = k <= 31 ? v << (31 - k) : v >> (k - 31);
  int64_t result = int64_t{k} << 16;
  for (int bit = 15; bit >= 0; --bit) {
    x = (x * x) >> 31;
    if (x >> 32) {
      result |= int64_t{1} << bit;
      x >>= 1;
    }
  }
  return result;
}

}  // namespace bitreplay
