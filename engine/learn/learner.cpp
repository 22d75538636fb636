#include "learner.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "eye.h"
#include "fresh.h"
#include "fixed_point.h"
#include "near_equal.h"
#include "random.h"
#include "rows.h"

namespace bitreplay {
namespace {

constexpr int kSettingBits = 8;  // fraction bits of the settings of LDA

template <class T>
std::span<T> view(Buffer<T>& buffer) {
  return {buffer.data(), buffer.size()};
}

}  // namespace

Learner::Learner(const Network& network, const Settings& settings, std::span<const TailSource> tail_sources)
    : network_(network),
      settings_((check(settings), settings)),
      statistics_(settings.head == HeadKind::lda ? lda_width() : 0),
      replay_(static_cast<size_t>(settings.capacity), network_.latent_words(), static_cast<size_t>(settings.further_words(network.feature_count()))),
      tail_(network_, settings, tail_sources) {
  require(lda_width() <= network.feature_count(), "lda_features: expected at most the {} features of the model", {static_cast<uint64_t>(network.feature_count())});
  if (settings.train_blocks == 0) return;
  const Shape shape = network_.cut_shape();
  const int64_t rows = int64_t{settings.live_batch} + settings.tail_replay_batch;
  require(rows * shape.pixels() < int64_t{1} << (32 - settings.gradient_bits),
          "tail_replay_batch: too many rows a step for 32-bit sums of gradients; lower it, live_batch or gradient_bits");
}

LdaSettings Learner::lda_settings() const {
  const auto real = [](int64_t value) { return static_cast<double>(value) / (1 << kSettingBits); };
  const int64_t one = int64_t{1} << network_.feature_bits();
  return {real(settings_.shrinkage) * lda_width(), real(settings_.pseudo_pictures), static_cast<double>(one * one)};
}

Near Learner::near() const { return {settings_.near_equal == 0 ? -1 : network_.near(settings_.near_equal), !network_.has_cut()}; }

int64_t Learner::frozen_weight() const {
  return has_lda() ? std::min(round_shift(temperature(statistics_) * mixing_.frozen, kMixingBits), kMostMixing) : mixing_.frozen;
}

int64_t Learner::temperature(const Statistics& statistics) {
  int64_t rows = 0;
  for (const int64_t n : statistics.count()) rows += n;
  return inverse_temperature(rows, statistics.classes());
}

bool Learner::is_held_back(const uint64_t* row) const {
  return has_lda() && row_hash(settings_.seed, Purpose::held_back, {row, replay_.latent_words()}) >> 56 < static_cast<uint64_t>(settings_.held_back);
}

void Learner::stored_features(size_t slot, int8_t* features, Scratch& scratch, Workers* inside) const {
  if (settings_.views > 1) {
    std::memcpy(features, replay_.row(slot) + replay_.latent_words(), static_cast<size_t>(network_.feature_count()));
  } else {
    network_.features(replay_.row(slot), features, scratch, inside);
  }
}

void Learner::learn(std::span<const uint8_t> images, std::span<const int32_t> labels, size_t classes, Workers& workers,
                    const Progress& progress) {
  const auto where = [&](size_t first, size_t) { return images.data() + first * network_.image_bytes(); };
  learn(where, labels.size(), labels, classes, workers, progress);
}

void Learner::learn(Pictures pictures, size_t batch, std::span<const int32_t> labels, size_t classes, Workers& workers, const Progress& progress) {
  require(experience_ < kMostLessons, "learn: expected at most {} lessons in all; make a new learner", {kMostLessons});
  for (const uint64_t seen : replay_.seen()) {
    require(seen + labels.size() <= kMostLessons, "learn: expected at most {} pictures of a class in all; make a new learner", {kMostLessons});
  }
  const Network& network = network_;
  const size_t live = labels.size(), stored = replay_.size();
  const size_t trained_on = has_lda() ? 0 : stored;  // stored rows that the head is trained on
  const size_t width = static_cast<size_t>(network.feature_count());
  const size_t words = replay_.row_words();
  const auto report = [&](Phase phase, size_t done, size_t total) {
    if (progress && !progress(phase, done, total)) fail(Error::cancelled, "the lesson was given up; nothing has changed");
  };

  Buffer<uint64_t> latents(live * words, 0);
  Buffer<int8_t> features((live + trained_on) * width);  // of the images, then of stored rows
  size_t begin = 0;
  do {
    const size_t count = std::min(batch, live - begin);
    const uint8_t* pixels = count > 0 ? pictures(begin, count) : nullptr;
    const size_t rows = count + (begin + count == live ? trained_on : 0);  // the stored ones last
    List<Eye> eyes;
    const size_t at_once = RowShares(rows, workers.count()).at_once;
    eyes.reserve(at_once);
    for (size_t i = 0; i < at_once; ++i) eyes.emplace_back(network, tail_, settings_.views);
    for_rows(
        network, rows, workers,
        [&](size_t row, size_t place, Scratch& scratch, Workers* inside) {
          int8_t* to = features.data() + (begin + row) * width;
          if (row < count) {
            eyes[place].look(pixels + row * network.image_bytes(), {latents.data() + (begin + row) * words, to, nullptr}, scratch, inside);
          } else {
            network.features(replay_.row(row - count), to, scratch, inside);
          }
        },
        [&](size_t done) { report(Phase::latents, begin + done, live + trained_on); });
    begin += count;
  } while (begin < live);
  for (size_t i = 0; settings_.views > 1 && i < live; ++i) {
    std::memcpy(latents.data() + i * words + network.latent_words(), features.data() + i * width, width);
  }
  Buffer<uint8_t> counts = count_once(latents.data(), words, network.latent_words(), labels, near());

  const Buffer<uint8_t> roles = tail_.blocks().empty() ? Buffer<uint8_t>() : roles_of(view(latents), labels, view(counts), classes);

  Fresh fresh{Statistics(statistics_, has_lda() ? classes : 0), {}, Buffer<int32_t>(has_lda() ? 0 : classes * width, 0), Buffer<uint32_t>(has_lda() ? 0 : classes, 0),
              tail_, Buffer<int32_t>(tail_.blocks().empty() ? 0 : classes * width, 0), {}, mixing_, -1};
  const Lesson lesson{labels, replay_.labels(), classes, width, network.feature_bits(), settings_.seed, experience_};
  if (has_lda()) {
    const auto add = [&](bool held) {
      for (size_t i = 0; i < live; ++i) {
        if (counts[i] != 0 && (!roles.empty() && roles[i] == kHeld) == held) fresh.statistics.add(features.data() + i * width, static_cast<size_t>(labels[i]));
      }
    };
    report(Phase::head, 0, 1);
    add(false);
    if (!tail_.blocks().empty()) fresh.without = solve(fresh.statistics, lda_settings());  // a branch begins without what it will be judged by
    add(true);
#ifdef BITREPLAY_DEVICE
    if (fresh.statistics.is_wide() && !statistics_.is_wide()) {  // there is no room for it
      fail(Error::memory, "images: the sums of this learner outgrow 32 bits; save the state and open it again");
    }
#endif
    fresh.classifier = solve(fresh.statistics, lda_settings());
    fresh.mixing = {};  // unless a branch is heard
    report(Phase::head, 1, 1);
  } else {
    Buffer<uint32_t> current(classes, 0);
    std::copy(head_.weight.begin(), head_.weight.end(), fresh.weight.begin());
    std::copy(head_.past_count.begin(), head_.past_count.end(), fresh.past.begin());
    for (const int32_t label : labels) ++current[static_cast<size_t>(label)];
    for (const uint16_t label : replay_.labels()) ++current[label];
    train_head(lesson, settings_, {features.data(), live * width}, {features.data() + live * width, stored * width}, view(fresh.weight),
               [&](size_t done, size_t total) { report(Phase::head, done, total); });
    if (!fresh.tail_weight.empty()) std::copy(fresh.weight.begin(), fresh.weight.end(), fresh.tail_weight.begin());  // tw of new classes
    if (live > 0) consolidate(view(head_.weight), view(fresh.weight), view(fresh.past), view(current), static_cast<int>(width));
  }
  if (!fresh.tail_weight.empty()) {
    std::copy(tail_weight_.begin(), tail_weight_.end(), fresh.tail_weight.begin());
    learn_tail(lesson, view(latents), view(features), {roles.data(), roles.size()}, fresh, workers, [&](size_t done, size_t total) { report(Phase::tail, done, total); });
  }
  Replay::Plan plan = replay_.plan(latents.data(), labels, {counts.data(), counts.size()}, classes, settings_.seed, near());

  flipped_ = fresh.tail.differing_weights(tail_);
  counted_ = static_cast<size_t>(std::count(counts.begin(), counts.end(), 1));
  statistics_.take_over(fresh.statistics);
  take_over(classifier_.weight, fresh.classifier.weight);
  take_over(classifier_.bias, fresh.classifier.bias);
  classifier_.exponent = fresh.classifier.exponent;
  take_over(head_.weight, fresh.weight);
  take_over(head_.past_count, fresh.past);
  tail_.take_over(fresh.tail);
  take_over(tail_weight_, fresh.tail_weight);
  mixing_ = fresh.mixing;
  worse_ = fresh.worse;
  if (live > 0) replay_.commit(std::move(plan), latents.data());
  ++experience_;
}

void Learner::rehearse(Workers& workers, const Progress& progress) {
  if (replay_.size() > 0 && (!has_lda() || !tail_.blocks().empty())) learn({}, {}, classes(), workers, progress);
}

void Learner::reserve(size_t classes) {
  const size_t width = static_cast<size_t>(network_.feature_count());
  if (has_lda()) {
    statistics_.reserve(classes);
    classifier_.weight.reserve(classes * static_cast<size_t>(lda_width()));
    classifier_.bias.reserve(classes);
  } else {
    head_.weight.reserve(classes * width);
    head_.past_count.reserve(classes);
  }
  replay_.reserve_classes(classes);
  if (!tail_.blocks().empty()) tail_weight_.reserve(classes * width);
}

Content Learner::content() const {
  Content content;
  content.experience = experience_;
  content.rows = {replay_.row(0), replay_.size() * replay_.row_words()};
  content.labels = replay_.labels();
  content.seen = replay_.seen();
  if (has_lda()) {
    content.count = statistics_.count();
    content.sums.wide = statistics_.sums();
    content.moment = statistics_.moment();
    content.saturated = statistics_.saturated();
  }
  content.weight = {head_.weight.data(), head_.weight.size()};
  content.past_count = {head_.past_count.data(), head_.past_count.size()};
  content.tail_weight = tail_weight();
  content.mixing = mixing_;
  return content;
}

void Learner::restore(const Content& content) {
  experience_ = content.experience;
  replay_.restore(content.rows, content.labels, content.seen);
  if (has_lda()) statistics_.restore(content.count, content.sums, content.moment, content.saturated);
  head_.weight.assign(content.weight.begin(), content.weight.end());
  head_.past_count.assign(content.past_count.begin(), content.past_count.end());
  tail_weight_.assign(content.tail_weight.begin(), content.tail_weight.end());
  mixing_ = content.mixing;
}

void Learner::prepare() {
  if (!has_lda()) return;
  LinearClassifier fresh = solve(statistics_, lda_settings());
  take_over(classifier_.weight, fresh.weight);
  take_over(classifier_.bias, fresh.bias);
  classifier_.exponent = fresh.exponent;
}

}  // namespace bitreplay
