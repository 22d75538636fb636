#include "mixing.h"

#include <algorithm>
#include <cmath>

#include "fixed_point.h"

namespace bitreplay {
namespace {

constexpr int64_t kLog2E = 94548, kLn2 = 45426;  // 16 fraction bits
constexpr double kLikeRows = 4;           // how many rows the variance of all counts for
constexpr int64_t kLeastScale = 10923;    // 1/6: below that the branch is far too sure of rows it has not seen
constexpr int64_t kScales[] = {8192, 11585, 16384, 23170, 32768, 46341, 65536, 92682, 131072, 185364, 262144};  // 2^-3 to 2^2, 16 fraction bits

// -ln of the probability of `label`, 16 fraction bits; logit(c): of class c.
template <class F>
int64_t log_loss(size_t classes, size_t label, const F& logit) {
  int64_t top = INT64_MIN, sum = 0;
  for (size_t c = 0; c < classes; ++c) top = std::max(top, logit(c));
  for (size_t c = 0; c < classes; ++c) sum += exp2_negative(std::min<int64_t>(((top - logit(c)) * kLog2E) >> 16, int64_t{31} << 16));
  return top - logit(label) + (((log2_q16(static_cast<uint64_t>(sum)) - (30 << 16)) * kLn2) >> 16);
}

}  // namespace

int64_t inverse_temperature(int64_t rows, size_t classes) {
  const double each = static_cast<double>(rows) / static_cast<double>(classes);
  return static_cast<int64_t>(std::floor(65536 / (1.6 + 24 / std::sqrt(each)) + 0.5));
}

Choice choose_mixing(const HeldBack& rows, std::span<const uint8_t> old, bool heard) {
  const size_t count = rows.labels.size(), classes = rows.classes;
  Choice choice;
  Buffer<double> held(classes, 0);
  for (const uint32_t label : rows.labels) held[label] = held[label] + 1;
  const auto present = static_cast<double>(classes - static_cast<size_t>(std::count(held.begin(), held.end(), 0.0)));
  if (present < 2) return choice;

  Buffer<int64_t> alone(count), mixed(count), losses(count);
  Buffer<double> of_class(classes);
  const auto mean_over_classes = [&](const auto& value) {
    std::fill(of_class.begin(), of_class.end(), 0.0);
    for (size_t i = 0; i < count; ++i) of_class[rows.labels[i]] = of_class[rows.labels[i]] + value(i);
    double sum = 0;
    for (size_t c = 0; c < classes; ++c) sum = sum + (held[c] > 0 ? of_class[c] / held[c] : 0);
    return sum / present;
  };
  // The scale at which the loss is lowest, and the losses of all rows there.
  const auto best = [&](bool both, Buffer<int64_t>& at_best) {
    int64_t found = 0;
    double least = 0;
    for (const int64_t scale : kScales) {
      for (size_t i = 0; i < count; ++i) {
        const int64_t *frozen = rows.frozen.data() + i * classes, *branch = rows.branch.data() + i * classes;
        losses[i] = log_loss(classes, rows.labels[i], [&](size_t c) { return round_shift((frozen[c] + (both ? branch[c] : 0)) * scale, kMixingBits); });
      }
      const double loss = mean_over_classes([&](size_t i) { return static_cast<double>(losses[i]); });
      if (found == 0 || loss < least) {
        found = scale;
        least = loss;
        at_best.swap(losses);
      }
    }
    return found;
  };
  choice.mixing.frozen = best(false, alone);
  const int64_t scale = best(true, mixed);

  // Standard error of a mean over classes of means over rows; what few rows say of a class's variance is mended by that of all.
  const auto gain = [&](size_t i) { return static_cast<double>(alone[i] - mixed[i]); };
  const double mean = mean_over_classes(gain);
  Buffer<double> own(of_class);
  double all = 0, variance = 0;
  Buffer<double> spread(classes, 0.0);
  for (size_t i = 0; i < count; ++i) {
    const double apart = gain(i) - own[rows.labels[i]] / held[rows.labels[i]];
    spread[rows.labels[i]] = spread[rows.labels[i]] + apart * apart;
    all = all + apart * apart;
  }
  all = all / std::max(static_cast<double>(count) - present, 1.0);
  for (size_t c = 0; c < classes; ++c) {
    if (held[c] == 0) continue;
    variance = variance + (spread[c] + kLikeRows * all) / (held[c] - 1 + kLikeRows) / held[c];
  }
  if (scale < kLeastScale || mean <= (heard ? 0 : std::sqrt(variance) / present / 2)) return choice;

  // An old class that loses more of its rows than chance would have it.
  Buffer<int64_t> lost(classes, 0), changed(classes, 0);
  for (size_t i = 0; i < count; ++i) {
    const int64_t *frozen = rows.frozen.data() + i * classes, *branch = rows.branch.data() + i * classes;
    size_t before = 0, after = 0;
    for (size_t c = 1; c < classes; ++c) {
      before = frozen[c] > frozen[before] ? c : before;
      after = frozen[c] + branch[c] > frozen[after] + branch[after] ? c : after;
    }
    const int64_t was = before == rows.labels[i], is = after == rows.labels[i];
    lost[rows.labels[i]] += was - is;
    changed[rows.labels[i]] += was != is;
  }
  for (size_t c = 0; c < classes; ++c) {
    if (old[c] != 0 && lost[c] > 0 && lost[c] * lost[c] > 4 * changed[c]) {
      choice.worse = static_cast<int32_t>(c);
      return choice;
    }
  }
  choice.mixing = {scale, scale};
  return choice;
}

}  // namespace bitreplay
