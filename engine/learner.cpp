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

}  // namespace

Learner::Learner(std::shared_ptr<const Network> network, size_t capacity, uint64_t seed, const Settings& settings)
    : network_(std::move(network)), settings_(settings), seed_(seed), replay_(capacity, network_->latent_words()) {}

int64_t Learner::lesson_bytes(const Network& network, size_t capacity, size_t replay_rows, size_t live, size_t classes,
                              const Settings&, int threads) {
  const size_t features = static_cast<size_t>(network.feature_count());
  const size_t workers = std::max<size_t>(1, std::min<size_t>(threads, std::max(live, replay_rows)));
  const size_t kept = live * (network.latent_words() * sizeof(uint64_t) + features)  // latents and features of the lesson
                      + replay_rows * features                                       // features of the replayed rows
                      + classes * features * sizeof(int32_t)                         // tw, the new head
                      + classes * sizeof(uint32_t) * 3;                              // counts: past, current, active
  const size_t training = classes * features * sizeof(int64_t)                        // gradient
                          + classes * sizeof(int64_t) * 2                             // prior, probabilities
                          + (live + replay_rows) * sizeof(uint32_t);                  // permutations
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
  Buffer<uint32_t> past(classes, 0), current(classes, 0), active(classes);

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
  for (const int32_t label : labels) ++current[label];
  const auto replay_labels = replay_.labels();
  {
    Buffer<int64_t> gradient(classes * width), prior(classes, 0), scores(classes);
    size_t active_count = 0;
    const size_t live_batch = std::min<size_t>(settings_.live_batch, live);
    const size_t replay_batch = std::min<size_t>(settings_.replay_batch, stored);
    // `current` holds the live counts; the replayed ones are added on the way.
    for (const uint16_t label : replay_labels) ++prior[label];
    for (size_t c = 0; c < classes; ++c) {
      if (current[c] + prior[c] > 0) active[active_count++] = static_cast<uint32_t>(c);
    }
    for (size_t c = 0; c < classes; ++c) {
      const auto rows = static_cast<uint64_t>(prior[c]);
      const uint64_t numerator = live_batch * current[c] * stored + replay_batch * rows * live;
      current[c] += static_cast<uint32_t>(rows);
      prior[c] = settings_.prior && replay_batch > 0 && numerator > 0
                     ? prior_correction(active_count, numerator, (live_batch + replay_batch) * live * stored)
                     : 0;
    }
    const std::span<const uint32_t> trained{active.data(), active_count};
    const std::span<int64_t> p{scores.data(), active_count};

    Order live_order(live, seed_, Purpose::live_order, experience_);
    Order replay_order(stored, seed_, Purpose::replay_order, experience_);
    const size_t steps = std::max<size_t>(settings_.epochs * ceil_div(live, live_batch), settings_.min_steps);
    for (size_t step = 0; step < steps; ++step) {
      if (step % kTrainReport == 0) report(Phase::train, step, steps);
      std::fill(gradient.begin(), gradient.end(), 0);
      const size_t live_rows = live_order.left() == 0 ? live_batch : std::min(live_batch, live_order.left());
      const size_t rows = live_rows + replay_batch;
      for (size_t b = 0; b < rows; ++b) {
        const bool is_live = b < live_rows;
        const uint32_t row = is_live ? live_order.next() : replay_order.next();
        const auto label = static_cast<uint32_t>(is_live ? labels[row] : replay_labels[row]);
        const int8_t* x = (is_live ? live_features.data() : replay_features.data()) + row * width;
        logits({x, width}, {weight.data(), weight.size()}, trained, network.feature_bits(), p);
        for (size_t i = 0; i < active_count; ++i) p[i] += prior[trained[i]];
        softmax(p, settings_.ghosts);
        for (size_t i = 0; i < active_count; ++i) {
          const int64_t g = std::min<int64_t>(p[i] - (trained[i] == label ? kProbabilityOne : 0), INT16_MAX);
          if (g == 0) continue;
          int64_t* sum = gradient.data() + trained[i] * width;
          for (size_t j = 0; j < width; ++j) sum[j] += static_cast<int32_t>(g) * x[j];
        }
      }
      const int64_t rate = (settings_.learning_rate << (12 - network.feature_bits())) * static_cast<int64_t>(steps - step) /
                           static_cast<int64_t>(steps * rows);
      descend({weight.data(), weight.size()}, {gradient.data(), gradient.size()}, rate);
    }
    report(Phase::train, steps, steps);
  }
  consolidate({head_.weight.data(), head_.weight.size()}, {weight.data(), weight.size()}, {past.data(), past.size()},
              {current.data(), current.size()}, static_cast<int>(width));
  Replay::Plan plan = replay_.plan(labels, classes, seed_, experience_);

  head_.weight.swap(weight);
  head_.past_count.swap(past);
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
  Buffer<uint32_t> all(classes());
  Buffer<int64_t> scores(classes());
  for (size_t c = 0; c < all.size(); ++c) all[c] = static_cast<uint32_t>(c);
  for (size_t row = 0; row < best.size(); ++row) {
    logits({rows.data() + row * width, width}, {head_.weight.data(), head_.weight.size()}, {all.data(), all.size()},
           network_->feature_bits(), {scores.data(), scores.size()});
    best[row] = static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
    softmax({scores.data(), scores.size()}, 0);
    for (size_t c = 0; c < scores.size(); ++c) probabilities[row * scores.size() + c] = static_cast<int32_t>(scores[c]);
  }
}

void Learner::restore(std::span<const int32_t> weight, std::span<const uint32_t> past_count, std::span<const uint64_t> rows,
                      std::span<const uint16_t> labels, std::span<const uint64_t> seen, uint64_t experience) {
  head_.weight.assign(weight.begin(), weight.end());
  head_.past_count.assign(past_count.begin(), past_count.end());
  replay_.restore(rows, labels, seen);
  experience_ = experience;
}

}  // namespace bitreplay
