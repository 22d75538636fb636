#include "boundary.h"

#include <new>

namespace bitreplay {

Boundary g_boundary;

void fail(Error error, const char* format, std::initializer_list<MessagePart> parts) {
  if (Arena::current == nullptr) __builtin_trap();  // no call of the C API is being made
  g_boundary.error = error;
  format_message(g_boundary.text, sizeof g_boundary.text, format, parts);
  longjmp(g_boundary.place, 1);
}

bitreplay_status leave() {
  Arena::current = nullptr;
  switch (g_boundary.error) {
    case Error::argument: return BITREPLAY_ARGUMENT;
    case Error::cancelled: return BITREPLAY_CANCELLED;
    case Error::memory: return BITREPLAY_NO_ROOM;
    case Error::format:
    case Error::damaged: return BITREPLAY_FORMAT;
    case Error::classes: return BITREPLAY_CLASSES;
    default: return BITREPLAY_UNSUPPORTED;
  }
}

}  // namespace bitreplay

// What the headers of libstdc++ call where a vector would grow beyond all bounds; the core's never do.  Defined so that it links without the
// C++ library.  A C++ program that links this library has it in place of its own.
namespace std {

[[noreturn]] __attribute__((weak, visibility("hidden"))) void __throw_length_error(const char*) {
  bitreplay::fail(bitreplay::Error::memory, "memory: too much is asked for");
}

}  // namespace std
