// Owns everything that is learned around a frozen network, and the order of steps of a lesson (docs/method.md).
// A lesson is a transaction: everything is computed beside the state, then taken over by steps that cannot fail.
// Knows no names of classes, no files, no clock.  Threads are the caller's (workers.h), one team for all calls; a lesson and its progress function may
// use the same one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "error.h"
#include "footprint.h"
#include "function_ref.h"
#include "head.h"
#include "lda.h"
#include "lesson.h"
#include "mixing.h"
#include "network/network.h"
#include "replay.h"
#include "tail.h"
#include "unknown.h"

namespace bitreplay {

enum class Phase { latents, head, tail };

// Told how far a lesson is; returns false to give it up.
using Progress = FunctionRef<bool(Phase phase, uint64_t done, uint64_t total)>;

// The pictures of a lesson, some at a time: `count` of them from the `first` on, where they stay until the next are asked for.
using Pictures = FunctionRef<const uint8_t*(size_t first, size_t count)>;

// What is said of each row.
struct Answers {
  std::span<int32_t> best;           // the class
  std::span<int32_t> probabilities;  // (rows, classes) with 15 fraction bits, or empty
  const Unknown* unknown = nullptr;  // what is known, or none; with it:
  std::span<int64_t> familiarity;    // how familiar the row looks, to be compared with the threshold of `unknown`
};

// What a state file holds, beside the values of the trained blocks.  Sizes fit; what does not belong to the kind of head is empty.
struct Content {
  uint64_t experience = 0;
  std::span<const uint64_t> rows;
  std::span<const uint16_t> labels;
  std::span<const uint64_t> seen;
  std::span<const int64_t> count;
  Integers sums, moment;
  int64_t saturated = 0;
  std::span<const int32_t> weight;
  std::span<const uint32_t> past_count;
  std::span<const int32_t> tail_weight;
  Mixing mixing;
};

class Learner {
 public:
  // network: outlives the learner.  tail_sources: shadow weights of the blocks to train (tail.h).  Throws std::invalid_argument.
  Learner(const Network& network, const Settings& settings, std::span<const TailSource> tail_sources);

  const Network& network() const { return network_; }
  const Settings& settings() const { return settings_; }
  const LinearClassifier& classifier() const { return classifier_; }
  // A row holds its latent, and, where there are several views, the means of their features behind it, as bytes.
  const Replay& replay() const { return replay_; }
  // How many features, from the first on, the sums are of.
  int lda_width() const { return settings_.lda_width(network_.feature_count()); }
  // The trained branch: its blocks, and its head (classes, feature_count); empty where no block is trained.
  const Tail& tail() const { return tail_; }
  std::span<const int32_t> tail_weight() const { return {tail_weight_.data(), tail_weight_.size()}; }
  // How many binary weights the last lesson turned over.
  int64_t flipped() const { return flipped_; }
  // How many of its pictures counted: others were near-equal to one of them.
  size_t counted() const { return counted_; }
  // The class for whose sake the branch is not heard since the last lesson, or -1.
  int32_t worse() const { return worse_; }
  static constexpr uint64_t kMostLessons = UINT32_MAX;  // and pictures of a class: what files and random numbers hold
  size_t classes() const { return replay_.seen().size(); }
  uint64_t experience() const { return experience_; }

  // Learns `labels.size()` images; labels below `classes`, which is at least classes() (new classes follow the known ones).
  // Throws Cancelled, or std::bad_alloc; then nothing has changed.
  void learn(std::span<const uint8_t> images, std::span<const int32_t> labels, size_t classes, Workers& workers, const Progress& progress);

  // The same of pictures that are asked for one batch, of so many at least one, after the other; so they need not be in memory together.
  void learn(Pictures pictures, size_t batch, std::span<const int32_t> labels, size_t classes, Workers& workers, const Progress& progress);

  // Trains the tail, or CWR*'s head, on the stored rows alone (docs/method.md, 8.2); as `learn` otherwise.
  void rehearse(Workers& workers, const Progress& progress);

