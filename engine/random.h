// Counter-based random numbers (docs/method.md, 9): a draw is a pure function of its key, so that no result depends on the
// order of calls or on threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace bitreplay {

// What a draw is for; part of its key.
enum class Purpose : uint64_t {
  live_order = 1,
  replay_order = 2,
  row_order = 3,
  held_back = 4,
  weight_rounding = 7,
  gradient_rounding = 8,
  tail_live_order = 9,
  tail_replay_order = 10,
  variation = 11,
};

constexpr uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

constexpr uint64_t draw(uint64_t seed, Purpose purpose, uint64_t step, uint64_t index) {
  constexpr uint64_t kGamma = 0x9e3779b97f4a7c15ULL;
  uint64_t h = mix(seed + kGamma);
  h = mix(h + kGamma + static_cast<uint64_t>(purpose));
  h = mix(h + kGamma + step);
  return mix(h + kGamma + index);
}

// 64 bits of a packed row that depend on each of its bits: an order of rows that has nothing to do with when they came.
inline uint64_t row_hash(uint64_t seed, Purpose purpose, std::span<const uint64_t> row) {
  uint64_t h = draw(seed, purpose, 0, row.size());
  for (const uint64_t word : row) h = mix((h ^ word) + 0x9e3779b97f4a7c15ULL);
  return h;
}

// 32 random bits for number i under a key: cheap enough for every weight of every step.
constexpr uint32_t noise(uint64_t key, uint32_t i) {
  uint32_t h = (i * 0x9e3779b1U + static_cast<uint32_t>(key)) ^ static_cast<uint32_t>(key >> 32);
  h ^= h >> 16;
  h *= 0x85ebca6bU;
  h ^= h >> 13;
  h *= 0xc2b2ae35U;
  return h ^ (h >> 16);
}

// Uniform below n: high half of the 128-bit product n * r.
constexpr uint64_t below(uint64_t n, uint64_t r) {
  const uint64_t low = (n & 0xffffffffU) * (r & 0xffffffffU);
  const uint64_t mid1 = (n >> 32) * (r & 0xffffffffU) + (low >> 32);
  const uint64_t mid2 = (n & 0xffffffffU) * (r >> 32) + (mid1 & 0xffffffffU);
  return (n >> 32) * (r >> 32) + (mid1 >> 32) + (mid2 >> 32);
}

// Fills `order` with a random permutation of 0..size-1.
inline void permute(std::span<uint32_t> order, uint64_t seed, Purpose purpose, uint64_t step) {
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
  for (size_t i = order.size(); i-- > 1;) std::swap(order[i], order[below(i + 1, draw(seed, purpose, step, i))]);
}

}  // namespace bitreplay
