#include "unknown.h"

#include <algorithm>
#include <cmath>

#include "elimination.h"
#include "fixed_point.h"
#include "head_kernels.h"

namespace bitreplay {
namespace {

constexpr double kOwn = 0.1;        // of the distance of features to the mean of all, that counts beside the nearest class's
constexpr double kOriginClasses = 1.0 / 3;  // classes at the origin of features, in the centre of the background

// The inverse of a symmetric matrix, (D, D), from its upper triangle.
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

// out = a x.
void multiply(const Buffer<double>& a, const double* x, int width, double* out) {
  std::fill_n(out, width, 0.0);
  for (int i = 0; i < width; ++i) add_multiple(x[i], a.data() + int64_t{i} * width, width, out);
}

// What divides a leverage; no row that was learned from comes near to 0.
double left_of(double leverage) { return 1 - leverage > 0.001 ? 1 - leverage : 0.001; }

double dot(const double* a, const double* b, int width) {
  double sum = 0;
  for (int j = 0; j < width; ++j) sum = sum + a[j] * b[j];
  return sum;
}

}  // namespace

int64_t Unknown::making_bytes(size_t classes, int width, size_t rows) {
  const auto d = static_cast<size_t>(width);
  const size_t kept = d * d * sizeof(int16_t) + d * sizeof(int64_t) + rows * 2 * sizeof(double);
  const size_t matrices = (2 * triangle(width) + 2 * d * d + d * kBlock) * sizeof(double);
  const size_t vectors = (10 * d + classes * (d + 8)) * sizeof(double) + rows * (sizeof(uint32_t) + sizeof(double)) + classes * sizeof(uint32_t);
  return static_cast<int64_t>(kept + matrices + vectors);
}

Unknown::Unknown(const Statistics& statistics, const LdaSettings& settings, int views, std::span<const int8_t> features,
                 std::span<const uint16_t> labels)
    : width_(statistics.width()) {
  const int width = width_;
  const auto d = static_cast<size_t>(width);
  const size_t classes = statistics.classes();
  const Buffer<uint32_t> order = ordered(statistics);
  Moments moments = moments_of(statistics, settings);
  // Everything by pictures: the rows of a picture's views stand and fall together.
  const double nu = settings.shrinkage / views, kappa = settings.pseudo_pictures / views, all = moments.rows / views, k_all = static_cast<double>(classes);
  const double tau = 0.25 * static_cast<double>(width) / k_all;
  Buffer<double> count(classes), deviation(d * classes);  // deviations of class means from m, (D, K)
  Buffer<double> origin(d, 0.0);
  for (size_t c = 0; c < classes; ++c) count[c] = static_cast<double>(statistics.count()[c]) / views;
  for (const uint32_t c : order) {
    for (size_t j = 0; j < d; ++j) {
      const double mean = static_cast<double>(statistics.sums()[c * d + j]) / static_cast<double>(statistics.count()[c]);
      deviation[j * classes + c] = mean - moments.mean[j];
      origin[j] = origin[j] + mean;
    }
  }
  for (size_t j = 0; j < d; ++j) origin[j] = origin[j] / (k_all + kOriginClasses);

  Buffer<double> background = moments.scatter;
  for_triangle(background.data(), width, [&](int, double* at, int length) {
    for (int j = 0; j < length; ++j) at[j] = (all + nu) * at[j];
    at[0] = at[0] + tau * settings.variance;
    for (int j = 0; j < length; ++j) at[j] = at[j] / (all + nu + tau);
  });

  // Rows in the order of their classes; those of a class of one picture cannot be left out.
  Buffer<uint32_t> rows(labels.size());
  size_t used = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (count[labels[i]] > 1) rows[used++] = static_cast<uint32_t>(i);
  }
  std::sort(rows.begin(), rows.begin() + static_cast<ptrdiff_t>(used), [&](uint32_t a, uint32_t b) { return labels[a] != labels[b] ? labels[a] < labels[b] : a < b; });
  rows.resize(used);
  Buffer<double> scores(used);

  Buffer<double> x(d), v(d), e(d), w(d), near(classes), own(classes), spread(classes);
  const auto load = [&](size_t row) {
    for (size_t j = 0; j < d; ++j) x[j] = static_cast<double>(features[row * d + j]) - moments.mean[j];
  };
  const auto each_class = [&](const double* from, Buffer<double>& to) {  // to[k] = deviation of k times from
    std::fill(to.begin(), to.end(), 0.0);
    for (size_t j = 0; j < d; ++j) add_multiple(from[j], deviation.data() + j * classes, static_cast<int>(classes), to.data());
  };
  const auto deviation_of = [&](size_t c, Buffer<double>& to) {
    for (size_t j = 0; j < d; ++j) to[j] = deviation[j * classes + c];
  };

