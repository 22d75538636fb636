// The settings of a state as JSON (docs/formats.md): an object of whole numbers (fractions in their units), flags and the name of the head.
#pragma once

#include "file.h"
#include "learn/settings.h"

namespace bitreplay {

// Leaves by `fail` where one is missing, unknown or out of range.
Settings read_settings(const File& file);

// The text of a value; scratch: 24 bytes.
const char* setting_text(SettingKind kind, uint64_t value, char* scratch);

}  // namespace bitreplay
