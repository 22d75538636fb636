// Jobs on rows, shared among a team of threads.  A row's result depends on the row alone, so nothing of that can be seen in it.
#pragma once

#include <algorithm>
#include <cstddef>

#include "memory.h"
#include "network/network.h"
#include "workers.h"

namespace bitreplay {

inline constexpr size_t kRowsPerRound = 32;  // a thread's share between two calls of the progress function

// Rows are spread over threads, a row each.  One row, or a rest that would leave threads idle, is looked at row by row, by all of them.
struct RowShares {
  static constexpr int kMostInside = 16;  // threads inside a row: the last maps of a network have few lines to share

  RowShares(size_t rows, [[maybe_unused]] int threads) {
#ifdef BITREPLAY_DEVICE
    threads = 1;
#endif
    const auto count = static_cast<size_t>(std::max(threads, 1));
    inside = static_cast<int>(std::min<size_t>(count, kMostInside));
    const size_t rest = rows % count;
    // Inside a row n threads are about 0.8 n times as fast as one: the rest is shared where that beats a thread for each of its rows.
    spread = inside > 1 && 5 * rest <= 4 * static_cast<size_t>(inside) ? rows - rest : rows;
    at_once = std::min(rows, spread > 0 ? std::min(spread, count) : size_t{1});
  }

  size_t spread;   // rows that are spread; the others are the last
  size_t at_once;  // rows that are looked at at the same time, at most
  int inside;      // threads that share one of the others
};

// Runs job(row, place, scratch, inside) for every row, in rounds; before each round `report(done)` may give up by throwing.  place: below
// RowShares::at_once, never used by two threads at the same time; inside: who shares this row, or null.
template <class Job, class Report>
void for_rows(const Network& network, size_t rows, Workers& workers, const Job& job, const Report& report) {
  const RowShares shares(rows, workers.count());
  if (shares.spread > 0) {
    List<Scratch> scratch;
    scratch.reserve(shares.at_once);
    for (size_t i = 0; i < shares.at_once; ++i) scratch.push_back(network.make_scratch());
    for (size_t begin = 0; begin < shares.spread;) {
      report(begin);
      const size_t end = std::min(shares.spread, begin + shares.at_once * kRowsPerRound);
      workers.each(begin, end, static_cast<int>(shares.at_once), [&](size_t row, int part) {
        const auto place = static_cast<size_t>(part);
        job(row, place, scratch[place], nullptr);
      });
      begin = end;
    }
  }
  if (shares.spread < rows) {
    if (shares.spread == 0) report(0);  // else it is the end of the last round
    Scratch scratch = network.make_scratch(shares.inside);
    for (size_t row = shares.spread; row < rows; ++row) job(row, size_t{0}, scratch, &workers);
  }
  report(rows);
}

}  // namespace bitreplay
