// The one way out of the core when something does not fit.  In the normal build `fail` throws; in the device build (BITREPLAY_DEVICE),
// which has no exceptions, it leaves through the C API's boundary, see device/boundary.cpp.
#pragma once

#include <concepts>
#include <cstdint>
#include <exception>
#include <initializer_list>

namespace bitreplay {

enum class Error {
  argument,     // std::invalid_argument: shapes, ranges, settings
  environment,  // std::runtime_error: an instruction set that is not there
  cancelled,    // Cancelled
  memory,       // std::bad_alloc; in the device build: what the caller gave is too small
  // Of the device build alone:
  format,       // a file is not sound
  classes,      // more classes or names than there is room for
  unsupported,  // a sound file that asks for what the device build has not
};

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

// Writes at most `size` bytes, the final 0 among them.
void format_message(char* out, int size, const char* format, std::initializer_list<MessagePart> parts);

[[noreturn]] void fail(Error error, const char* format, std::initializer_list<MessagePart> parts = {});

inline void require(bool condition, const char* format, std::initializer_list<MessagePart> parts = {}) {
  if (!condition) [[unlikely]] fail(Error::argument, format, parts);
}

}  // namespace bitreplay
