#include "leave_one_out.h"

#include <algorithm>

#include "elimination.h"

namespace bitreplay {

Buffer<double> inverse(Buffer<double>& a, int width) {
  const auto d = static_cast<size_t>(width);
  Buffer<double> result(d * d), y(d * kBlock);
  eliminate(a, width);
  for (size_t first = 0; first < d; first += kBlock) {
    std::fill(y.begin(), y.end(), 0.0);
    for (size_t k = 0; k < kBlock && first + k < d; ++k) y[(first + k) * kBlock + k] = 1;
    solve_eliminated(a, width, y.data());
    for (size_t j = 0; j < d; ++j) {
      for (size_t k = 0; k < kBlock && first + k < d; ++k) result[j * d + first + k] = y[j * kBlock + k];
    }
  }
  return result;
}

void multiply(const Buffer<double>& a, const double* x, int width, double* out) {
  std::fill_n(out, width, 0.0);
  for (int i = 0; i < width; ++i) add_multiple(x[i], a.data() + int64_t{i} * width, width, out);
}

double dot(const double* a, const double* b, int width) {
  double sum = 0;
  for (int j = 0; j < width; ++j) sum = sum + a[j] * b[j];
  return sum;
}

LeaveOneOut::LeaveOneOut(const Statistics& statistics, const LdaSettings& settings)
    : width_(statistics.width()),
      classes_(statistics.classes()),
      current_(classes_),
      nu_(settings.shrinkage),
      kappa_(settings.pseudo_pictures),
      moments_(moments_of(statistics, settings)),
      count_(classes_),
      deviation_(static_cast<size_t>(width_) * classes_),
      spread_(classes_),
      own_(classes_),
      near_(classes_),
      x_(static_cast<size_t>(width_)),
      v_(static_cast<size_t>(width_)) {
  const auto d = static_cast<size_t>(width_);
  all_ = moments_.rows;
  for (size_t c = 0; c < classes_; ++c) {
    count_[c] = static_cast<double>(statistics.count()[c]);
    for (size_t j = 0; j < d; ++j) {
      deviation_[j * classes_ + c] = static_cast<double>(statistics.sums()[c * d + j]) / static_cast<double>(statistics.count()[c]) - moments_.mean[j];
    }
  }
  {
    Buffer<double> scatter = moments_.scatter;
    inverse_ = inverse(scatter, width_);
  }
  for (size_t c = 0; c < classes_; ++c) {
    for (size_t j = 0; j < d; ++j) x_[j] = deviation_[j * classes_ + c];
    multiply(inverse_, x_.data(), width_, v_.data());
    spread_[c] = dot(x_.data(), v_.data(), width_);
  }
}

void LeaveOneOut::each_class(const double* from, Buffer<double>& to) const {
  std::fill(to.begin(), to.end(), 0.0);
  for (int j = 0; j < width_; ++j) {
    add_multiple(from[j], deviation_.data() + static_cast<size_t>(j) * classes_, static_cast<int>(classes_), to.data());
  }
}

void LeaveOneOut::distances(const int8_t* row, size_t c, double* out) {
  const auto d = static_cast<size_t>(width_);
  if (c != current_) {
    for (size_t j = 0; j < d; ++j) x_[j] = deviation_[j * classes_ + c];
    multiply(inverse_, x_.data(), width_, v_.data());
    each_class(v_.data(), own_);
    current_ = c;
  }
  for (size_t j = 0; j < d; ++j) x_[j] = static_cast<double>(row[j]) - moments_.mean[j];
  multiply(inverse_, x_.data(), width_, v_.data());
  each_class(v_.data(), near_);
  const double n = count_[c], q = dot(x_.data(), v_.data(), width_);
  const double leverage = n / ((n - 1) * (all_ + nu_)) * (q - 2 * near_[c] + own_[c]);
  const double t = n / ((n - 1) * (all_ + nu_)) / left_of(leverage);
  for (size_t k = 0; k < classes_; ++k) {
    const double share = count_[k] / (count_[k] + kappa_);
    double alpha = 1 + (1 - share) / (all_ - 1), gamma = share;
    if (k == c) {
      alpha = 1 + (1 - (n - 1) / (n - 1 + kappa_)) / (all_ - 1) + 1 / (n - 1 + kappa_);
      gamma = n / (n - 1 + kappa_);
    }
    const double yy = alpha * alpha * q - 2 * alpha * gamma * near_[k] + gamma * gamma * spread_[k];
    const double ye = alpha * (q - near_[c]) - gamma * (near_[k] - own_[k]);
    out[k] = (all_ - 1 + nu_) / (all_ + nu_) * (yy + t * ye * ye);
  }
}

}  // namespace bitreplay
