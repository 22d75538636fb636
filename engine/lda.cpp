#include "lda.h"

#include <algorithm>
#include <cmath>

#include "wide.h"

namespace bitreplay {
namespace {

constexpr int64_t kLargestProduct = 127 * 127;
constexpr int kBlock = 16;  // classes that are solved for side by side

BITREPLAY_WIDE void add_products(int32_t factor, const int32_t* values, int count, int32_t* sums) {
  for (int j = 0; j < count; ++j) sums[j] += factor * values[j];
}

BITREPLAY_WIDE void add_products(int32_t factor, const int32_t* values, int count, int64_t* sums) {
  for (int j = 0; j < count; ++j) sums[j] += factor * values[j];
}

// a[j] -= f * b[j]: each value has its operations in the order of the calls, whatever the width of a vector.
BITREPLAY_WIDE void take_multiple(double f, const double* b, int count, double* a) {
  for (int j = 0; j < count; ++j) a[j] = a[j] - f * b[j];
}

BITREPLAY_WIDE void take_quotient(double f, double n, const double* b, int count, double* a) {
  for (int j = 0; j < count; ++j) a[j] = a[j] - (f * b[j]) / n;
}

BITREPLAY_WIDE void divide(double divisor, int count, double* a) {
  for (int j = 0; j < count; ++j) a[j] = a[j] / divisor;
}

constexpr size_t triangle(int width) { return static_cast<size_t>(int64_t{width} * (width + 1) / 2); }

// f(i, row i of the triangle from its diagonal on, its length).
template <class T, class F>
void for_triangle(T* at, int width, const F& f) {
  for (int i = 0; i < width; at += width - i, ++i) f(i, at, width - i);
}

class Solver {
 public:
  Solver(const Statistics& statistics, const LdaSettings& settings)
      : statistics_(statistics),
        settings_(settings),
        width_(statistics.width()),
        d_(static_cast<size_t>(width_)),
        order_(statistics.classes()),
        mean_(d_),
        row_(d_),
        a_(triangle(width_)),
        y_(d_ * kBlock),
        deviation_(d_ * kBlock) {
    for (size_t c = 0; c < order_.size(); ++c) order_[c] = static_cast<uint32_t>(c);
    std::sort(order_.begin(), order_.end(), [&](uint32_t a, uint32_t b) { return precedes(a, b); });
    find_mean();
    find_scatter();
    eliminate();
  }

  static int64_t bytes(size_t classes, int width) {
    const auto d = static_cast<size_t>(width);
    return static_cast<int64_t>(classes * sizeof(uint32_t) + (2 * d + triangle(width) + 2 * d * kBlock) * sizeof(double));
  }

  // Solves for kBlock classes from class `first` on, side by side; then weight(c, j) and bias(c) of them.
  void solve_block(size_t first) {
    const size_t classes = statistics_.classes();
    for (size_t k = 0; k < kBlock; ++k) {
      const size_t c = std::min(first + k, classes - 1);
      const auto n = static_cast<double>(statistics_.count()[c]);
      const int64_t* sum = statistics_.sums().data() + c * d_;
      for (size_t j = 0; j < d_; ++j) {
        deviation_[j * kBlock + k] = y_[j * kBlock + k] = (static_cast<double>(sum[j]) - n * mean_[j]) / (n + settings_.pseudo_pictures);
      }
    }
    double* y = y_.data();
    for_triangle(a_.data(), width_, [&](int k, const double* pivot, int count) {
      for (int i = 1; i < count; ++i) substitute(pivot[i] / pivot[0], y + k * kBlock, y + (k + i) * kBlock);
    });
    const double* at = a_.data() + a_.size();
    for (int k = width_ - 1; k >= 0; --k) {
      at -= width_ - k;
      for (int j = width_ - 1; j > k; --j) substitute(at[j - k], y + j * kBlock, y + k * kBlock);
      divide(at[0], kBlock, y + k * kBlock);
    }
  }

  double weight(size_t k, size_t j) const { return y_[j * kBlock + k]; }
  double bias(size_t k) const {
    double bias = 0;
    for (size_t j = 0; j < d_; ++j) bias = bias - weight(k, j) * (mean_[j] + 0.5 * deviation_[j * kBlock + k]);
    return bias;
  }

