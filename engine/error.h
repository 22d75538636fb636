// The one way out of the core when something does not fit.  In the normal build `fail` throws; in the device build (BITREPLAY_DEVICE),
// which has no exceptions, it leaves through the C API's boundary, see c_api/boundary.cpp.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#ifndef BITREPLAY_DEVICE
#include <stdexcept>
#endif

namespace bitreplay {

enum class Error {
  argument,     // std::invalid_argument: shapes, ranges, settings
  environment,  // std::runtime_error: an instruction set that is not there
  cancelled,    // Cancelled
  memory,       // std::bad_alloc; in the device build: what the caller gave is too small
  format,       // FileFault: a file is not sound
  damaged,      // FileFault: nor is it what was written
  classes,      // std::invalid_argument: more classes or longer names than there is room for
  unsupported,  // of the device build alone: a sound file that asks for what it has not
};

#ifndef BITREPLAY_DEVICE
struct FileFault : std::runtime_error {
  FileFault(const char* text, bool is_damaged) : runtime_error(text), damaged(is_damaged) {}
  bool damaged;  // cut short, or changed since it was written
};
#endif

struct Cancelled : std::exception {
  const char* what() const noexcept override { return "the lesson was given up; nothing has changed"; }
};

// What stands for a `{}` of a message: a text or a number.
struct MessagePart {
  const char* text = nullptr;
  int64_t number = 0;
  MessagePart(const char* value) : text(value) {}
  template <std::integral T>
  MessagePart(T value) : number(static_cast<int64_t>(value)) {}
};

// Writes at most `size` bytes, the final 0 among them; returns how many there would be with room for all.
size_t format_message(char* out, size_t size, const char* format, std::initializer_list<MessagePart> parts);

[[noreturn]] void fail(Error error, const char* format, std::initializer_list<MessagePart> parts = {});

inline void require(bool condition, const char* format, std::initializer_list<MessagePart> parts = {}) {
  if (!condition) [[unlikely]] fail(Error::argument, format, parts);
}

}  // namespace bitreplay
