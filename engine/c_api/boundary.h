// Where `fail` leaves to in the device build, which has no exceptions: the entry of the C API that was called.
#pragma once

#include <setjmp.h>

#include "bitreplay.h"
#include "error.h"
#include "arena.h"

namespace bitreplay {

struct Boundary {
  jmp_buf place;
  Error error;
  char text[160];  // of the last failure
};
extern Boundary g_boundary;

bitreplay_status leave();  // after a failure: what the caller is told

// Runs f with that arena; OK, or the status of the failure it left by.
//
// A failure goes by longjmp over functions whose vectors are not destroyed then.  The standard leaves that undefined; what GCC and Clang do is
// skip the destructors.  Nothing is lost by that: the destructors of the core only give memory back to the arena, and the arena of a
// call that failed is dropped as a whole.  What f changes and the caller of `guarded` reads after a failure lies where its address is known to others, so no register keeps it.
template <class F>
bitreplay_status guarded(Arena& arena, const F& f) {
  if (Arena::current != nullptr) return BITREPLAY_ARGUMENT;  // from within another call: from its progress function
  Arena::current = &arena;
  g_boundary.text[0] = '\0';
  if (setjmp(g_boundary.place) != 0) return leave();
  f();
  Arena::current = nullptr;
  return BITREPLAY_OK;
}

}  // namespace bitreplay
