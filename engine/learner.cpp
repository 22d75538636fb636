#include "learner.h"

#include <algorithm>
#include <utility>

#include "fixed_point.h"
#include "random.h"
#include "rows.h"

namespace bitreplay {

Learner::Learner(const Network& network, size_t capacity, uint64_t seed, const Settings& settings, const TailSettings& tail,
                 std::span<const TailSource> tail_sources)
    : network_(network),
      settings_(settings),
      seed_(seed),
      replay_(capacity, network_.latent_words()),
      tail_(network_, tail, tail_sources) {
  if (tail.blocks == 0) return;
  require(capacity > 0, "train_blocks: expected 0 where the replay memory holds no row: a tail is trained on replayed rows");
  const Shape shape = network_.cut_shape();
  const int64_t rows = int64_t{settings.live_batch} + settings.tail_replay_batch;
  require(rows * shape.pixels() < int64_t{1} << (32 - tail.gradient_bits),
          "tail_replay_batch: too many rows a step for 32-bit sums of gradients; lower it, live_batch or gradient_bits");
}

int64_t Learner::lesson_bytes(size_t capacity, size_t replay_rows, size_t live, size_t classes, int threads) const {
  const Network& network = network_;
  const size_t features = static_cast<size_t>(network.feature_count());
  const size_t workers = workers_for(live + replay_rows, threads);
  const bool trains_tail = !tail_.blocks().empty();
  const size_t kept = live * (network.latent_words() * sizeof(uint64_t) + features)  // latents and features of the lesson
                      + replay_rows * features                                       // features of the replayed rows
                      + classes * features * (sizeof(int32_t) + sizeof(int64_t))     // tw, which becomes cw; feature sums
                      + classes * sizeof(uint32_t) * 2                               // counts: past, current
                      + (trains_tail ? classes * features * sizeof(int32_t) : 0);    // the trained branch's head
  const auto forward = static_cast<int64_t>(workers) * network.scratch_bytes();
  const int64_t head = train_head_bytes(live, replay_rows, classes, features, settings_);
  const bool trains = kTrainsTail && trains_tail && replay_rows > 0;
  const int64_t tail = trains ? train_tail_bytes(network, tail_, live, replay_rows, classes, settings_, threads) : 0;
  const int64_t highest = std::max({forward, head, tail, Replay::planning_bytes(capacity, live, classes)});
  return static_cast<int64_t>(kept) + tail_.bytes() + highest;
}

void Learner::learn(std::span<const uint8_t> images, std::span<const int32_t> labels, size_t classes, int threads,
                    const Progress& progress) {
  require(experience_ < kMostLessons, "learn: expected at most {} lessons in all; make a new learner", {kMostLessons});
  for (const uint64_t seen : replay_.seen()) {
    require(seen + labels.size() <= kMostLessons, "learn: expected at most {} rows of a class in all; make a new learner", {kMostLessons});
  }
  const Network& network = network_;
  const size_t live = labels.size();
  const size_t stored = replay_.size();
  const size_t width = static_cast<size_t>(network.feature_count());
  const size_t words = network.latent_words();
  const auto report = [&](Phase phase, size_t done, size_t total) {
    if (progress && !progress(phase, done, total)) fail(Error::cancelled, "the lesson was given up; nothing has changed");
  };

  Buffer<uint64_t> latents(live * words);
  Buffer<int8_t> live_features(live * width);
  Buffer<int8_t> stored_features(stored * width);
  Buffer<int32_t> weight(classes * width, 0);
  Buffer<int64_t> sums(classes * width, 0);
  Buffer<uint32_t> past(classes, 0), current(classes, 0);
  Tail tail = tail_;
  Buffer<int32_t> tail_weight(tail.blocks().empty() ? 0 : classes * width);

  for_rows(
      network, live + stored, threads,
      [&](size_t row, size_t, Scratch& scratch) {
        if (row < live) {
          network.latent(images.data() + row * network.image_bytes(), latents.data() + row * words, scratch);
          network.features(latents.data() + row * words, live_features.data() + row * width, scratch);
        } else {
          network.features(replay_.row(row - live), stored_features.data() + (row - live) * width, scratch);
        }
      },
      [&](size_t done) { report(Phase::latents, done, live + stored); });

  std::copy(head_.weight.begin(), head_.weight.end(), weight.begin());
  std::copy(head_.past_count.begin(), head_.past_count.end(), past.begin());
  std::copy(sums_.begin(), sums_.end(), sums.begin());
  for (size_t i = 0; i < live; ++i) {
    ++current[labels[i]];
    for (size_t j = 0; j < width; ++j) sums[labels[i] * width + j] += live_features[i * width + j];
  }
  for (const uint16_t label : replay_.labels()) ++current[label];
  const Lesson lesson{labels, replay_.labels(), head_, replay_.seen(), classes, width, network.feature_bits(), tail.settings().gradient_bits,
                      seed_,  experience_};
  const auto view = [](auto& buffer) { return std::span(buffer.data(), buffer.size()); };
  train_head(lesson, settings_, {view(live_features), view(stored_features), view(sums)}, view(weight),
             [&](size_t done, size_t total) { report(Phase::head, done, total); });
  if (!tail_weight.empty()) {
    std::copy(weight.begin(), weight.end(), tail_weight.begin());  // new classes start as the head learned them
    std::copy(tail_weight_.begin(), tail_weight_.end(), tail_weight.begin());
    if (kTrainsTail && stored > 0) {
      Workers team(threads);
      train_tail(
          lesson, settings_, network, tail_, tail, [&](size_t row) { return latents.data() + row * words; },
          [&](size_t row) { return replay_.row(row); }, view(tail_weight), team,
          [&](size_t done, size_t total) { report(Phase::tail, done, total); });
    }
  }
  if (live > 0) consolidate(view(head_.weight), view(weight), view(past), view(current), static_cast<int>(width));
  Replay::Plan plan = replay_.plan(labels, classes, seed_, experience_);

  flipped_ = tail.differing_weights(tail_);
  take_over(head_.weight, weight);
  take_over(head_.past_count, past);
  take_over(sums_, sums);
  tail_.take_over(tail);
  take_over(tail_weight_, tail_weight);
  if (live > 0) replay_.commit(std::move(plan), latents.data());
  ++experience_;
}

void Learner::rehearse(int threads, const Progress& progress) {
  if (replay_.size() > 0) learn({}, {}, classes(), threads, progress);
}

void Learner::reserve(size_t classes) {
  const size_t width = static_cast<size_t>(network_.feature_count());
  head_.weight.reserve(classes * width);
  head_.past_count.reserve(classes);
  sums_.reserve(classes * width);
  replay_.reserve_classes(classes);
  if (!tail_.blocks().empty()) tail_weight_.reserve(classes * width);
}

void Learner::restore(std::span<const int32_t> weight, std::span<const uint32_t> past_count, std::span<const int64_t> sums,
                      std::span<const uint64_t> rows, std::span<const uint16_t> labels, std::span<const uint64_t> seen,
                      std::span<const int32_t> tail_weight, uint64_t experience) {
  sums_.assign(sums.begin(), sums.end());
  head_.weight.assign(weight.begin(), weight.end());
  head_.past_count.assign(past_count.begin(), past_count.end());
  replay_.restore(rows, labels, seen);
  tail_weight_.assign(tail_weight.begin(), tail_weight.end());
  experience_ = experience;
}

}  // namespace bitreplay
