// How a lesson trains (docs/method.md, 6 and 7.6): minibatches of live and other rows, the head's steps, the tail's.
// Works on copies that the learner makes; knows nothing of what becomes of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "function_ref.h"
#include "memory.h"
#include "settings.h"
#include "tail.h"

namespace bitreplay {

// Told how far training is: done of total steps; throws to give up.
using StepReport = FunctionRef<void(size_t done, size_t total)>;

// The latent row of a number.
using RowSource = FunctionRef<const uint64_t*(size_t row)>;

// The rows of a lesson, and what is known of their classes.  Without live rows it is a rehearsal of the stored ones (8.2).
struct Lesson {
  std::span<const int32_t> live_labels;
  std::span<const uint16_t> stored_labels;
  size_t classes = 0, width = 0;
  int feature_bits = 0;
  uint64_t seed = 0, experience = 0;
};

// Trains `weight` (classes, width) on the features of the lesson's rows: cw on entry, tw on return.
void train_head(const Lesson& lesson, const Settings& settings, std::span<const int8_t> live, std::span<const int8_t> stored,
                std::span<int32_t> weight, StepReport report);

// Trains `tail`, on entry a copy of `before`, and `weight` together on the latent rows of the lesson, live(i) and stored(i).
void train_tail(const Lesson& lesson, const Settings& settings, const Network& network, const Tail& before, Tail& tail,
                RowSource live, RowSource stored, std::span<int32_t> weight, Workers& workers, StepReport report);

}  // namespace bitreplay
