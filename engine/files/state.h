// A state file (docs/formats.md, State): read into a learner, and written from one.
#pragma once

#include <optional>

#include "learn/learner.h"
#include "file.h"
#include "model.h"
#include "names.h"
#include "settings.h"

namespace bitreplay {

// What a handle of the C API is.
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

// The metadata of a state that are needed before all else.
struct StateHead {
  explicit StateHead(const File& file);

  Settings settings;
  Json names;
  size_t classes = 0, name_bytes = 0;
  uint64_t experience = 0;
  bool wide_moment = false;  // of LDA: 64 bits
};

// Adds what a learner with these settings keeps beside its network.
void measure_learner(const StateHead& head, const NetworkSize& network, Room& room);

// Makes the learner on the network, with room for max_classes, and fills it from the state, whose values are all checked.
void read_state(File& file, const StateHead& head, std::span<const TailSource> sources, DeviceLearner& to);

// The state file; writes at most `size` bytes of it and returns how many it has.  A buffer that is large enough gets its digest.
size_t write_state(const DeviceLearner& from, uint8_t* buffer, size_t size);

}  // namespace bitreplay
