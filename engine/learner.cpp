#include "learner.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "eye.h"
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

// Class c's row of LDA as the first weights of a trained branch: 27 fraction bits, at the temperature of `mixing`.
void to_branch(const LinearClassifier& from, size_t c, size_t width, const Mixing& mixing, int feature_bits, int32_t* to) {
  const int shift = from.exponent + kMixingBits - 27 - feature_bits;
  for (size_t j = 0; j < width; ++j) {
    const int64_t w = from.weight[c * width + j] * mixing.frozen;
    to[j] = sat32(shift >= 0 ? round_shift(w, shift) : w << std::min(-shift, 30));
  }
}

}  // namespace

// What a lesson makes, beside what is known.
struct Learner::Fresh {
  Statistics statistics;
  LinearClassifier classifier;
  Buffer<int32_t> weight;
  Buffer<uint32_t> past;
  Tail tail;
  Buffer<int32_t> tail_weight;
  Mixing mixing;
};

Learner::Learner(const Network& network, size_t capacity, uint64_t seed, const Settings& settings, const TailSettings& tail,
                 std::span<const TailSource> tail_sources)
    : network_(network),
      settings_(settings),
      seed_(seed),
      statistics_(settings.head == HeadKind::lda ? network.feature_count() : 0),
      replay_(capacity, network_.latent_words(), further_words(network, settings.views)),
      tail_(network_, tail, tail_sources) {
  if (tail.blocks == 0) return;
  require(capacity > 0, "train_blocks: expected 0 where the replay memory holds no row: a tail is trained on replayed rows");
  const Shape shape = network_.cut_shape();
  const int64_t rows = int64_t{settings.live_batch} + settings.tail_replay_batch;
  require(rows * shape.pixels() < int64_t{1} << (32 - tail.gradient_bits),
          "tail_replay_batch: too many rows a step for 32-bit sums of gradients; lower it, live_batch or gradient_bits");
}

LdaSettings Learner::lda_settings() const {
  const auto real = [](int64_t value) { return static_cast<double>(value) / (1 << kSettingBits); };
  const int64_t one = int64_t{1} << network_.feature_bits();
  return {real(settings_.shrinkage) * network_.feature_count(), real(settings_.pseudo_pictures), static_cast<double>(one * one)};
}

int64_t Learner::near_bits() const { return settings_.near_equal == 0 ? -1 : settings_.near_equal * network_.latent_bits() >> 16; }

int64_t Learner::head_bytes_at(size_t classes) const {
  const auto width = static_cast<size_t>(network_.feature_count());
  if (!has_lda()) return static_cast<int64_t>(classes * (width * sizeof(int32_t) + sizeof(uint32_t)));
  const auto solved = static_cast<int64_t>(classes * (width * sizeof(int16_t) + sizeof(int64_t)));
  return Statistics::bytes(classes, static_cast<int>(width), statistics_.is_wide()) + solved;
}

int64_t Learner::lesson_bytes(size_t capacity, size_t replay_rows, size_t live, size_t classes, int threads) const {
  const Network& network = network_;
  const size_t features = static_cast<size_t>(network.feature_count());
  const bool lda = has_lda(), trains_tail = !tail_.blocks().empty();
  const size_t seen = live + (lda ? 0 : replay_rows);
  const size_t workers = workers_for(seen, threads);
  const size_t kept = live * (replay_.row_words() * sizeof(uint64_t) + sizeof(uint8_t)) + seen * features  // rows of the lesson, and which count
                      + (lda ? 0 : classes * sizeof(uint32_t))                                               // counts of the experience
                      + (trains_tail ? classes * features * sizeof(int32_t) : 0);                            // the trained branch's head
  const auto forward = static_cast<int64_t>(workers * (static_cast<size_t>(network.scratch_bytes()) + Eye::bytes(network, settings_.views)));
  const int64_t head = lda ? solve_bytes(classes, static_cast<int>(features)) : train_head_bytes(live, replay_rows, classes, features, settings_);
  const bool trains = kTrainsTail && trains_tail && replay_rows > 0;
  const int64_t tail = trains ? train_tail_bytes(network, tail_, live, replay_rows, classes, settings_, threads) : 0;
  const int64_t highest = std::max({forward, head, tail, count_once_bytes(live), Replay::planning_bytes(capacity, live, classes)});
  return static_cast<int64_t>(kept) + head_bytes_at(classes) + tail_.bytes() + highest;
}

