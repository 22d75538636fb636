// The settings of a state as JSON (docs/formats.md): an object of whole numbers (fractions in their units), flags and the name of the head.
#pragma once

#include "file.h"
#include "learn/settings.h"
#include "writer.h"

namespace bitreplay {

// Leaves by `fail` where one is missing, unknown or out of range.
Settings read_settings(const File& file);

// The same JSON, inside a string of a file's header.
void write_settings(const Settings& settings, Output& out);

}  // namespace bitreplay
