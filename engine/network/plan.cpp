#include "plan.h"

#include <algorithm>

namespace bitreplay {
namespace {

bool meet(const Piece& a, const Piece& b) { return a.size > 0 && b.size > 0 && a.first <= b.last && b.first <= a.last; }

bool overlap(const Piece& a, const Piece& b) { return a.place < b.place + b.size && b.place < a.place + a.size; }

// What is needed at the busiest moment: no plan takes less.
int64_t least(std::span<const Piece> pieces) {
  int64_t most = 0;
  for (const Piece& at : pieces) {  // a moment that is the busiest is one at which a piece begins
    int64_t sum = 0;
    for (const Piece& other : pieces) {
      if (other.first <= at.first && at.first <= other.last) sum += other.size;
    }
    most = std::max(most, sum);
  }
  return most;
}

// Whether piece i fits where it is, among those before it.
bool fits(std::span<const Piece> pieces, size_t i) {
  return std::ranges::none_of(pieces.first(i), [&](const Piece& other) { return meet(other, pieces[i]) && overlap(other, pieces[i]); });
}

}  // namespace

int64_t place(std::span<Piece> pieces) {
  const int64_t total = least(pieces);
  int64_t end = total;
  for (size_t i = 0; i < pieces.size(); ++i) {
    Piece& piece = pieces[i];
    // At the other end than what it is made from, then wherever the first gap is: at the beginning or behind a piece.
    const bool high = piece.beside >= 0 && pieces[static_cast<size_t>(piece.beside)].place == 0;
    piece.place = high ? std::max<int64_t>(total - piece.size, 0) : 0;
    if (fits(pieces, i)) continue;
    int64_t found = -1;
    for (size_t j = 0; j <= i; ++j) {
      piece.place = j < i ? pieces[j].place + pieces[j].size : 0;
      if ((found < 0 || piece.place < found) && fits(pieces, i)) found = piece.place;
    }
    piece.place = found;
    end = std::max(end, found + piece.size);
  }
  return end;
}

}  // namespace bitreplay
