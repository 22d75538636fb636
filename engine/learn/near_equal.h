// Rows that differ so little that they are one piece of evidence (docs/method.md, 5.1): frames of a camera that stands still.
// Knows rows, classes and a distance; nothing of what is done with a row that counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "memory.h"

namespace bitreplay {

inline constexpr size_t kMostCompared = 4096;  // rows that one row is compared with

inline constexpr size_t kEntryBytes = 16;  // of a row in a list that is sorted: its hash, number and class

// What near-equal rows differ in at most: so many bits or, of rows that are features, a byte each, so many units in all.
struct Near {
  int64_t most = -1;  // negative: no two rows are near-equal
  bool of_features = false;

  bool operator()(const uint64_t* a, const uint64_t* b, size_t words) const;
};

// Which of the rows count, 1 or 0: in the order of their hashes, a row does unless one of its class that counts is near-equal to it.  A function of the
// rows of each class, not of their order.  stride: words from one row to the next.  Where none are near-equal all count.
Buffer<uint8_t> count_once(const uint64_t* rows, size_t stride, size_t words, std::span<const int32_t> labels, const Near& near);

}  // namespace bitreplay
