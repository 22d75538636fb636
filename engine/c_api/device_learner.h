// What a handle of the C API is: a learner with its network and names, all in the caller's memory; how much of it that takes, and how it is
// opened from files and written.
#pragma once

#include <optional>

#include "files/model.h"
#include "files/state.h"

namespace bitreplay {

inline constexpr size_t kMaxTrainedBlocks = 10;

struct DeviceLearner {
  DeviceLearner(int image_size, const Settings& chosen) : network(image_size), settings(chosen) {}

  Arena kept;
  mutable size_t work_used = 0;
  mutable int64_t work_counted = 0;
  Network network;
  Settings settings;
  Names names;
  std::optional<Learner> learner;
  std::span<const uint8_t> model;  // the file
  char model_digest[64];
  bool carries_model = false;
};

// Leaves by `fail` where a sound state asks for what this build has not.
void require_supported(const Settings& settings);

// Adds what a learner keeps beside its network; wide_moment: the sums of LDA have 64 bits.
void measure_learner(const StateHead& head, bool wide_moment, const NetworkSize& network, Room& room);

// Makes the learner on the network, with room for max_classes, and fills it from the state.
void read_state(File& file, const StateHead& head, std::span<const TailSource> sources, DeviceLearner& to);

// The state file; writes at most `size` bytes of it and returns how many it has.
size_t write_state(const DeviceLearner& from, uint8_t* buffer, size_t size);

}  // namespace bitreplay
