// Streaming linear discriminant analysis on int8 features: sums of integers, and the linear classifier that they make (docs/method.md, 9).
// Owns the sums; knows nothing of where a row came from.  What is solved is a function of the sums and of the order of the classes alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "memory.h"

namespace bitreplay {

// What is known of every row ever seen.  Sums add: of two devices, of lessons in any order.
struct Statistics {
  explicit Statistics(int width);

  int width;                // features D
  Buffer<int64_t> count;    // (classes)
  Buffer<int64_t> sums;     // (classes, D)
  Buffer<int64_t> moment;   // sum of x x^T, upper triangle by rows, D (D + 1) / 2

  size_t classes() const { return count.size(); }
  void open(size_t classes);  // more of them, without rows; never fewer
  // rows: (labels.size(), D); labels below classes().
  void add(std::span<const int8_t> rows, std::span<const int32_t> labels);
};

// How sums become a classifier: weights in rows.
struct LdaSettings {
  double shrinkage = 0;         // of the scatter towards its mean variance
  double pseudo_pictures = 0;   // of each class, at the mean of all rows
  double variance = 1;          // of a feature, where no scatter has been seen
};

// Score of class c for features h: sum_j weight[c][j] h[j] + bias[c], in units of 2^-exponent of a log-posterior.
struct LinearClassifier {
  Buffer<int16_t> weight;  // (classes, D)
  Buffer<int64_t> bias;    // (classes)
  int exponent = 0;
};

// order: the classes with rows, in an order that does not depend on when they were met; the others get zeros and the lowest bias.
// Floats: + - * / on doubles, each value's operations in one order (docs/method.md, 9.2).
LinearClassifier solve(const Statistics& statistics, const LdaSettings& settings, std::span<const int32_t> order);
int64_t solve_bytes(size_t classes, int width);  // that it allocates at its highest, the result included

}  // namespace bitreplay
