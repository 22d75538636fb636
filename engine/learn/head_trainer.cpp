#include "head_trainer.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "fixed_point.h"
#include "kernels/gradient.h"
#include "head.h"

namespace bitreplay {

Distillation::Distillation(const Lesson& lesson, size_t max_rows)
    : feature_bits_(lesson.feature_bits),
      features_(max_rows * lesson.width),
      forward_(lesson.classes * lesson.width),
      before_(max_rows * lesson.classes),
      now_(max_rows * lesson.classes),
      no_prior_(lesson.classes, 0) {}

void Distillation::load(std::span<const int16_t> forward) { std::copy(forward.begin(), forward.end(), forward_.begin()); }

void Distillation::correct(const HeadBatch& batch, std::span<const uint32_t> absent, const int8_t* now, const int16_t* forward, int16_t* g) {
  const auto rows = static_cast<size_t>(batch.rows), classes = static_cast<size_t>(batch.classes);
  const HeadBatch held{batch.rows, batch.width, static_cast<int>(absent.size())};
  const auto among_absent = [&](const int8_t* features, const int16_t* weight, int64_t* p) {
    head_logits(batch, features, weight, feature_bits_, p);
    for (size_t b = 0; b < rows; ++b) {
      for (size_t i = 0; i < absent.size(); ++i) p[b * absent.size() + i] = p[b * classes + absent[i]];  // never ahead of what is read
    }
    head_softmax(held, p, no_prior_.data(), 0);
  };
  among_absent(features_.data(), forward_.data(), before_.data());
  among_absent(now, forward, now_.data());
  for (size_t b = 0; b < rows; ++b, g += classes) {
    for (size_t i = 0; i < absent.size(); ++i) {
      const int64_t pull = now_[b * absent.size() + i] - before_[b * absent.size() + i];
      g[absent[i]] = static_cast<int16_t>(std::clamp<int64_t>(g[absent[i]] + pull, INT16_MIN, INT16_MAX));
    }
  }
}

HeadTrainer::HeadTrainer(const Lesson& lesson, const Settings& settings, size_t max_rows)
    : lesson_(lesson),
      settings_(settings),
      live_(lesson.classes, 0),
      stored_(lesson.classes, 0),
      active_(lesson.classes),
      absent_(lesson.classes),
      position_(lesson.classes),
      prior_(lesson.classes, 0),
      scores_(max_rows * lesson.classes),
      own_(max_rows),
      forward_(lesson.classes * lesson.width),
      g_(max_rows * lesson.classes),
      total_(lesson.classes * lesson.width),
      scratch_(static_cast<size_t>(head_scratch(batch_of(max_rows, lesson.width, lesson.classes)))) {
  for (const int32_t label : lesson.live_labels) ++live_[static_cast<size_t>(label)];
  for (const uint16_t label : lesson.stored_labels) ++stored_[label];
}

void HeadTrainer::choose(const Mix& mix) {
  active_count_ = absent_count_ = 0;
  const size_t stored_rows = lesson_.stored_labels.size();
  const size_t live_rows = std::max<size_t>(lesson_.live_labels.size(), 1);  // without one, b_l is 0: any number will do
  for (size_t c = 0; c < lesson_.classes; ++c) {
    if (live_[c] + stored_[c] == 0) continue;
    position_[c] = static_cast<uint32_t>(active_count_);
    prior_[active_count_] = static_cast<int64_t>(mix.live_batch * live_[c] * stored_rows + mix.stored_batch * stored_[c] * live_rows);
    if (live_[c] == 0) absent_[absent_count_++] = static_cast<uint32_t>(active_count_);
    active_[active_count_++] = static_cast<uint32_t>(c);
  }
  for (size_t i = 0; i < active_count_; ++i) {
    if (!settings_.prior_correction || stored_rows == 0) {
      prior_[i] = 0;
      continue;
    }
    prior_[i] = prior_correction(active_count_, static_cast<uint64_t>(prior_[i]),
                                 (mix.live_batch + mix.stored_batch) * live_rows * stored_rows);
    if (mix.by_heart) {
      const uint64_t rows = uint64_t{live_[active_[i]]} + stored_[active_[i]];
      prior_[i] += round_shift(prior_correction(active_count_, rows, lesson_.live_labels.size() + stored_rows) * settings_.tail_prior, 8);
    }
  }
  ghosts_ = stored_rows > 0 ? 0 : settings_.ghosts;
}

void HeadTrainer::load(std::span<const int32_t> weight) {
  for (size_t i = 0; i < active_count_; ++i) {
    const int32_t* w = weight.data() + active_[i] * lesson_.width;
    std::transform(w, w + lesson_.width, forward_.data() + i * lesson_.width, forward_weight);
  }
}

void HeadTrainer::backward(std::span<const int8_t> features, std::span<const uint32_t> labels, uint64_t step, Distillation* distillation) {
  const HeadBatch batch = batch_of(labels.size(), lesson_.width, active_count_);
  std::transform(labels.begin(), labels.end(), own_.begin(), [&](uint32_t label) { return position_[label]; });
  head_logits(batch, features.data(), forward_.data(), lesson_.feature_bits, scores_.data());
  head_softmax(batch, scores_.data(), prior_.data(), ghosts_);
  head_gradient(batch, scores_.data(), own_.data(), g_.data());
  if (distillation != nullptr) distillation->correct(batch, absent(), features.data(), forward_.data(), g_.data());
  shift_ = settings_.gradient_bits < 16 ? round_gradient(labels.size(), step) : 0;
  head_weight_gradient(batch, features.data(), g_.data(), total_.data(), scratch_.data());
}

void HeadTrainer::descend(std::span<int32_t> weight, size_t rows, size_t left, size_t all) {
  const int64_t rate = (settings_.learning_rate << (12 - lesson_.feature_bits)) * static_cast<int64_t>(left) /
                       static_cast<int64_t>(all * rows);
  const size_t width = lesson_.width;
  for (size_t i = 0; i < active_count_; ++i) {
    const size_t at = active_[i] * width;
    head_descend(weight.subspan(at, width), total_.data() + i * width, rate * (int64_t{1} << shift_), forward_.data() + i * width);
  }
}

int HeadTrainer::round_gradient(size_t rows, uint64_t step) {
  const std::span<int16_t> g{g_.data(), rows * active_count_};
  const int bits = settings_.gradient_bits;
  uint32_t largest = 0;
  for (const int16_t v : g) largest = std::max(largest, static_cast<uint32_t>(std::abs(int{v})));
  const int shift = std::max(0, static_cast<int>(std::bit_width(largest)) - (bits - 1));
  const int limit = (1 << (bits - 1)) - 1;
  const uint64_t key = draw(lesson_.seed, Purpose::gradient_rounding, lesson_.experience << 32 | step, 0);
  for (size_t i = 0; i < g.size(); ++i) {
    const int64_t up = bits > kStochasticBits ? 0 : shift == 0 ? 0 : noise(key, static_cast<uint32_t>(i)) >> (32 - shift);
    const int64_t v = bits > kStochasticBits ? round_shift(g[i], shift) : (g[i] + up) >> shift;
    g[i] = static_cast<int16_t>(std::clamp<int64_t>(v, -limit, limit));
  }
  return shift;
}

}  // namespace bitreplay
