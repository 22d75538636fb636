#include "boundary.h"

#include <new>

namespace bitreplay {

Boundary g_boundary;

void fail(Error error, const char* format, std::initializer_list<MessagePart> parts) {
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
    case Error::format: return BITREPLAY_FORMAT;
    case Error::classes: return BITREPLAY_CLASSES;
    default: return BITREPLAY_UNSUPPORTED;
  }
}

}  // namespace bitreplay

// What the headers of libstdc++ call where a vector would grow beyond all bounds: here an arena that is too small.  Defined so that the
// core links without the C++ library; weak, for programs that have it.
namespace std {

#define BITREPLAY_LIBRARY_FAILURE(name) \
  [[noreturn]] __attribute__((weak, visibility("hidden"))) void name { bitreplay::fail(bitreplay::Error::memory, "memory: too much is asked for"); }

BITREPLAY_LIBRARY_FAILURE(__throw_length_error(const char*))
BITREPLAY_LIBRARY_FAILURE(__throw_bad_alloc())
BITREPLAY_LIBRARY_FAILURE(__throw_bad_array_new_length())
BITREPLAY_LIBRARY_FAILURE(__throw_out_of_range_fmt(const char*, ...))

}  // namespace std