  // features: (rows, feature_count) of images.
  void features(std::span<const uint8_t> images, std::span<int8_t> features, Workers& workers) const;
  // views: how many of each image are looked at (docs/method.md, 1.1): such as are_views allows.
  void predict(std::span<const uint8_t> images, int views, const Answers& answers, Workers& workers) const;
  // The class of each row in the replay memory, in slot order, said as if the row had not been learned from; -1 where that cannot be said: of the only
  // picture of its class, and, where the trained branch is heard, of rows that it was trained on.  With CWR* it is said of rows as they were learned.
  void classify_rows(std::span<int32_t> best, Workers& workers) const;
  // What tells pictures that show none of the known classes, from the sums and the stored rows; needs LDA and a class.
  Unknown unknown(Workers& workers) const;

  // Makes room for so many classes at once: as long as there are no more, lessons keep nothing that they allocate.
  void reserve(size_t classes);

  // What a state file holds of it.
  Content content() const;
  // Takes over the content of a state file; the caller has checked it.  `prepare` follows.
  void restore(const Content& content);
  // Makes the head from the sums.
  void prepare();
  Tail& tail() { return tail_; }

  // What it takes, in bytes.
  Footprint footprint(Layout layout = Layout::here) const { return {network_, settings_, tail_, has_lda() && statistics_.is_wide(), layout}; }

 private:
  struct Fresh;  // what a lesson makes

  bool has_lda() const { return settings_.head == HeadKind::lda; }
  LdaSettings lda_settings() const;
  static int64_t temperature(const Statistics& statistics);  // its inverse, 16 fraction bits
  // What is added to logits for the share of the pictures that each class has: 16 fraction bits, 0 where no share counts.
  Buffer<int64_t> class_priors() const;
  int64_t frozen_weight() const;                             // of the frozen branch, with that in it
  bool is_held_back(const uint64_t* row) const;
  // Features of a remembered row, as the sums hold them.
  void stored_features(size_t slot, int8_t* features, Scratch& scratch, Workers* inside) const;
  // What each live row is to the trained branch: a Role of fresh.h.
  Buffer<uint8_t> roles_of(std::span<const uint64_t> latents, std::span<const int32_t> labels, std::span<const uint8_t> counts, size_t classes) const;
  // What the trained branch learns of a lesson, and how it is mixed with the head afterwards.
  void learn_tail(const Lesson& lesson, std::span<const uint64_t> latents, std::span<const int8_t> features, std::span<const uint8_t> roles, Fresh& fresh,
                  Workers& workers, StepReport report) const;
  void choose_mixing_for(const Lesson& lesson, std::span<const uint64_t> latents, std::span<const int8_t> features, std::span<const uint8_t> roles,
                         Fresh& fresh, Workers& workers) const;
  Near near() const;  // which rows are near-equal

  // What one image shows.  Each may be null: its latent row as it is; the means over its views of the features of the frozen network and of the
  // trained branch.
  struct Sight {
    uint64_t* latent = nullptr;
    int8_t *features = nullptr, *trained = nullptr;
  };
  class Eye;  // looks at one image after the other

  // Features (rows, feature_count) of images, and of the trained branch where there is room for them.
  void look(std::span<const uint8_t> images, int views, std::span<int8_t> features, std::span<int8_t> trained, Workers& workers) const;

  // From features (rows, feature_count) to answers; trained: of the trained branch, or empty.
  void judge(std::span<const int8_t> rows, std::span<const int8_t> trained, const Answers& answers) const;

  const Network& network_;
  Settings settings_;
  uint64_t experience_ = 0;
  Statistics statistics_;        // LDA
  LinearClassifier classifier_;
  Head head_;                    // CWR*
  Replay replay_;
  Tail tail_;
  Buffer<int32_t> tail_weight_;
  Mixing mixing_;
  int64_t flipped_ = 0;
  size_t counted_ = 0;
  int32_t worse_ = -1;
};

}  // namespace bitreplay
