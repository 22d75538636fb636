// The settings of a state (docs/formats.md): read, checked against their ranges, handed to the core, written as Python writes them.
#pragma once

#include <cstdint>

#include "learn/lesson.h"
#include "learn/tail.h"
#include "json.h"

namespace bitreplay {

struct DeviceSettings {
  uint64_t capacity = 0, seed = 0, lesson_images = 0, max_classes = 0;  // lesson_images 0: any number
  Settings lesson;
  TailSettings tail;

  static constexpr int kCount = 32;
  uint64_t values[kCount];    // by place in the table of settings.cpp
  char numbers[kCount][28];  // the texts of those that may have a fraction

  // Leaves by `fail` where a value is missing, unknown or out of range.
  explicit DeviceSettings(const Json& object);

  static const char* name(int i);
  // The text of value i as JSON; scratch: 28 bytes.
  const char* text(int i, char* scratch) const;
};

}  // namespace bitreplay