void Learner::learn(std::span<const uint8_t> images, std::span<const int32_t> labels, size_t classes, int threads,
                    const Progress& progress) {
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
  {
    List<Eye> eyes;
    const size_t workers = workers_for(live + trained_on, threads);
    eyes.reserve(workers);
    for (size_t i = 0; i < workers; ++i) eyes.emplace_back(network, tail_, settings_.views);
    for_rows(
        network, live + trained_on, threads,
        [&](size_t row, size_t worker, Scratch& scratch) {
          int8_t* to = features.data() + row * width;
          if (row < live) {
            eyes[worker].look(images.data() + row * network.image_bytes(), {latents.data() + row * words, to, nullptr}, scratch);
          } else {
            network.features(replay_.row(row - live), to, scratch);
          }
        },
        [&](size_t done) { report(Phase::latents, done, live + trained_on); });
  }
  for (size_t i = 0; settings_.views > 1 && i < live; ++i) {
    std::memcpy(latents.data() + i * words + network.latent_words(), features.data() + i * width, width);
  }
  const Buffer<uint8_t> counts = count_once(latents.data(), words, network.latent_words(), labels, near_bits());

  Fresh fresh{statistics_, {}, Buffer<int32_t>(has_lda() ? 0 : classes * width, 0), Buffer<uint32_t>(has_lda() ? 0 : classes, 0),
              tail_, Buffer<int32_t>(tail_.blocks().empty() ? 0 : classes * width), mixing_};
  const Lesson lesson{labels, replay_.labels(), classes, width, network.feature_bits(), tail_.settings().gradient_bits, seed_, experience_};
  if (has_lda()) {
    fresh.statistics.open(classes);
    for (size_t i = 0; i < live; ++i) {
      if (counts[i] != 0) fresh.statistics.add(features.data() + i * width, static_cast<size_t>(labels[i]));
    }
#ifdef BITREPLAY_DEVICE
    if (fresh.statistics.is_wide() && !statistics_.is_wide()) {  // there is no room for it
      fail(Error::memory, "images: the sums of this learner outgrow 32 bits; save the state and open it again");
    }
#endif
    report(Phase::head, 0, 1);
    fresh.classifier = solve(fresh.statistics, lda_settings());
    report(Phase::head, 1, 1);
  } else {
    Buffer<uint32_t> current(classes, 0);
    std::copy(head_.weight.begin(), head_.weight.end(), fresh.weight.begin());
    std::copy(head_.past_count.begin(), head_.past_count.end(), fresh.past.begin());
    for (const int32_t label : labels) ++current[static_cast<size_t>(label)];
    for (const uint16_t label : replay_.labels()) ++current[label];
    train_head(lesson, settings_, {features.data(), live * width}, {features.data() + live * width, stored * width}, view(fresh.weight),
               [&](size_t done, size_t total) { report(Phase::head, done, total); });
    if (!fresh.tail_weight.empty()) std::copy(fresh.weight.begin(), fresh.weight.end(), fresh.tail_weight.begin());
    if (live > 0) consolidate(view(head_.weight), view(fresh.weight), view(fresh.past), view(current), static_cast<int>(width));
  }
  if (!fresh.tail_weight.empty()) {
    for (size_t c = this->classes(); has_lda() && c < classes; ++c) {
      to_branch(fresh.classifier, c, width, fresh.mixing, network.feature_bits(), fresh.tail_weight.data() + c * width);
    }
    std::copy(tail_weight_.begin(), tail_weight_.end(), fresh.tail_weight.begin());
    if (kTrainsTail && stored > 0) {
      Workers team(threads);
      train_tail(
          lesson, settings_, network, tail_, fresh.tail, [&](size_t row) { return latents.data() + row * words; },
          [&](size_t row) { return replay_.row(row); }, view(fresh.tail_weight), team,
          [&](size_t done, size_t total) { report(Phase::tail, done, total); });
    }
  }
  Replay::Plan plan = replay_.plan(latents.data(), labels, {counts.data(), counts.size()}, classes, seed_, near_bits());

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
  if (live > 0) replay_.commit(std::move(plan), latents.data());
  ++experience_;
}

void Learner::rehearse(int threads, const Progress& progress) {
  if (replay_.size() > 0 && (!has_lda() || !tail_.blocks().empty())) learn({}, {}, classes(), threads, progress);
}

void Learner::reserve(size_t classes) {
  const size_t width = static_cast<size_t>(network_.feature_count());
  if (has_lda()) {
    statistics_.reserve(classes);
    classifier_.weight.reserve(classes * width);
    classifier_.bias.reserve(classes);
  } else {
    head_.weight.reserve(classes * width);
    head_.past_count.reserve(classes);
  }
  replay_.reserve_classes(classes);
  if (!tail_.blocks().empty()) tail_weight_.reserve(classes * width);
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

void Learner::begin_branch(size_t c) {
  const size_t width = static_cast<size_t>(network_.feature_count());
  if (has_lda()) {
    to_branch(classifier_, c, width, mixing_, network_.feature_bits(), tail_weight_.data() + c * width);
  } else {
    std::copy_n(head_.weight.data() + c * width, width, tail_weight_.data() + c * width);
  }
}

void Learner::prepare() {
  if (!has_lda()) return;
  LinearClassifier fresh = solve(statistics_, lda_settings());
  take_over(classifier_.weight, fresh.weight);
  take_over(classifier_.bias, fresh.bias);
  classifier_.exponent = fresh.exponent;
}

}  // namespace bitreplay
