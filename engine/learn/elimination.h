// Gaussian elimination of a symmetric matrix in float64, + - * / alone: every value's operations in one order, whatever the width of a vector
// (docs/method.md, 4.2).
#pragma once

#include <cstddef>

#include "memory.h"

namespace bitreplay {

inline constexpr int kBlock = 16;  // right sides that are solved for at a time

constexpr size_t triangle(int width) { return static_cast<size_t>(width) * (static_cast<size_t>(width) + 1) / 2; }

// f(i, row i of a triangle from its diagonal on, its length).
template <class T, class F>
void for_triangle(T* at, int width, const F& f) {
  for (int i = 0; i < width; at += width - i, ++i) f(i, at, width - i);
}

// a: the upper triangle by rows; becomes what `solve` reads.
void eliminate(Buffer<double>& a, int width);

// y (width, kBlock): the right sides, one beside the other; becomes the solutions.
void solve_eliminated(const Buffer<double>& a, int width, double* y);

// sums[j] += f * values[j].
void add_multiple(double f, const double* values, int count, double* sums);

}  // namespace bitreplay