 private:
  // By what is known of them: so a sum over classes does not depend on when they were met.
  bool precedes(uint32_t a, uint32_t b) const {
    const int64_t* sums = statistics_.sums().data();
    if (statistics_.count()[a] != statistics_.count()[b]) return statistics_.count()[a] < statistics_.count()[b];
    return std::lexicographical_compare(sums + a * d_, sums + (a + 1) * d_, sums + b * d_, sums + (b + 1) * d_);
  }

  void find_mean() {
    int64_t rows = 0;
    for (const int64_t n : statistics_.count()) rows += n;
    rows_ = static_cast<double>(rows);
    for (size_t j = 0; j < d_; ++j) {
      int64_t sum = 0;
      for (size_t c = 0; c < statistics_.classes(); ++c) sum += statistics_.sums()[c * d_ + j];
      mean_[j] = static_cast<double>(sum) / rows_;
    }
  }

  // The scatter within classes, shrunk towards its mean variance.
  void find_scatter() {
    for (size_t k = 0; k < a_.size(); ++k) a_[k] = static_cast<double>(statistics_.moment()[k]);
    for (const uint32_t c : order_) {
      const int64_t* sum = statistics_.sums().data() + c * d_;
      const auto n = static_cast<double>(statistics_.count()[c]);
      for (size_t j = 0; j < d_; ++j) row_[j] = static_cast<double>(sum[j]);
      for_triangle(a_.data(), width_, [&](int i, double* at, int count) { take_quotient(row_[static_cast<size_t>(i)], n, row_.data() + i, count, at); });
    }
    double trace = 0;
    for_triangle(a_.data(), width_, [&](int, const double* at, int) { trace = trace + *at; });
    const double variance = trace > 0 ? trace / rows_ / static_cast<double>(width_) : settings_.variance;
    const double weight = rows_ + settings_.shrinkage;
    for_triangle(a_.data(), width_, [&](int, double* at, int count) {
      *at = *at + settings_.shrinkage * variance;
      divide(weight, count, at);
    });
  }

  void eliminate() {
    double* pivot = a_.data();
    for (int k = 0; k < width_; pivot += width_ - k, ++k) {
      double* at = pivot + (width_ - k);
      for (int i = k + 1; i < width_; at += width_ - i, ++i) take_multiple(pivot[i - k] / pivot[0], pivot + (i - k), width_ - i, at);
    }
  }

  static void substitute(double f, const double* from, double* to) { take_multiple(f, from, kBlock, to); }

