// What LDA says of a row that it was learned from, as if it had not been: in closed form, mean and scatter (docs/method.md, 4.5).
#pragma once

#include <cstddef>
#include <cstdint>

#include "lda.h"

namespace bitreplay {

// The inverse (D, D) of a symmetric matrix, given as its upper triangle, which is lost.
Buffer<double> inverse(Buffer<double>& a, int width);
// out = a x, a (D, D) symmetric.
void multiply(const Buffer<double>& a, const double* x, int width, double* out);
double dot(const double* a, const double* b, int width);
// What divides where a row is taken out; no row that was learned from comes near to 0.
inline double left_of(double leverage) { return 1 - leverage > 0.001 ? 1 - leverage : 0.001; }

class LeaveOneOut {
 public:
  // settings: as `solve` takes them.
  LeaveOneOut(const Statistics& statistics, const LdaSettings& settings);

  // Squared distance of a row of class c to each class, without it; twice the score of `solve` falls short of minus this by what is equal for all classes.
  // c has two pictures at least.  Rows of one class one after the other are faster.
  void distances(const int8_t* row, size_t c, double* out);

  double count(size_t c) const { return count_[c]; }
  double all() const { return all_; }
  double shrinkage() const { return nu_; }
  const Buffer<double>& mean() const { return moments_.mean; }         // of all rows
  const Buffer<double>& deviation() const { return deviation_; }       // of the class means from that, (D, K)
  const Buffer<double>& scatter() const { return moments_.scatter; }   // its upper triangle
  const Buffer<double>& inverse_scatter() const { return inverse_; }   // (D, D)

 private:
  void each_class(const double* from, Buffer<double>& to) const;  // products with the deviations

  int width_;
  size_t classes_, current_;
  double nu_, kappa_, all_;
  Moments moments_;
  Buffer<double> count_, deviation_, inverse_, spread_, own_, near_, x_, v_;
};

}  // namespace bitreplay
