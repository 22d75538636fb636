#include "learner.h"

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "fixed_point.h"
#include "head_kernels.h"
#include "random.h"

namespace bitreplay {
namespace {

constexpr size_t kRowsPerRound = 32;  // a thread's share between two calls of the progress function

size_t workers_for(size_t rows, int threads) { return std::max<size_t>(1, std::min<size_t>(static_cast<size_t>(threads), rows)); }


// Runs job(row, scratch) for every row, in rounds; before each round `report(done)` may give up by throwing.
// A row's result depends on the row alone, so neither threads nor rounds can be seen in it.
template <class Job, class Report>
void for_rows(const Network& network, size_t rows, int threads, const Job& job, const Report& report) {
  const size_t workers = workers_for(rows, threads);
  std::vector<Scratch> scratch;
  scratch.reserve(workers);
  for (size_t i = 0; i < workers; ++i) scratch.push_back(network.make_scratch());
  for (size_t begin = 0; begin < rows;) {
    report(begin);
    const size_t end = std::min(rows, begin + workers * kRowsPerRound);
    const auto share = [&](size_t worker) {
      for (size_t row = begin + worker; row < end; row += workers) job(row, worker, scratch[worker]);
    };
    std::vector<std::jthread> pool;
    for (size_t i = 1; i < workers; ++i) pool.emplace_back(share, i);
    share(0);
    pool.clear();
    begin = end;
  }
  report(rows);
}

}  // namespace

Learner::Learner(std::shared_ptr<const Network> network, size_t capacity, uint64_t seed, const Settings& settings,
                 const TailSettings& tail, std::span<const TailSource> tail_sources)
    : network_(std::move(network)),
      settings_(settings),
      seed_(seed),
      replay_(capacity, network_->latent_words()),
      tail_(*network_, tail, tail_sources) {
  if (tail.blocks == 0) return;
  if (capacity == 0) throw std::invalid_argument("train_blocks: expected 0 where the replay memory holds no row: a tail is trained on replayed rows");
  const Shape shape = network_->cut_shape();
  const int64_t rows = int64_t{settings.live_batch} + settings.tail_replay_batch;
  if (rows * shape.pixels() >= int64_t{1} << (32 - tail.gradient_bits)) {
    throw std::invalid_argument("tail_replay_batch: too many rows a step for 32-bit sums of gradients; lower it, live_batch or gradient_bits");
  }
}

int64_t Learner::lesson_bytes(size_t capacity, size_t replay_rows, size_t live, size_t classes, int threads) const {
  const Network& network = *network_;
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
  const int64_t tail = trains_tail && replay_rows > 0 ? train_tail_bytes(network, tail_, live, replay_rows, classes, settings_, threads) : 0;
  const int64_t highest = std::max({forward, head, tail, Replay::planning_bytes(capacity, live, classes)});
  return static_cast<int64_t>(kept) + tail_.bytes() + highest;
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
    if (stored > 0) {
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
  head_.weight.swap(weight);
  head_.past_count.swap(past);
  sums_.swap(sums);
  std::swap(tail_, tail);
  tail_weight_.swap(tail_weight);
  replay_.commit(std::move(plan), latents.data());
  ++experience_;
}

void Learner::rehearse(int threads, const Progress& progress) {
  if (replay_.size() > 0) learn({}, {}, classes(), threads, progress);
}

void Learner::features(std::span<const uint8_t> images, std::span<int8_t> features, int threads) const {
  see(images, false, features, {}, threads);
}

namespace {

void mirror(const uint8_t* image, size_t side, uint8_t* out) {
  for (size_t y = 0; y < side; ++y) {
    for (size_t x = 0; x < side; ++x) std::copy_n(image + 3 * (y * side + x), 3, out + 3 * (y * side + side - 1 - x));
  }
}

}  // namespace

void Learner::see(std::span<const uint8_t> images, bool mirrored, std::span<int8_t> features, std::span<int8_t> trained,
                  int threads) const {
  const size_t width = static_cast<size_t>(network_->feature_count());
  const size_t bytes = network_->image_bytes();
  const size_t rows = images.size() / bytes;
  Buffer<uint64_t> latents(rows * network_->latent_words());
  Buffer<uint8_t> turned(mirrored ? workers_for(rows, threads) * bytes : 0);
  for_rows(
      *network_, rows, threads,
      [&](size_t row, size_t worker, Scratch& scratch) {
        uint64_t* latent = latents.data() + row * network_->latent_words();
        const uint8_t* image = images.data() + row * bytes;
        if (mirrored) {
          mirror(image, static_cast<size_t>(network_->image_size()), turned.data() + worker * bytes);
          image = turned.data() + worker * bytes;
        }
        network_->latent(image, latent, scratch);
        network_->features(latent, features.data() + row * width, scratch);
        if (!trained.empty()) tail_.features(*network_, latent, trained.data() + row * width, scratch);
      },
      [](size_t) {});
}

int64_t Learner::predict_bytes(size_t rows, bool mirrored, int threads) const {
  const size_t width = static_cast<size_t>(network_->feature_count());
  const size_t branches = tail_weight_.empty() ? 1 : 2, views = mirrored ? 2 : 1;
  const size_t each = static_cast<size_t>(network_->scratch_bytes()) + (mirrored ? network_->image_bytes() : 0);
  const size_t seeing = rows * network_->latent_words() * sizeof(uint64_t) + workers_for(rows, threads) * each;
  const size_t scoring = classes() * (branches * width * sizeof(int16_t) + (branches * views > 1 ? 3 : 2) * sizeof(int64_t));
  return static_cast<int64_t>(views * branches * rows * width + std::max(seeing, scoring));
}

void Learner::predict(std::span<const uint8_t> images, bool mirrored, std::span<int32_t> probabilities, std::span<int32_t> best,
                      int threads) const {
  const size_t width = static_cast<size_t>(network_->feature_count());
  const bool has_branch = !tail_weight_.empty();
  const size_t views = mirrored ? 2 : 1;
  const size_t size = best.size() * width;
  Buffer<int8_t> rows(views * size), trained(has_branch ? views * size : 0);
  const auto view_of = [&](Buffer<int8_t>& features, size_t view) {
    return features.empty() ? std::span<int8_t>() : std::span(features.data() + view * size, size);
  };
  for (size_t view = 0; view < views; ++view) see(images, view == 1, view_of(rows, view), view_of(trained, view), threads);
  const int shift = int{has_branch} + int{mirrored};  // log2 of the logits that are averaged
  Buffer<int16_t> forward(head_.weight.size()), tail_forward(tail_weight_.size());
  Buffer<int64_t> scores(classes()), more(shift > 0 ? classes() : 0);
  const Buffer<int64_t> prior(classes(), 0);
  std::transform(head_.weight.begin(), head_.weight.end(), forward.begin(), forward_weight);
  std::transform(tail_weight_.begin(), tail_weight_.end(), tail_forward.begin(), forward_weight);
  const HeadBatch one{1, static_cast<int>(width), static_cast<int>(classes())};
  const auto add = [&](const Buffer<int8_t>& features, size_t row, const Buffer<int16_t>& weight) {
    head_logits(one, features.data() + row * width, weight.data(), network_->feature_bits(), more.data());
    for (size_t c = 0; c < scores.size(); ++c) scores[c] += more[c];
  };
  for (size_t row = 0; row < best.size(); ++row) {
    head_logits(one, rows.data() + row * width, forward.data(), network_->feature_bits(), scores.data());
    if (has_branch) add(trained, row, tail_forward);
    if (mirrored) add(rows, best.size() + row, forward);
    if (mirrored && has_branch) add(trained, best.size() + row, tail_forward);
    for (int64_t& score : scores) score = round_shift(score, shift);
    best[row] = static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
    head_softmax(one, scores.data(), prior.data(), 0);
    for (size_t c = 0; c < scores.size(); ++c) probabilities[row * scores.size() + c] = static_cast<int32_t>(scores[c]);
  }
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
