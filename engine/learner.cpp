#include "learner.h"

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "fixed_point.h"
#include "random.h"

namespace bitreplay {
namespace {

constexpr size_t kRowsPerRound = 32;  // a thread's share between two calls of the progress function
constexpr size_t kTrainReport = 16;   // steps between two calls of the progress function
constexpr int kOwnShare = 205;        // of a replayed row's own deviation, 8 fraction bits: .8
constexpr int kOtherShare = 154;      // of another row's deviation: .6, and .8^2 + .6^2 = 1

// Runs job(row, scratch) for every row, in rounds; before each round `report(done)` may give up by throwing.
// A row's result depends on the row alone, so neither threads nor rounds can be seen in it.
template <class Job, class Report>
void for_rows(const Network& network, size_t rows, int threads, const Job& job, const Report& report) {
  const size_t workers = std::max<size_t>(1, std::min<size_t>(threads, rows));
  std::vector<Scratch> scratch;
  scratch.reserve(workers);
  for (size_t i = 0; i < workers; ++i) scratch.push_back(network.make_scratch());
  for (size_t begin = 0; begin < rows;) {
    report(begin);
    const size_t end = std::min(rows, begin + workers * kRowsPerRound);
    const auto share = [&](size_t worker) {
      for (size_t row = begin + worker; row < end; row += workers) job(row, scratch[worker]);
    };
    std::vector<std::jthread> pool;
    for (size_t i = 1; i < workers; ++i) pool.emplace_back(share, i);
    share(0);
    pool.clear();
    begin = end;
  }
  report(rows);
}

// Rows in turn from one permutation after another.
class Order {
 public:
  Order(size_t rows, uint64_t seed, Purpose purpose, uint64_t experience)
      : order_(rows), seed_(seed), purpose_(purpose), step_(experience << 32), next_(rows) {}

  size_t left() const { return order_.size() - next_; }
  uint32_t next() {
    if (next_ == order_.size()) {
      permute({order_.data(), order_.size()}, seed_, purpose_, step_++);
      next_ = 0;
    }
    return order_[next_++];
  }

