#include "unknown.h"

#include <algorithm>
#include <cmath>

#include "elimination.h"
#include "fixed_point.h"
#include "kernels/head_kernels.h"
#include "leave_one_out.h"

namespace bitreplay {
namespace {

constexpr double kOwn = 0.1;        // of the distance of features to the mean of all, that counts beside the nearest class's
constexpr double kOriginClasses = 1.0 / 3;  // classes at the origin of features, in the centre of the background

}  // namespace

Unknown::Unknown(const Statistics& statistics, const LdaSettings& settings, std::span<const int8_t> features,
                 std::span<const uint16_t> labels)
    : width_(statistics.width()) {
  const int width = width_;
  const auto d = static_cast<size_t>(width);
  const size_t classes = statistics.classes();
  LeaveOneOut known(statistics, settings);
  const Buffer<double>&mean = known.mean(), &deviation = known.deviation();
  const double all = known.all(), nu = known.shrinkage(), k_all = static_cast<double>(classes);
  const double tau = 0.25 * static_cast<double>(width) / k_all;
  Buffer<double> origin(d, 0.0);
  for (const uint32_t c : ordered(statistics)) {
    for (size_t j = 0; j < d; ++j) {
      origin[j] = origin[j] + static_cast<double>(statistics.sums()[c * d + j]) / static_cast<double>(statistics.count()[c]);
    }
  }
  for (size_t j = 0; j < d; ++j) origin[j] = origin[j] / (k_all + kOriginClasses);

  // Rows in the order of their classes; those of a class of one picture cannot be left out.
  Buffer<uint32_t> rows(labels.size());
  size_t used = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (known.count(labels[i]) > 1) rows[used++] = static_cast<uint32_t>(i);
  }
  rows.resize(used);
  std::sort(rows.begin(), rows.end(), [&](uint32_t a, uint32_t b) { return labels[a] != labels[b] ? labels[a] < labels[b] : a < b; });
  Buffer<double> scores(used), distance(classes);
  for (size_t i = 0; i < used; ++i) {
    known.distances(features.data() + rows[i] * d, labels[rows[i]], distance.data());
    scores[i] = -*std::min_element(distance.begin(), distance.end());
  }

  Buffer<double> difference = known.inverse_scatter();
  Buffer<double> x(d), e(d), v(d), own_part(d);
  multiply(difference, mean.data(), width, own_part.data());  // A^-1 m
  const double mean_part = dot(mean.data(), own_part.data(), width);
  {
    Buffer<double> background = known.scatter();
    for_triangle(background.data(), width, [&](int, double* at, int length) {
      for (int j = 0; j < length; ++j) at[j] = (all + nu) * at[j];
      at[0] = at[0] + tau * settings.variance;
      for (int j = 0; j < length; ++j) at[j] = at[j] / (all + nu + tau);
    });
    const Buffer<double> far = inverse(background, width);
    for (size_t i = 0; i < used; ++i) {
      const size_t c = labels[rows[i]];
      for (size_t j = 0; j < d; ++j) {
        const auto h = static_cast<double>(features[rows[i] * d + j]);
        e[j] = h - mean[j] - deviation[j * classes + c];
        x[j] = h - origin[j];
      }
      multiply(far, e.data(), width, v.data());
      const double n = known.count(c), ee = dot(e.data(), v.data(), width);
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
  Buffer<double>& weight = distance;  // of a row of each class
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
