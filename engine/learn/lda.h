// Streaming linear discriminant analysis on int8 features: sums of integers, and the linear classifier that they make (docs/method.md, 4).
// Owns the sums; knows nothing of where a row came from.  What is solved is a function of the sums alone, not of the order of the classes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "memory.h"

namespace bitreplay {

// Integers of 32 bits or of 64: the other is empty.
struct Integers {
  std::span<const int32_t> narrow;
  std::span<const int64_t> wide;

  size_t size() const { return narrow.empty() ? wide.size() : narrow.size(); }
  int64_t operator[](size_t i) const { return narrow.empty() ? wide[i] : narrow[i]; }
};

// What is known of every row that counts.  Sums add: of two devices, of lessons in any order.
class Statistics {
 public:
  explicit Statistics(int width);
  Statistics(const Statistics& other, size_t classes);  // a copy with so many classes, at least as many

  int width() const { return width_; }
  size_t classes() const { return count_.size(); }
  std::span<const int64_t> count() const { return {count_.data(), count_.size()}; }  // rows of a class
  std::span<const int64_t> sums() const { return {sums_.data(), sums_.size()}; }     // (classes, D)
  // Sum of x x^T, upper triangle by rows, D (D + 1) / 2 integers: 32 bits as long as these hold them, else 64.
  bool is_wide() const { return narrow_.empty(); }
  Integers moment() const { return {{narrow_.data(), narrow_.size()}, {wide_.data(), wide_.size()}}; }
  int64_t largest() const;  // magnitude in the moment
  int64_t saturated() const { return saturated_; }  // features at +-127 in all rows

  void add(const int8_t* row, size_t label);

  void reserve(size_t classes);
  void restore(std::span<const int64_t> count, const Integers& sums, const Integers& moment, int64_t saturated);
  void take_over(Statistics& fresh) noexcept;

 private:
  void make_room();

  int width_;
  Buffer<int64_t> count_, sums_;
  Buffer<int32_t> narrow_;
  Buffer<int64_t> wide_;
  Buffer<int32_t> row_;
  int64_t saturated_ = 0, left_ = 0;  // left_: rows that 32 bits hold for certain
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

// What the sums say of features: mean of all rows, and scatter within classes, shrunk: an upper triangle by rows.
struct Moments {
  double rows = 0;
  Buffer<double> mean, scatter;
};
Moments moments_of(const Statistics& statistics, const LdaSettings& settings);

// The classes in an order that follows from what is known of them: so a sum over classes does not depend on when they were met.
Buffer<uint32_t> ordered(const Statistics& statistics);

// The exponent with which the largest of some floats fills 16 bits; a float as an integer of at most that magnitude.  Sums that no rows have (a forged
// file's) may have no inverse: what is no number becomes a bound.
int exponent_for(double largest);
double rounded(double value, double most);

// Floats: + - * / on doubles, each value's operations in one order (docs/method.md, 4.2).  Every class has rows.
LinearClassifier solve(const Statistics& statistics, const LdaSettings& settings);

}  // namespace bitreplay
