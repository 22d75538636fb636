#include "lda.h"

#include <algorithm>
#include <cmath>

#include "elimination.h"
#include "kernels/wide.h"

namespace bitreplay {
namespace {

constexpr int64_t kLargestProduct = 127 * 127;

BITREPLAY_WIDE void add_products(int32_t factor, const int32_t* values, int count, int32_t* sums) {
  for (int j = 0; j < count; ++j) sums[j] += factor * values[j];
}

BITREPLAY_WIDE void add_products(int32_t factor, const int32_t* values, int count, int64_t* sums) {
  for (int j = 0; j < count; ++j) sums[j] += factor * values[j];
}

BITREPLAY_WIDE void take_quotient(double f, double n, const double* b, int count, double* a) {
  for (int j = 0; j < count; ++j) a[j] = a[j] - (f * b[j]) / n;
}

BITREPLAY_WIDE void divide(double divisor, int count, double* a) {
  for (int j = 0; j < count; ++j) a[j] = a[j] / divisor;
}

// Deviations of kBlock classes from class `first` on, and what they become when divided by the scatter: (D, kBlock) both.
void solve_block(const Statistics& statistics, const LdaSettings& settings, const Moments& moments, size_t first, double* deviation, double* y) {
  const auto d = static_cast<size_t>(statistics.width());
  for (size_t k = 0; k < kBlock; ++k) {
    const size_t c = std::min(first + k, statistics.classes() - 1);
    const auto n = static_cast<double>(statistics.count()[c]);
    const double weight = n + settings.pseudo_pictures;
    const int64_t* sum = statistics.sums().data() + c * d;
    for (size_t j = 0; j < d; ++j) {
      deviation[j * kBlock + k] = y[j * kBlock + k] = weight > 0 ? (static_cast<double>(sum[j]) - n * moments.mean[j]) / weight : 0;
    }
  }
  solve_eliminated(moments.scatter, statistics.width(), y);
}

}  // namespace

Statistics::Statistics(int width) : width_(width), narrow_(triangle(width), 0), row_(static_cast<size_t>(width)) {}

int64_t Statistics::largest() const {
  int64_t most = 0;  // on the diagonal
  for_triangle(narrow_.data(), is_wide() ? 0 : width_, [&](int, const int32_t* at, int) { most = std::max<int64_t>(most, *at); });
  for_triangle(wide_.data(), is_wide() ? width_ : 0, [&](int, const int64_t* at, int) { most = std::max<int64_t>(most, *at); });
  return most;
}

Statistics::Statistics(const Statistics& other, size_t classes)
    : width_(other.width_), narrow_(other.narrow_), wide_(other.wide_), row_(other.row_), saturated_(other.saturated_), left_(other.left_) {
  reserve(classes);
  count_.assign(other.count_.begin(), other.count_.end());
  sums_.assign(other.sums_.begin(), other.sums_.end());
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

Buffer<uint32_t> ordered(const Statistics& statistics) {
  const auto d = static_cast<size_t>(statistics.width());
  const int64_t *sums = statistics.sums().data(), *count = statistics.count().data();
  Buffer<uint32_t> order(statistics.classes());
  for (size_t c = 0; c < order.size(); ++c) order[c] = static_cast<uint32_t>(c);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    if (count[a] != count[b]) return count[a] < count[b];
    return std::lexicographical_compare(sums + a * d, sums + (a + 1) * d, sums + b * d, sums + (b + 1) * d);
  });
  return order;
}

Moments moments_of(const Statistics& statistics, const LdaSettings& settings) {
  const int width = statistics.width();
  const auto d = static_cast<size_t>(width);
  Moments result{0, Buffer<double>(d), Buffer<double>(triangle(width))};
  int64_t rows = 0;
  for (const int64_t n : statistics.count()) rows += n;
  result.rows = static_cast<double>(std::max<int64_t>(rows, 1));
  for (size_t j = 0; j < d; ++j) {
    int64_t sum = 0;
    for (size_t c = 0; c < statistics.classes(); ++c) sum += statistics.sums()[c * d + j];
    result.mean[j] = static_cast<double>(sum) / result.rows;
  }

  // The scatter within classes, shrunk towards its mean variance.
  double* const a = result.scatter.data();
  for (size_t k = 0; k < result.scatter.size(); ++k) a[k] = static_cast<double>(statistics.moment()[k]);
  Buffer<double> row(d);
  for (const uint32_t c : ordered(statistics)) {
    const int64_t* sum = statistics.sums().data() + c * d;
    const auto n = static_cast<double>(std::max<int64_t>(statistics.count()[c], 1));  // of a class without rows the sums are 0
    for (size_t j = 0; j < d; ++j) row[j] = static_cast<double>(sum[j]);
    for_triangle(a, width, [&](int i, double* at, int count) { take_quotient(row[static_cast<size_t>(i)], n, row.data() + i, count, at); });
  }
  double trace = 0;
  for_triangle(a, width, [&](int, const double* at, int) { trace = trace + *at; });
  const double variance = trace > 0 ? trace / result.rows / static_cast<double>(width) : settings.variance;
  for_triangle(a, width, [&](int, double* at, int count) {
    *at = *at + settings.shrinkage * variance;
    divide(result.rows + settings.shrinkage, count, at);
  });
  return result;
}

LinearClassifier solve(const Statistics& statistics, const LdaSettings& settings) {
  const size_t d = static_cast<size_t>(statistics.width()), classes = statistics.classes();
  LinearClassifier result{Buffer<int16_t>(classes * d), Buffer<int64_t>(classes), 0};
  if (classes == 0) return result;
  Moments moments = moments_of(statistics, settings);
  eliminate(moments.scatter, statistics.width());
  Buffer<double> y(d * kBlock), deviation(d * kBlock);
  const auto each = [&](const auto& f) {  // f(class, its place in the block)
    for (size_t first = 0; first < classes; first += kBlock) {
      solve_block(statistics, settings, moments, first, deviation.data(), y.data());
      for (size_t k = 0; k < kBlock && first + k < classes; ++k) f(first + k, k);
    }
  };
  double largest = 0;
  each([&](size_t, size_t k) {
    for (size_t j = 0; j < d; ++j) largest = std::max(largest, std::fabs(y[j * kBlock + k]));
  });
  result.exponent = exponent_for(largest);
  const double scale = std::ldexp(1.0, result.exponent);
  each([&](size_t c, size_t k) {
    double bias = 0;
    for (size_t j = 0; j < d; ++j) {
      const double w = y[j * kBlock + k];
      result.weight[c * d + j] = static_cast<int16_t>(rounded(w * scale, 32767.0));
      bias = bias - w * (moments.mean[j] + 0.5 * deviation[j * kBlock + k]);
    }
    result.bias[c] = static_cast<int64_t>(rounded(bias * scale, 0x1p40));
  });
  return result;
}

int exponent_for(double largest) {
  int exponent = 0;
  double scale = 1;
  for (; exponent < 60 && largest * scale < 16383.5 && largest > 0; ++exponent) scale = scale * 2;
  for (; exponent > -60 && largest * scale > 32767.0; --exponent) scale = scale / 2;
  return exponent;
}

double rounded(double value, double most) { return value < most ? value > -most ? std::floor(value + 0.5) : -most : most; }

}  // namespace bitreplay
