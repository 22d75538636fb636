#include "footprint.h"

#include <algorithm>

#include "kernels/head_kernels.h"
#include "mixing.h"
#include "near_equal.h"
#include "replay.h"
#include "rows.h"

namespace bitreplay {
namespace {

int64_t triangle_of(int64_t width) { return width * (width + 1) / 2; }

// LinearClassifier.
int64_t classifier(int64_t classes, int64_t width) { return classes * (2 * width + 8); }

// `solve`, its result included: the matrix and the means, then either what these are made from or blocks of right sides.
int64_t solving(int64_t classes, int64_t width) {
  return 8 * (triangle_of(width) + width) + std::max(8 * width + 4 * classes, 16 * width * kBlock) + classifier(classes, width);
}

// LeaveOneOut, at its highest: while the inverse is made.
int64_t leaving_one_out(int64_t classes, int64_t width) {
  return 8 * (2 * triangle_of(width) + width * width + width * kBlock + 4 * width + classes * (width + 4)) + 4 * classes;
}

}  // namespace

int64_t Footprint::head(int64_t classes) const {
  int64_t total = 0;
  each_head_buffer(settings_, features_, wide_, classes, [&](int64_t count, int64_t bytes) { total += count * bytes; });
  return total;
}

int64_t Footprint::tail(int64_t classes) const { return tail_.bytes(layout_) + (tail_.blocks().empty() ? 0 : 4 * classes * features_); }

int64_t Footprint::replay(int64_t capacity, int64_t classes) const {
  int64_t total = 0;
  each_replay_buffer(settings_, features_, static_cast<int64_t>(network_.latent_words()), capacity, classes,
                     [&](int64_t count, int64_t bytes) { total += count * bytes; });
  return total;
}

// `for_rows`, with so many bytes for each row that is looked at at the same time.
int64_t Footprint::looking(int64_t rows, int threads, int64_t each) const {
  const RowShares shares(static_cast<size_t>(rows), threads);
  const auto at_once = static_cast<int64_t>(shares.at_once);
  // What is shared inside a row comes after the rest, in less memory.
  return at_once * (each + (shares.spread > 0 ? network_.scratch_bytes() : network_.scratch_bytes(shares.inside)));
}

// An Eye: a view, a latent row, features and their sums.
int64_t Footprint::eye(int views) const {
  return static_cast<int64_t>((views > 1 ? network_.image_bytes() : 0) + 8 * network_.latent_words()) + 9 * features_;
}

// HeadTrainer for minibatches of so many rows, the minibatch, and the orders of the lesson's rows.
int64_t Footprint::head_training(int64_t rows, int64_t live, int64_t stored, int64_t classes) const {
  const HeadBatch batch{static_cast<int>(rows), static_cast<int>(features_), static_cast<int>(classes)};
  return classes * (5 * 4 + 8) + 4 * rows + 6 * classes * features_ + 10 * rows * classes + head_scratch(batch) + rows * (features_ + 4) +
         4 * (live + stored);
}

int64_t Footprint::tail_training(const Occasion& at) const {
  const int64_t rows = std::min<int64_t>(settings_.live_batch, at.live) + std::min<int64_t>(settings_.tail_replay_batch, at.stored);
  const int64_t distillation = rows * features_ + 2 * at.classes * features_ + 8 * (2 * rows + 1) * at.classes;
  const int64_t latents = rows * static_cast<int64_t>(sizeof(uint64_t*) + 8 * network_.latent_words());
  return head_training(rows, at.live, at.stored, at.classes) + (settings_.tail_distillation ? distillation : 0) + latents +
         TailTrainer::bytes(network_, tail_, static_cast<int>(rows), at.threads, layout_);
}

// `choose_mixing_for`: rows that are held back, with their logits in both branches.
int64_t Footprint::mixing(const Occasion& at) const {
  const int64_t rows = std::min(at.stored + at.live, static_cast<int64_t>(kMostHeld) * at.classes);
  const int64_t kept = rows * (16 * at.classes + 2 * features_ + 8) + at.classes * (2 * features_ + 8 + 1);
  return kept + leaving_one_out(at.classes, known()) + std::max(looking(rows, at.threads, 0), 24 * rows + 48 * at.classes);
}

// One after the other: the rows are looked at, it is found which count and what they are to a tail, everything is learned beside the state.
int64_t Footprint::lesson(const Occasion& at) const {
  const int64_t row_bytes = 8 * (static_cast<int64_t>(network_.latent_words()) + settings_.further_words(static_cast<int>(features_)));
  const int64_t entry = static_cast<int64_t>(kEntryBytes), seen = at.live + (lda() ? 0 : at.stored);
  const bool has_tail = !tail_.blocks().empty(), trains = kTrainsTail && has_tail && at.stored > 0;
  const int64_t looking = this->looking(seen, at.threads, eye(settings_.views));
  const int64_t counting = at.live * (1 + (settings_.near_equal == 0 ? 0 : entry));
  const int64_t sorting = has_tail && lda() && settings_.held_back > 0 ? at.stored + at.live * entry + 4 * at.classes : 0;

  const int64_t without = has_tail && lda() ? classifier(at.classes, known()) : 0;
  const int64_t fresh = head(at.classes) + tail(at.classes) + without;
  const int64_t head_rows = int64_t{settings_.live_batch} + settings_.replay_batch;
  const int64_t training = lda() ? solving(at.classes, known()) - classifier(at.classes, known())
                                 : head_training(head_rows, at.live, at.stored, at.classes) + 4 * at.classes;
  const int64_t chosen = has_tail ? 8 * at.live + 6 * at.stored : 0;  // rows that the tail learns from
  const int64_t branch = chosen + std::max(trains ? tail_training(at) : 0, trains && lda() ? mixing(at) : 0);
  const int64_t write = static_cast<int64_t>(sizeof(Replay::Write));
  const int64_t planning =
      8 * at.classes + (at.capacity == 0 ? 0 : (write + 1) * at.capacity + entry * (at.stored + at.live + at.classes) + 16 * at.classes);

  const int64_t roles = has_tail ? at.live : 0;
  const int64_t learning = at.live + roles + std::max(sorting, fresh + std::max({training, branch, planning}));
  return at.live * row_bytes + seen * features_ + std::max({looking, counting, learning});
}

int64_t Footprint::prediction(int64_t images, int views, int threads, int64_t classes) const {
  const int branch = !tail_.blocks().empty() && classes > 0 ? 1 : 0, copies = (lda() ? 0 : 1) + branch;  // of weights with 16 bits
  return (1 + branch) * images * features_ + std::max(looking(images, threads, eye(views)), classes * (2 * copies * features_ + 4 * 8));
}

int64_t Footprint::opening(const Settings& settings, int64_t features, int64_t classes) {
  return settings.head == HeadKind::lda && classes > 0 ? solving(classes, settings.lda_width(static_cast<int>(features))) : 0;
}

int64_t Footprint::unknown(int64_t rows) const { return 2 * known() * known() + 8 * known() + 16 * rows; }

int64_t Footprint::making_unknown(int64_t rows, int64_t classes) const {
  const int64_t d = known(), working = 8 * (triangle_of(d) + 2 * d * d + d * kBlock + 5 * d + classes) + 4 * classes + 16 * rows;
  return leaving_one_out(classes, d) + unknown(rows) + working + rows * features_ + network_.scratch_bytes();
}

}  // namespace bitreplay
