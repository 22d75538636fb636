#include "elimination.h"

#include "kernels/wide.h"

namespace bitreplay {
namespace {

// a[j] -= f * b[j]: each value has its operations in the order of the calls.
BITREPLAY_WIDE void take_multiple(double f, const double* b, int count, double* a) {
  for (int j = 0; j < count; ++j) a[j] = a[j] - f * b[j];
}

}  // namespace

BITREPLAY_WIDE void add_multiple(double f, const double* values, int count, double* sums) {
  for (int j = 0; j < count; ++j) sums[j] = sums[j] + f * values[j];
}

void eliminate(Buffer<double>& a, int width) {
  double* pivot = a.data();
  for (int k = 0; k < width; pivot += width - k, ++k) {
    double* at = pivot + (width - k);
    for (int i = k + 1; i < width; at += width - i, ++i) take_multiple(pivot[i - k] / pivot[0], pivot + (i - k), width - i, at);
  }
}

void solve_eliminated(const Buffer<double>& a, int width, double* y) {
  const auto row = [&](int i) { return y + int64_t{i} * kBlock; };
  for_triangle(a.data(), width, [&](int k, const double* pivot, int count) {
    for (int i = 1; i < count; ++i) take_multiple(pivot[i] / pivot[0], row(k), kBlock, row(k + i));
  });
  const double* at = a.data() + a.size();
  for (int k = width - 1; k >= 0; --k) {
    at -= width - k;
    for (int j = width - 1; j > k; --j) take_multiple(at[j - k], row(j), kBlock, row(k));
    for (int b = 0; b < kBlock; ++b) row(k)[b] = row(k)[b] / at[0];
  }
}

}  // namespace bitreplay