  Buffer<double> difference = inverse(moments.scatter, width);
  for (size_t c = 0; c < classes; ++c) {
    deviation_of(c, e);
    multiply(difference, e.data(), width, w.data());
    spread[c] = dot(e.data(), w.data(), width);
  }
  size_t current = classes;
  for (size_t i = 0; i < used; ++i) {
    const size_t c = labels[rows[i]];
    if (c != current) {
      deviation_of(c, e);
      multiply(difference, e.data(), width, w.data());
      each_class(w.data(), own);
      current = c;
    }
    load(rows[i]);
    multiply(difference, x.data(), width, v.data());
    each_class(v.data(), near);
    const double n = count[c], q = dot(x.data(), v.data(), width);
    const double epsilon = q - 2 * near[c] + own[c], t = n / ((n - 1) * (all + nu));
    double least = 0;
    for (size_t k = 0; k < classes; ++k) {
      const double share = count[k] / (count[k] + kappa);
      double alpha = 1 + (1 - share) / (all - 1), gamma = share;
      if (k == c) {
        alpha = 1 + (1 - (n - 1) / (n - 1 + kappa)) / (all - 1) + 1 / (n - 1 + kappa);
        gamma = n / (n - 1 + kappa);
      }
      const double yy = alpha * alpha * q - 2 * alpha * gamma * near[k] + gamma * gamma * spread[k];
      const double ye = alpha * (q - near[c]) - gamma * (near[k] - own[k]);
      const double distance = (all - 1 + nu) / (all + nu) * (yy + t * ye * ye / left_of(t * epsilon));
      if (k == 0 || distance < least) least = distance;
    }
    scores[i] = -least;
  }

  multiply(difference, moments.mean.data(), width, v.data());  // A^-1 m
  const double mean_part = dot(moments.mean.data(), v.data(), width);
  const Buffer<double> own_part = v;
  {
    const Buffer<double> far = inverse(background, width);
    for (size_t i = 0; i < used; ++i) {
      const size_t c = labels[rows[i]];
      load(rows[i]);
      for (size_t j = 0; j < d; ++j) {
        e[j] = x[j] - deviation[j * classes + c];
        x[j] = x[j] + moments.mean[j] - origin[j];
      }
      multiply(far, e.data(), width, v.data());
      const double n = count[c], ee = dot(e.data(), v.data(), width);
      double ze = dot(x.data(), v.data(), width);
      multiply(far, x.data(), width, v.data());
      double zz = dot(x.data(), v.data(), width);
      const double g = 1 / ((n - 1) * (k_all + kOriginClasses)), total = all + nu + tau, t = n / ((n - 1) * total);
      zz = zz + 2 * g * ze + g * g * ee;
      ze = ze + g * ee;
      scores[i] = scores[i] + (1 - kOwn) * ((total - 1) / total * (zz + t * ze * ze / left_of(t * ee)));
      scores[i] = scores[i] > -1e300 ? scores[i] : -1e300;  // of forged sums: no number
    }
    multiply(far, origin.data(), width, v.data());  // B^-1 o
    for (size_t k = 0; k < d * d; ++k) difference[k] = difference[k] - (1 - kOwn) * far[k];
  }

  double largest = 0;
  for (const double q : difference) largest = std::max(largest, std::fabs(q));
  exponent_ = exponent_for(largest);
  const double scale = std::ldexp(1.0, exponent_);
  weight_.resize(d * d);
  linear_.resize(d);
  for (size_t k = 0; k < d * d; ++k) weight_[k] = static_cast<int16_t>(rounded(difference[k] * scale, 32767.0));
  for (size_t j = 0; j < d; ++j) linear_[j] = static_cast<int64_t>(rounded(2 * (own_part[j] - (1 - kOwn) * v[j]) * scale, 0x1p40));
  constant_ = static_cast<int64_t>(rounded(((1 - kOwn) * dot(origin.data(), v.data(), width) - mean_part) * scale, 0x1p50));

  // A class counts as much as another, however many of its rows are remembered.
  Buffer<double>& weight = near;  // of a row of each class
  std::fill(weight.begin(), weight.end(), 0.0);
  double held = 0;
  for (const uint32_t row : rows) weight[labels[row]] = weight[labels[row]] + 1;
  for (double& rows_of : weight) {
    if (rows_of > 0) held = held + 1;
    rows_of = rows_of > 0 ? 1 / rows_of : 0;
  }
  Buffer<uint32_t> place(used);
  for (size_t i = 0; i < used; ++i) place[i] = static_cast<uint32_t>(i);
  std::sort(place.begin(), place.end(), [&](uint32_t a, uint32_t b) { return scores[a] != scores[b] ? scores[a] < scores[b] : a < b; });
  const auto r = static_cast<double>(used);
  double below = 0;
  scores_.resize(used);
  places_.resize(used);
  for (size_t i = 0; i < used; ++i) {
    const double part = weight[labels[rows[place[i]]]] / held;
    scores_[i] = scores[place[i]];
    places_[i] = (below + 0.5 * part) * r / (r + 1) + 0.5 / (r + 1);
    below = below + part;
  }
}

int64_t Unknown::familiarity(const int8_t* features, int64_t best, int exponent, int64_t* work) const {
  const HeadBatch batch{1, width_, width_};
  head_logits(batch, features, weight_.data(), 5, work);  // with 5 fraction bits of the features the sums come as they are
  int64_t value = constant_;
  for (int j = 0; j < width_; ++j) value += features[j] * (linear_[static_cast<size_t>(j)] - work[j]);
  const int shift = exponent_ - exponent + 1;
  return value + (shift >= 0 ? best * (int64_t{1} << std::min(shift, 20)) : round_shift(best, -shift));
}

int64_t Unknown::threshold(double share) const {
  const auto scaled = [&](double value) { return static_cast<int64_t>(rounded(value * std::ldexp(1.0, exponent_), 0x1p60)); };
  const size_t size = scores_.size();
  if (size == 0) return INT64_MIN;
  if (size == 1) return scaled(scores_[0]);
  if (share >= places_[size - 1]) return scaled(scores_[size - 1]);
  size_t next = 1;
  while (places_[next] < share) ++next;
  const double slope = (scores_[next] - scores_[next - 1]) / (places_[next] - places_[next - 1]);
  return scaled(scores_[next - 1] + (share - places_[next - 1]) * slope);
}

}  // namespace bitreplay