  const Statistics& statistics_;
  const LdaSettings& settings_;
  int width_;
  size_t d_;
  double rows_ = 0;
  Buffer<uint32_t> order_;
  Buffer<double> mean_, row_, a_;
  Buffer<double> y_, deviation_;  // (D, kBlock)
};

}  // namespace

Statistics::Statistics(int width) : width_(width), narrow_(triangle(width), 0), row_(static_cast<size_t>(width)) {}

int64_t Statistics::bytes(size_t classes, int width, bool wide) {
  return static_cast<int64_t>(classes * (static_cast<size_t>(width) + 1) * sizeof(int64_t) + triangle(width) * (wide ? sizeof(int64_t) : sizeof(int32_t)) +
                              static_cast<size_t>(width) * sizeof(int32_t));
}

int64_t Statistics::largest() const {
  int64_t most = 0;  // on the diagonal
  for_triangle(narrow_.data(), is_wide() ? 0 : width_, [&](int, const int32_t* at, int) { most = std::max<int64_t>(most, *at); });
  for_triangle(wide_.data(), is_wide() ? width_ : 0, [&](int, const int64_t* at, int) { most = std::max<int64_t>(most, *at); });
  return most;
}

void Statistics::open(size_t classes) {
  if (classes <= count_.size()) return;
  count_.resize(classes, 0);
  sums_.resize(classes * static_cast<size_t>(width_), 0);
}

void Statistics::reserve(size_t classes) {
  count_.reserve(classes);
  sums_.reserve(classes * static_cast<size_t>(width_));
}

void Statistics::make_room() {
  left_ = (INT32_MAX - largest()) / kLargestProduct;
  if (left_ > 0) return;
  Buffer<int64_t> wide(narrow_.begin(), narrow_.end());
  wide_.swap(wide);
  Buffer<int32_t>().swap(narrow_);
}

void Statistics::add(const int8_t* x, size_t label) {
  int32_t* row = row_.data();
  int64_t* sum = sums_.data() + label * static_cast<size_t>(width_);
  ++count_[label];
  for (int j = 0; j < width_; ++j) {
    row[j] = x[j];
    sum[j] += x[j];
    saturated_ += x[j] == 127 || x[j] == -127;
  }
  if (!is_wide() && left_ == 0) make_room();
  if (is_wide()) {
    for_triangle(wide_.data(), width_, [&](int i, int64_t* at, int count) { add_products(row[i], row + i, count, at); });
  } else {
    --left_;
    for_triangle(narrow_.data(), width_, [&](int i, int32_t* at, int count) { add_products(row[i], row + i, count, at); });
  }
}

void Statistics::restore(std::span<const int64_t> count, const Integers& sums, const Integers& moment, int64_t saturated) {
  count_.assign(count.begin(), count.end());
  sums_.resize(sums.size());
  for (size_t i = 0; i < sums.size(); ++i) sums_[i] = sums[i];
  if (moment.narrow.empty()) {
    wide_.assign(moment.wide.begin(), moment.wide.end());
    Buffer<int32_t>().swap(narrow_);
  } else {
    narrow_.assign(moment.narrow.begin(), moment.narrow.end());
    Buffer<int64_t>().swap(wide_);
  }
  saturated_ = saturated;
  left_ = 0;
}

void Statistics::take_over(Statistics& fresh) noexcept {
  bitreplay::take_over(count_, fresh.count_);
  bitreplay::take_over(sums_, fresh.sums_);
  bitreplay::take_over(narrow_, fresh.narrow_);
  bitreplay::take_over(wide_, fresh.wide_);
  saturated_ = fresh.saturated_;
  left_ = fresh.left_;
}

LinearClassifier solve(const Statistics& statistics, const LdaSettings& settings) {
  const size_t d = static_cast<size_t>(statistics.width()), classes = statistics.classes();
  LinearClassifier result{Buffer<int16_t>(classes * d), Buffer<int64_t>(classes), 0};
  if (classes == 0) return result;
  Solver solver(statistics, settings);
  // Sums that no rows have (a forged file's) may have no inverse: what is no number becomes a bound.
  const auto rounded = [](double value, double most) { return value < most ? value > -most ? std::floor(value + 0.5) : -most : most; };
  const auto each = [&](const auto& f) {  // f(class, its place in the block)
    for (size_t first = 0; first < classes; first += kBlock) {
      solver.solve_block(first);
      for (size_t k = 0; k < kBlock && first + k < classes; ++k) f(first + k, k);
    }
  };
  double largest = 0;
  each([&](size_t, size_t k) {
    for (size_t j = 0; j < d; ++j) largest = std::max(largest, std::fabs(solver.weight(k, j)));
  });
  double scale = 1;
  for (; result.exponent < 60 && largest * scale < 16383.5 && largest > 0; ++result.exponent) scale = scale * 2;
  for (; result.exponent > -60 && largest * scale > 32767.0; --result.exponent) scale = scale / 2;
  each([&](size_t c, size_t k) {
    for (size_t j = 0; j < d; ++j) {
      result.weight[c * d + j] = static_cast<int16_t>(rounded(solver.weight(k, j) * scale, 32767.0));
    }
    result.bias[c] = static_cast<int64_t>(rounded(solver.bias(k) * scale, 0x1p40));
  });
  return result;
}

int64_t solve_bytes(size_t classes, int width) {
  return Solver::bytes(classes, width) + static_cast<int64_t>(classes * (static_cast<size_t>(width) * sizeof(int16_t) + sizeof(int64_t)));
}

}  // namespace bitreplay