 private:
  Buffer<uint32_t> order_;
  uint64_t seed_;
  Purpose purpose_;
  uint64_t step_;
  size_t next_;
};

size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

// What a lesson is trained on.
struct Lesson {
  std::span<const int32_t> live_labels;
  std::span<const uint16_t> replay_labels;
  const Buffer<int8_t>& live_features;
  Buffer<int8_t>& replay_features;  // moved onto the class means
  const Buffer<int64_t>& sums;      // of this lesson too
  std::span<const uint64_t> seen;   // rows of earlier lessons
  const Head& head;
  int feature_bits;
};

int8_t clamp_feature(int64_t value) { return static_cast<int8_t>(std::clamp<int64_t>(value, -127, 127)); }

// Moves the stored rows of each class so that their mean is the class's (docs/method.md, 4.3).
void recentre(const Lesson& lesson, std::span<const int8_t> means, std::span<const uint32_t> stored, std::span<int64_t> sum) {
  const size_t width = sum.size();
  for (size_t c = 0; c < stored.size(); ++c) {
    if (stored[c] == 0) continue;
    std::fill(sum.begin(), sum.end(), 0);
    for (size_t row = 0; row < lesson.replay_labels.size(); ++row) {
      if (lesson.replay_labels[row] != c) continue;
      for (size_t j = 0; j < width; ++j) sum[j] += lesson.replay_features[row * width + j];
    }
    for (size_t j = 0; j < width; ++j) sum[j] = means[c * width + j] - divide_round(sum[j], stored[c]);
    for (size_t row = 0; row < lesson.replay_labels.size(); ++row) {
      if (lesson.replay_labels[row] != c) continue;
      int8_t* x = lesson.replay_features.data() + row * width;
      for (size_t j = 0; j < width; ++j) x[j] = clamp_feature(x[j] + sum[j]);
    }
  }
}

// Trains `weight` (cw on entry, tw on return; rows of absent classes are put back).  `current` holds live counts on entry, and
// live plus stored on return.
template <class Report>
void train(const Lesson& lesson, const Settings& settings, uint64_t seed, uint64_t experience, Buffer<int32_t>& weight,
           Buffer<uint32_t>& current, const Report& report) {
  const size_t classes = current.size();
  const size_t width = weight.size() / classes;
  const size_t live = lesson.live_labels.size();
  const size_t stored_rows = lesson.replay_labels.size();
  const size_t known = lesson.seen.size();

  Buffer<int32_t> gradient(classes * width);
  Buffer<int16_t> forward(classes * width), x(width);
  Buffer<int8_t> means(classes * width, 0);
  Buffer<int64_t> sum(width), prior(classes, 0), scores(classes);
  Buffer<uint32_t> stored(classes, 0), active(classes), absent(classes);

  for (const uint16_t label : lesson.replay_labels) ++stored[label];
  size_t absent_count = 0;
  if (settings.class_means) {
    for (size_t c = 0; c < classes; ++c) {
      const int64_t rows = static_cast<int64_t>((c < known ? lesson.seen[c] : 0) + current[c]);
      for (size_t j = 0; j < width; ++j) means[c * width + j] = clamp_feature(divide_round(lesson.sums[c * width + j], rows));
      if (stored_rows == 0 && current[c] == 0) absent[absent_count++] = static_cast<uint32_t>(c);
    }
    recentre(lesson, {means.data(), means.size()}, {stored.data(), classes}, {sum.data(), width});
  }

  const size_t live_batch = std::min<size_t>(settings.live_batch, live);
  const size_t other_batch = stored_rows > 0 ? std::min<size_t>(settings.replay_batch, stored_rows)
                             : absent_count > 0 ? static_cast<size_t>(settings.replay_batch)
                                                : 0;
  const size_t others = stored_rows > 0 ? stored_rows : absent_count;
  size_t active_count = 0;
  for (size_t c = 0; c < classes; ++c) {
    const uint64_t share = stored_rows > 0 ? stored[c] : absent_count > 0 && current[c] == 0;
    if (current[c] + share == 0) continue;
    active[active_count++] = static_cast<uint32_t>(c);
    prior[c] = static_cast<int64_t>(live_batch * current[c] * others + other_batch * share * live);
  }
  for (size_t i = 0; i < active_count; ++i) {
    int64_t& value = prior[active[i]];
    value = settings.prior && other_batch > 0
                ? prior_correction(active_count, static_cast<uint64_t>(value), (live_batch + other_batch) * live * others)
                : 0;
  }
  for (size_t c = 0; c < classes; ++c) current[c] += stored[c];
  const int ghosts = settings.class_means && other_batch > 0 ? 0 : settings.ghosts;
  const std::span<int64_t> p{scores.data(), active_count};

  Order live_order(live, seed, Purpose::live_order, experience);
  Order replay_order(stored_rows, seed, Purpose::replay_order, experience);
  const size_t steps = std::max<size_t>(settings.epochs * ceil_div(live, live_batch), settings.min_steps);
  // Deviation `j` of a random row of the lesson from its class mean, for the other row number `index` of the lesson.
  const auto deviating_row = [&](uint64_t index) {
    return below(live + stored_rows, draw(seed, Purpose::deviation, experience, index));
  };
  for (size_t step = 0; step < steps; ++step) {
    if (step % kTrainReport == 0) report(Phase::train, step, steps);
    std::fill(gradient.begin(), gradient.end(), 0);
    for (size_t i = 0; i < active_count; ++i) {
      const int32_t* w = weight.data() + active[i] * width;
      for (size_t j = 0; j < width; ++j) forward[i * width + j] = forward_weight(w[j]);
    }
    const size_t live_rows = live_order.left() == 0 ? live_batch : std::min(live_batch, live_order.left());
    const size_t rows = live_rows + other_batch;
    for (size_t b = 0; b < rows; ++b) {
      uint32_t label;
      if (b < live_rows) {
        const uint32_t row = live_order.next();
        label = static_cast<uint32_t>(lesson.live_labels[row]);
        std::copy_n(lesson.live_features.data() + row * width, width, x.data());
      } else {
        const uint64_t index = step * other_batch + (b - live_rows);
        const int8_t* own = nullptr;
        if (stored_rows > 0) {
          const uint32_t row = replay_order.next();
          label = lesson.replay_labels[row];
          own = lesson.replay_features.data() + row * width;
        } else {
          label = absent[below(absent_count, draw(seed, Purpose::absent_class, experience, index))];
        }
        if (settings.class_means) {
          const uint64_t source = deviating_row(index);
          const bool is_live = source < live;
          const int8_t* from = is_live ? lesson.live_features.data() + source * width
                                       : lesson.replay_features.data() + (source - live) * width;
          const int8_t* from_mean =
              means.data() + (is_live ? static_cast<size_t>(lesson.live_labels[source]) : lesson.replay_labels[source - live]) * width;
          const int8_t* mean = means.data() + label * width;
          for (size_t j = 0; j < width; ++j) {
            const int deviation = from[j] - from_mean[j];
            const int moved = own ? (kOwnShare * (own[j] - mean[j]) + kOtherShare * deviation + 128) >> 8 : deviation;
            x[j] = clamp_feature(mean[j] + moved);
          }
        } else {
          std::copy_n(own, width, x.data());
        }
      }
      logits({x.data(), width}, {forward.data(), forward.size()}, lesson.feature_bits, p);
      for (size_t i = 0; i < active_count; ++i) p[i] += prior[active[i]];
      softmax(p, ghosts);
      for (size_t i = 0; i < active_count; ++i) {
        const int64_t g = std::min<int64_t>(p[i] - (active[i] == label ? kProbabilityOne : 0), INT16_MAX);
        if (g == 0) continue;
        int32_t* total = gradient.data() + i * width;
        const auto factor = static_cast<int16_t>(g);
        for (size_t j = 0; j < width; ++j) total[j] += factor * x[j];
      }
    }
    const auto left = static_cast<int64_t>(steps - step);
    const auto all = static_cast<int64_t>(steps);
    const int64_t rate = (settings.learning_rate << (12 - lesson.feature_bits)) * left / (all * static_cast<int64_t>(rows));
    const int64_t pull = settings.learning_rate * left / all * settings.pull;
    for (size_t i = 0; i < active_count; ++i) {
      const size_t at = active[i] * width;
      const bool anchored = active[i] < known && lesson.head.past_count[active[i]] > 0;
      descend({weight.data() + at, width}, {gradient.data() + i * width, width}, rate,
              anchored ? std::span(lesson.head.weight.data() + at, width) : std::span<const int32_t>(), pull);
    }
  }
  report(Phase::train, steps, steps);
  for (size_t i = 0; i < absent_count; ++i) {
    const size_t at = absent[i] * width;
    std::copy_n(lesson.head.weight.data() + at, width, weight.data() + at);
  }
}

}  // namespace

Learner::Learner(std::shared_ptr<const Network> network, size_t capacity, uint64_t seed, const Settings& settings)
    : network_(std::move(network)), settings_(settings), seed_(seed), replay_(capacity, network_->latent_words()) {}

int64_t Learner::lesson_bytes(const Network& network, size_t capacity, size_t replay_rows, size_t live, size_t classes,
                              int threads) {
  const size_t features = static_cast<size_t>(network.feature_count());
  const size_t workers = std::max<size_t>(1, std::min<size_t>(threads, live + replay_rows));
  const size_t kept = live * (network.latent_words() * sizeof(uint64_t) + features)  // latents and features of the lesson
                      + replay_rows * features                                       // features of the replayed rows
                      + classes * features * (sizeof(int32_t) + sizeof(int64_t))     // tw, which becomes cw; feature sums
                      + classes * sizeof(uint32_t) * 2;                              // counts: past, current
  const size_t training = classes * features * (sizeof(int32_t) + sizeof(int16_t) + sizeof(int8_t))  // gradient, forward, means
                          + features * (sizeof(int16_t) + sizeof(int64_t))                           // one row, one sum
                          + classes * sizeof(int64_t) * 2                                            // prior, probabilities
                          + classes * sizeof(uint32_t) * 3                                           // stored, active, absent
                          + (live + replay_rows) * sizeof(uint32_t);                                 // permutations
  const auto forward = static_cast<int64_t>(workers) * network.scratch_bytes();
  const int64_t highest = std::max({forward, static_cast<int64_t>(training), Replay::planning_bytes(capacity, live, classes)});
  return static_cast<int64_t>(kept) + highest;
}

void Learner::learn(std::span<const uint8_t> images, std::span<const int32_t> labels, size_t classes, int threads,
                    const Progress& progress) {
  const Network& network = *network_;
  const size_t live = labels.size();
  const size_t stored = replay_.size();
  const size_t width = static_cast<size_t>(network.feature_count());
  const size_t words = network.latent_words();
  const auto report = [&](Phase phase, size_t done, size_t total) {
    if (progress && !progress(phase, done, total)) throw Cancelled();
  };

  Buffer<uint64_t> latents(live * words);
  Buffer<int8_t> live_features(live * width);
  Buffer<int8_t> replay_features(stored * width);
  Buffer<int32_t> weight(classes * width, 0);
  Buffer<int64_t> sums(classes * width, 0);
  Buffer<uint32_t> past(classes, 0), current(classes, 0);

  for_rows(
      network, live + stored, threads,
      [&](size_t row, Scratch& scratch) {
        if (row < live) {
          network.latent(images.data() + row * network.image_bytes(), latents.data() + row * words, scratch);
          network.features(latents.data() + row * words, live_features.data() + row * width, scratch);
        } else {
          network.features(replay_.row(row - live), replay_features.data() + (row - live) * width, scratch);
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
  Lesson lesson{labels, replay_.labels(), live_features, replay_features, sums, replay_.seen(), head_, network.feature_bits()};
  train(lesson, settings_, seed_, experience_, weight, current, report);
  consolidate({head_.weight.data(), head_.weight.size()}, {weight.data(), weight.size()}, {past.data(), past.size()},
              {current.data(), current.size()}, static_cast<int>(width));
  Replay::Plan plan = replay_.plan(labels, classes, seed_, experience_);

  head_.weight.swap(weight);
  head_.past_count.swap(past);
  sums_.swap(sums);
  replay_.commit(std::move(plan), latents.data());
  ++experience_;
}

void Learner::features(std::span<const uint8_t> images, std::span<int8_t> features, int threads) const {
  const size_t width = static_cast<size_t>(network_->feature_count());
  const size_t rows = images.size() / network_->image_bytes();
  Buffer<uint64_t> latents(rows * network_->latent_words());
  for_rows(
      *network_, rows, threads,
      [&](size_t row, Scratch& scratch) {
        uint64_t* latent = latents.data() + row * network_->latent_words();
        network_->latent(images.data() + row * network_->image_bytes(), latent, scratch);
        network_->features(latent, features.data() + row * width, scratch);
      },
      [](size_t) {});
}

void Learner::predict(std::span<const uint8_t> images, std::span<int32_t> probabilities, std::span<int32_t> best, int threads) const {
  const size_t width = static_cast<size_t>(network_->feature_count());
  Buffer<int8_t> rows(best.size() * width);
  features(images, {rows.data(), rows.size()}, threads);
  Buffer<int16_t> forward(head_.weight.size()), x(width);
  Buffer<int64_t> scores(classes());
  std::transform(head_.weight.begin(), head_.weight.end(), forward.begin(), forward_weight);
  for (size_t row = 0; row < best.size(); ++row) {
    std::copy_n(rows.data() + row * width, width, x.data());
    logits({x.data(), width}, {forward.data(), forward.size()}, network_->feature_bits(), {scores.data(), scores.size()});
    best[row] = static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
    softmax({scores.data(), scores.size()}, 0);
    for (size_t c = 0; c < scores.size(); ++c) probabilities[row * scores.size() + c] = static_cast<int32_t>(scores[c]);
  }
}

void Learner::restore(std::span<const int32_t> weight, std::span<const uint32_t> past_count, std::span<const int64_t> sums,
                      std::span<const uint64_t> rows, std::span<const uint16_t> labels, std::span<const uint64_t> seen,
                      uint64_t experience) {
  sums_.assign(sums.begin(), sums.end());
  head_.weight.assign(weight.begin(), weight.end());
  head_.past_count.assign(past_count.begin(), past_count.end());
  replay_.restore(rows, labels, seen);
  experience_ = experience;
}

}  // namespace bitreplay
