// How a lesson trains (docs/method.md, 6 and 7.6): minibatches of live and other rows, the head's steps, the tail's.
// Works on copies that the learner makes; knows nothing of what becomes of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "function_ref.h"
#include "memory.h"
#include "tail.h"

namespace bitreplay {

// What names rows without training the network: sums of their features, or the papers' trained head.
enum class HeadKind : uint8_t { lda, cwr };

// How a lesson is learned; see docs/method.md for each.
struct Settings {
  HeadKind head = HeadKind::lda;
  int views = 1;
  int lda_features = 0;      // of the network's features, how many the sums are of; 0: all
  bool class_priors = false;
  int lda_width(int features) const { return lda_features == 0 ? features : lda_features; }
  int64_t shrinkage = 0, pseudo_pictures = 0;  // 8 fraction bits
  int64_t near_equal = 0;                      // share of a row's bits, 16 fraction bits
  int64_t held_back = 0;                       // share of the rows, 8 fraction bits
  int64_t learning_rate = 0;                   // 16 fraction bits
  int epochs = 0, live_batch = 0, replay_batch = 0, ghosts = 0;
  bool prior = true;
  int tail_epochs = 0, tail_passes = 0, tail_replay_batch = 0;
  int tail_prior = 0;  // 8 fraction bits
  int tail_noise = 0;  // of 256
  bool tail_mirror = false, tail_distillation = false;
};

// Told how far training is: done of total steps; throws to give up.
using StepReport = FunctionRef<void(size_t done, size_t total)>;

// The latent row of a number.
using RowSource = FunctionRef<const uint64_t*(size_t row)>;

// The rows of a lesson, and what is known of their classes.  Without live rows it is a rehearsal of the stored ones (8.2).
struct Lesson {
  std::span<const int32_t> live_labels;
  std::span<const uint16_t> stored_labels;
  size_t classes = 0, width = 0;
  int feature_bits = 0, gradient_bits = 16;
  uint64_t seed = 0, experience = 0;
};

// Trains `weight` (classes, width) on the features of the lesson's rows: cw on entry, tw on return.
void train_head(const Lesson& lesson, const Settings& settings, std::span<const int8_t> live, std::span<const int8_t> stored,
                std::span<int32_t> weight, StepReport report);

// Trains `tail`, on entry a copy of `before`, and `weight` together on the latent rows of the lesson, live(i) and stored(i).
void train_tail(const Lesson& lesson, const Settings& settings, const Network& network, const Tail& before, Tail& tail,
                RowSource live, RowSource stored, std::span<int32_t> weight, Workers& workers, StepReport report);

// Bytes that these allocate at their highest.
int64_t train_head_bytes(size_t live, size_t stored, size_t classes, size_t width, const Settings& settings);
int64_t train_tail_bytes(const Network& network, const Tail& tail, size_t live, size_t stored, size_t classes, const Settings& settings,
                         int threads);

}  // namespace bitreplay
