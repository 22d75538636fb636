// What a learner says of pictures and of its own rows (docs/method.md, 4.3, 6.1 and 7.7).
#include <algorithm>

#include "eye.h"
#include "fixed_point.h"
#include "kernels/head_kernels.h"
#include "learner.h"
#include "rows.h"

namespace bitreplay {
namespace {

// score / 2^exponent * factor, to 16 fraction bits; within bounds for forged sums too.
int64_t to_logit(int64_t score, int exponent, int64_t factor) {
  constexpr int64_t kMost = int64_t{1} << 40;
  const int up = std::clamp(-exponent, 0, 20);
  return std::clamp(round_shift(score * factor, std::max(exponent, 0)), -kMost >> up, kMost >> up) * (int64_t{1} << up);
}

}  // namespace

void Learner::look(std::span<const uint8_t> images, int views, std::span<int8_t> features, std::span<int8_t> trained, Workers& workers) const {
  const size_t width = static_cast<size_t>(network_.feature_count()), count = images.size() / network_.image_bytes();
  List<Eye> eyes;
  const size_t at_once = RowShares(count, workers.count()).at_once;
  eyes.reserve(at_once);
  for (size_t i = 0; i < at_once; ++i) eyes.emplace_back(network_, tail_, views);
  const auto of = [&](std::span<int8_t> rows, size_t row) { return rows.empty() ? nullptr : rows.data() + row * width; };
  for_rows(
      network_, count, workers,
      [&](size_t row, size_t place, Scratch& scratch, Workers* inside) {
        eyes[place].look(images.data() + row * network_.image_bytes(), {nullptr, of(features, row), of(trained, row)}, scratch, inside);
      },
      [](size_t) {});
}

void Learner::features(std::span<const uint8_t> images, std::span<int8_t> features, Workers& workers) const { look(images, 1, features, {}, workers); }

void Learner::predict(std::span<const uint8_t> images, int views, const Answers& answers, Workers& workers) const {
  const size_t width = static_cast<size_t>(network_.feature_count()), count = answers.best.size();
  Buffer<int8_t> rows(count * width), trained(tail_weight_.empty() ? 0 : rows.size());
  look(images, views, rows, trained, workers);
  judge({rows.data(), rows.size()}, {trained.data(), trained.size()}, answers);
}

Buffer<int64_t> Learner::class_priors() const {
  Buffer<int64_t> prior(classes(), 0);
  if (!settings_.class_priors) return prior;
  uint64_t rows = 0;
  for (const int64_t n : statistics_.count()) rows += static_cast<uint64_t>(n);
  for (size_t c = 0; c < prior.size(); ++c) prior[c] = prior_correction(1, static_cast<uint64_t>(statistics_.count()[c]), rows);
  return prior;
}

Unknown Learner::unknown(Workers& workers) const {
  require(has_lda(), "reject: expected a learner whose head is lda; make a new one with it");
  const size_t width = static_cast<size_t>(network_.feature_count()), known = static_cast<size_t>(lda_width()), rows = replay_.size();
  Buffer<int8_t> features(rows * width);
  for_rows(
      network_, rows, workers,
      [&](size_t row, size_t, Scratch& scratch, Workers* inside) { stored_features(row, features.data() + row * width, scratch, inside); }, [](size_t) {});
  for (size_t row = 1; known < width && row < rows; ++row) std::copy_n(features.data() + row * width, known, features.data() + row * known);
  features.resize(rows * known);
  return Unknown(statistics_, lda_settings(), {features.data(), features.size()}, replay_.labels());
}

void Learner::judge(std::span<const int8_t> rows, std::span<const int8_t> trained, const Answers& answers) const {
  const size_t width = static_cast<size_t>(network_.feature_count());
  const Buffer<int16_t> forward = forward_weights(head_.weight), tail_forward = forward_weights(tail_weight_);
  Buffer<int64_t> logits(classes()), branch(classes());
  const Buffer<int64_t> prior = class_priors(), none(classes(), 0);
  Buffer<int64_t> work(answers.unknown != nullptr ? static_cast<size_t>(lda_width()) : 0);
  const HeadBatch batch{1, static_cast<int>(width), static_cast<int>(classes())}, known{1, lda_width(), batch.classes};
  const int64_t weight = frozen_weight();
  const auto scores = [&](const int8_t* x) {
    head_logits(known, x, classifier_.weight.data(), 5, logits.data());  // with 5 fraction bits of the features the sums come as they are
    for (size_t c = 0; c < logits.size(); ++c) logits[c] += classifier_.bias[c];
  };
  for (size_t row = 0; row < answers.best.size(); ++row) {
    const int8_t* x = rows.data() + row * width;
    if (answers.unknown != nullptr) {
      scores(x);
      answers.familiarity[row] = answers.unknown->familiarity(x, *std::max_element(logits.begin(), logits.end()), classifier_.exponent, work.data());
    }
    if (has_lda()) {
      scores(x);
      for (int64_t& score : logits) score = to_logit(score, classifier_.exponent, weight);
    } else {
      head_logits(batch, x, forward.data(), network_.feature_bits(), logits.data());
      for (int64_t& logit : logits) logit = round_shift(logit * weight, kMixingBits);
    }
    if (!trained.empty()) {
      head_logits(batch, trained.data() + row * width, tail_forward.data(), network_.feature_bits(), branch.data());
      for (size_t c = 0; c < branch.size(); ++c) logits[c] += round_shift(branch[c] * mixing_.branch, kMixingBits);
    }
    for (size_t c = 0; c < logits.size(); ++c) logits[c] += prior[c];
    answers.best[row] = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    if (answers.probabilities.empty()) continue;
    head_softmax(batch, logits.data(), none.data(), 0);
    for (size_t c = 0; c < logits.size(); ++c) answers.probabilities[row * logits.size() + c] = static_cast<int32_t>(logits[c]);
  }
}

}  // namespace bitreplay
