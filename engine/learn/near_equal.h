// Packed rows that differ in so few bits that they are one piece of evidence (docs/method.md, 5.1): frames of a camera that stands still.
// Knows rows, classes and a distance; nothing of what is done with a row that counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "memory.h"

namespace bitreplay {

inline constexpr size_t kMostCompared = 4096;  // rows that one row is compared with

inline constexpr size_t kEntryBytes = 16;  // of a row in a list that is sorted: its hash, number and class

// Whether the rows differ in at most `distance` bits; never where that is negative.
bool near_equal(const uint64_t* a, const uint64_t* b, size_t words, int64_t distance);

// Which of the rows count, 1 or 0: in the order of their hashes, a row does unless one of its class that counts is near-equal to it.  A function of the
// rows of each class, not of their order.  stride: words from one row to the next.  distance: the most bits in which near-equal rows differ; negative: all count.
Buffer<uint8_t> count_once(const uint64_t* rows, size_t stride, size_t words, std::span<const int32_t> labels, int64_t distance);

}  // namespace bitreplay
