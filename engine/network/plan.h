// Where the streams of a graph lie in one piece of memory (docs/method.md, 3.11).  Knows sizes and lifetimes; nothing of operations.
#pragma once

#include <cstdint>
#include <span>

namespace bitreplay {

// A stretch of memory that is needed from one moment to another, both included.
struct Piece {
  int64_t size = 0;
  int first = 0, last = 0;
  int beside = -1;    // the piece at whose other end this one should lie
  int64_t place = 0;  // found
};

// Sets the places, each a multiple of the sizes' unit, so that pieces which are needed at the same time do not overlap.  Returns how much memory
// they take together: of a chain, where each piece meets the one before and the one behind it, the largest such pair.
int64_t place(std::span<Piece> pieces);

}  // namespace bitreplay
