// Whether a row shows none of the known classes (docs/method.md, 4.5): how far it lies from the nearest class against how far from everything, and how
// far the rows lie that are known, each judged as if it had not been learned from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "lda.h"

namespace bitreplay {

class Unknown {
 public:
  // settings: as `solve` took them.  features: (labels.size(), D) of rows that were learned from, of classes of which at least one
  // has another picture.
  Unknown(const Statistics& statistics, const LdaSettings& settings, std::span<const int8_t> features, std::span<const uint16_t> labels);

  // How familiar a row looks; best: the largest score of LDA, in units of 2^-exponent.  work: D values.
  int64_t familiarity(const int8_t* features, int64_t best, int exponent, int64_t* work) const;
  // What a share of new pictures of known classes, 0 to 1, fall short of.
  int64_t threshold(double share) const;

  size_t rows() const { return scores_.size(); }  // that the threshold is made from

 private:
  int width_, exponent_ = 0;
  Buffer<int16_t> weight_;   // (D, D): -h'Qh + linear h + constant is what is added to twice the score
  Buffer<int64_t> linear_;
  int64_t constant_ = 0;
  Buffer<double> scores_, places_;  // of the rows that were left out, ascending, and the share of pictures below each
};

}  // namespace bitreplay
