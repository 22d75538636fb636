#include "lda.h"

#include <algorithm>
#include <cmath>

#include "wide.h"

namespace bitreplay {
namespace {

constexpr size_t kRowsAtOnce = 4096;  // 32-bit sums hold 133,144 rows of (-127..127)^2

BITREPLAY_WIDE void add_products(int32_t factor, const int32_t* values, int count, int32_t* sums) {
  for (int j = 0; j < count; ++j) sums[j] += factor * values[j];
}

// a[j] -= f * b[j]: each value has its operations in the order of the calls, whatever the width of a vector.
BITREPLAY_WIDE void take_multiple(double f, const double* b, int count, double* a) {
  for (int j = 0; j < count; ++j) a[j] = a[j] - f * b[j];
}

BITREPLAY_WIDE void take_quotient(double f, double n, const double* b, int count, double* a) {
  for (int j = 0; j < count; ++j) a[j] = a[j] - (f * b[j]) / n;
}

int64_t triangle(int width) { return int64_t{width} * (width + 1) / 2; }

}  // namespace

Statistics::Statistics(int d) : width(d), moment(static_cast<size_t>(triangle(d)), 0) {}

void Statistics::open(size_t classes) {
  if (classes <= count.size()) return;
  Buffer<int64_t> counts(classes, 0), all(classes * static_cast<size_t>(width), 0);
  std::copy(count.begin(), count.end(), counts.begin());
  std::copy(sums.begin(), sums.end(), all.begin());
  count = std::move(counts);
  sums = std::move(all);
}

void Statistics::add(std::span<const int8_t> rows, std::span<const int32_t> labels) {
  const size_t d = static_cast<size_t>(width);
  Buffer<int32_t> products(moment.size());
  Buffer<int32_t> row(d);
  for (size_t first = 0; first < labels.size(); first += kRowsAtOnce) {
    std::fill(products.begin(), products.end(), 0);
    const size_t last = std::min(labels.size(), first + kRowsAtOnce);
    for (size_t r = first; r < last; ++r) {
      const int8_t* x = rows.data() + r * d;
      int64_t* sum = sums.data() + static_cast<size_t>(labels[r]) * d;
      ++count[static_cast<size_t>(labels[r])];
      for (size_t j = 0; j < d; ++j) {
        row[j] = x[j];
        sum[j] += x[j];
      }
      int32_t* at = products.data();
      for (int i = 0; i < width; at += width - i, ++i) add_products(row[static_cast<size_t>(i)], row.data() + i, width - i, at);
    }
    for (size_t k = 0; k < moment.size(); ++k) moment[k] += products[k];
  }
}

LinearClassifier solve(const Statistics& statistics, const LdaSettings& settings, std::span<const int32_t> order) {
  const int width = statistics.width;
  const size_t d = static_cast<size_t>(width), known = order.size();
  LinearClassifier result{Buffer<int16_t>(statistics.classes() * d, 0), Buffer<int64_t>(statistics.classes(), INT64_MIN / 4), 0};
  if (known == 0) return result;

  int64_t total = 0;
  Buffer<double> mean(d), a(statistics.moment.size());
  for (const int32_t c : order) total += statistics.count[static_cast<size_t>(c)];
  for (size_t j = 0; j < d; ++j) {
    int64_t sum = 0;
    for (const int32_t c : order) sum += statistics.sums[static_cast<size_t>(c) * d + j];
    mean[j] = static_cast<double>(sum) / static_cast<double>(total);
  }

  // The scatter within classes, and the mean variance that it is shrunk towards.
  for (size_t k = 0; k < a.size(); ++k) a[k] = static_cast<double>(statistics.moment[k]);
  Buffer<double> row(d);
  for (const int32_t c : order) {
    const int64_t* sum = statistics.sums.data() + static_cast<size_t>(c) * d;
    const auto n = static_cast<double>(statistics.count[static_cast<size_t>(c)]);
    for (size_t j = 0; j < d; ++j) row[j] = static_cast<double>(sum[j]);
    double* at = a.data();
    for (int i = 0; i < width; at += width - i, ++i) take_quotient(row[static_cast<size_t>(i)], n, row.data() + i, width - i, at);
  }
  double trace = 0;
  {
    const double* at = a.data();
    for (int i = 0; i < width; at += width - i, ++i) trace = trace + *at;
  }
  const double rows = static_cast<double>(total);
  const double variance = trace > 0 ? trace / rows / static_cast<double>(width) : settings.variance;
  const double weight = rows + settings.shrinkage;
  {
    double* at = a.data();
    for (int i = 0; i < width; at += width - i, ++i) {
      *at = *at + settings.shrinkage * variance;
      for (int j = 0; j < width - i; ++j) at[j] = at[j] / weight;
    }
  }

  // Deviations of the class means, shrunk, and the solution for each: elimination by columns, then substitution by columns.
  Buffer<double> deviation(known * d), solution(known * d);
  for (size_t k = 0; k < known; ++k) {
    const size_t c = static_cast<size_t>(order[k]);
    const auto n = static_cast<double>(statistics.count[c]);
    for (size_t j = 0; j < d; ++j) {
      const double value = (static_cast<double>(statistics.sums[c * d + j]) - n * mean[j]) / (n + settings.pseudo_pictures);
      deviation[k * d + j] = solution[k * d + j] = value;
    }
  }
  {
    double* pivot = a.data();
    for (int k = 0; k < width; pivot += width - k, ++k) {
      double* at = pivot + (width - k);
      for (int i = k + 1; i < width; at += width - i, ++i) take_multiple(pivot[i - k] / pivot[0], pivot + (i - k), width - i, at);
      Buffer<double>& factors = row;
      for (int i = k + 1; i < width; ++i) factors[static_cast<size_t>(i)] = pivot[i - k] / pivot[0];
      for (size_t c = 0; c < known; ++c) {
        double* y = solution.data() + c * d;
        take_multiple(y[k], factors.data() + k + 1, width - k - 1, y + k + 1);
      }
    }
  }
  Buffer<double> column(d);
  for (int k = width - 1; k >= 0; --k) {
    // Column k of the triangle, from the diagonal up.
    const double* at = a.data();
    for (int i = 0; i <= k; at += width - i, ++i) column[static_cast<size_t>(i)] = at[k - i];
    for (size_t c = 0; c < known; ++c) {
      double* y = solution.data() + c * d;
      y[k] = y[k] / column[static_cast<size_t>(k)];
      take_multiple(y[k], column.data(), k, y);
    }
  }

  double largest = 0;
  for (const double w : solution) largest = std::max(largest, std::fabs(w));
  int exponent = 0;
  double scale = 1;
  for (; exponent < 60 && largest * scale < 16383.5 && largest > 0; ++exponent) scale = scale * 2;
  for (; exponent > -60 && largest * scale > 32767.0; --exponent) scale = scale / 2;
  result.exponent = exponent;
  for (size_t k = 0; k < known; ++k) {
    const size_t c = static_cast<size_t>(order[k]);
    double bias = 0;
    for (size_t j = 0; j < d; ++j) {
      const double w = solution[k * d + j];
      result.weight[c * d + j] = static_cast<int16_t>(std::clamp(std::floor(w * scale + 0.5), -32767.0, 32767.0));
      bias = bias - w * (mean[j] + 0.5 * deviation[k * d + j]);
    }
    result.bias[c] = static_cast<int64_t>(std::clamp(std::floor(bias * scale + 0.5), -0x1p60, 0x1p60));
  }
  return result;
}

int64_t solve_bytes(size_t classes, int width) {
  const auto d = static_cast<int64_t>(width), k = static_cast<int64_t>(classes);
  return triangle(width) * 8 + 2 * k * d * 8 + 3 * d * 8 + k * d * 2 + k * 8;
}

}  // namespace bitreplay
