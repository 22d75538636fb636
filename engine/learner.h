// Owns head and replay memory around a frozen network, and the order of steps of a lesson (docs/method.md, 4 and 5).
// A lesson is a transaction: everything is computed beside the state, then taken over by steps that cannot fail.
// Knows no names of classes, no files, no clock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "error.h"
#include "function_ref.h"
#include "head.h"
#include "lesson.h"
#include "network.h"
#include "replay.h"
#include "tail.h"

namespace bitreplay {

enum class Phase { latents, head, tail };

// Told how far a lesson is; returns false to give it up.
using Progress = FunctionRef<bool(Phase phase, uint64_t done, uint64_t total)>;

// Classes of constant logit 0 that stand for all that is not known, where certainty is asked for (docs/method.md, 4.5).
inline constexpr int kUnknownGhosts = 64;

// What is said of each row.
struct Answers {
  std::span<int32_t> best;           // the class
  std::span<int32_t> certainty;      // that it is a known class at all, 15 fraction bits: how sure the frozen branch is
  std::span<int32_t> probabilities;  // (rows, classes) with 15 fraction bits, or empty
};

class Learner {
 public:
  // network: outlives the learner.  tail_sources: shadow weights of the blocks to train (tail.h).  Throws std::invalid_argument.
  Learner(const Network& network, size_t capacity, uint64_t seed, const Settings& settings, const TailSettings& tail,
          std::span<const TailSource> tail_sources);

  const Network& network() const { return network_; }
  const Head& head() const { return head_; }
  const Replay& replay() const { return replay_; }
  // The trained branch: its blocks, and its head (classes, feature_count); empty where no block is trained.
  const Tail& tail() const { return tail_; }
  std::span<const int32_t> tail_weight() const { return {tail_weight_.data(), tail_weight_.size()}; }
  // How many binary weights the last lesson turned over.
  int64_t flipped() const { return flipped_; }
  // Sum of the features of every row ever taught, (classes, feature_count); replay().seen() counts the rows.
  std::span<const int64_t> feature_sums() const { return {sums_.data(), sums_.size()}; }
  static constexpr uint64_t kMostLessons = UINT32_MAX;  // and rows of a class: what files and random numbers hold
  size_t classes() const { return head_.past_count.size(); }
  uint64_t experience() const { return experience_; }

  // Learns `labels.size()` images; labels below `classes`, which is at least classes() (new classes follow the known ones).
  // Throws Cancelled, or std::bad_alloc; then nothing has changed.
  void learn(std::span<const uint8_t> images, std::span<const int32_t> labels, size_t classes, int threads, const Progress& progress);

  // Trains the head, and the tail, on the stored rows alone (docs/method.md, 8.2); as `learn` otherwise.
  void rehearse(int threads, const Progress& progress);

  // features: (rows, feature_count) of images.
  void features(std::span<const uint8_t> images, std::span<int8_t> features, int threads) const;
  // mirrored: from each image and its mirror image.
  void predict(std::span<const uint8_t> images, bool mirrored, const Answers& answers, int threads) const;
  // The same of the rows in the replay memory, in slot order.
  void recall(const Answers& answers, int threads) const;
  // What that allocates at its highest.
  int64_t predict_bytes(size_t rows, bool mirrored, int threads) const;
  // The same with so many classes, and a trained branch or not.
  int64_t predict_bytes_at(size_t rows, bool mirrored, int threads, size_t classes, bool has_branch) const;

  // Makes room for so many classes at once: as long as there are no more, lessons keep nothing that they allocate.
  void reserve(size_t classes);

  // Takes over the content of a state file; the caller has checked the sizes.
  void restore(std::span<const int32_t> weight, std::span<const uint32_t> past_count, std::span<const int64_t> sums,
               std::span<const uint64_t> rows, std::span<const uint16_t> labels, std::span<const uint64_t> seen,
               std::span<const int32_t> tail_weight, uint64_t experience);
  Tail& tail() { return tail_; }

  // What is kept between lessons, without the network.
  int64_t state_bytes() const {
    return bytes_of(head_.weight) + bytes_of(head_.past_count) + bytes_of(sums_) + replay_.bytes() + tail_.bytes() +
           bytes_of(tail_weight_);
  }
  // What a lesson needs on top of that at its highest, for `live` images and `classes` classes afterwards.
  int64_t lesson_bytes(size_t capacity, size_t replay_rows, size_t live, size_t classes, int threads) const;

 private:
  // features of the frozen network, and, unless empty, those of the trained branch; of the mirrored images where `mirrored`.
  void see(std::span<const uint8_t> images, bool mirrored, std::span<int8_t> features, std::span<int8_t> trained, int threads) const;

  // From features, one view behind the other, to answers; trained: those of the trained branch, or empty.
  void judge(std::span<const int8_t> rows, std::span<const int8_t> trained, bool mirrored, const Answers& answers) const;

  const Network& network_;
  Settings settings_;
  uint64_t seed_;
  uint64_t experience_ = 0;
  Head head_;
  Buffer<int64_t> sums_;
  Replay replay_;
  Tail tail_;
  Buffer<int32_t> tail_weight_;
  int64_t flipped_ = 0;
};

}  // namespace bitreplay
