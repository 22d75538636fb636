// What a lesson makes, beside what is known; taken over when all of it is there.
#pragma once

#include "learner.h"

namespace bitreplay {

struct Learner::Fresh {
  Statistics statistics;
  LinearClassifier classifier;
  Buffer<int32_t> weight;
  Buffer<uint32_t> past;
  Tail tail;
  Buffer<int32_t> tail_weight;
  LinearClassifier without;  // without the lesson's rows that the trained branch is judged by; empty where there is none
  Mixing mixing;
  int32_t worse = -1;
};

// What a row is to the trained branch: one it learns from, one it is judged by, or none (it stands for a picture that counts already).
enum Role : uint8_t { kIdle, kTrained, kHeld };

}  // namespace bitreplay
