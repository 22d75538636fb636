// Jobs on rows, shared among threads in rounds.  A row's result depends on the row alone, so neither threads nor rounds can be seen in it.
#pragma once

#include <algorithm>
#include <cstddef>
#ifndef BITREPLAY_DEVICE
#include <thread>
#include <vector>
#endif

#include "memory.h"
#include "network/network.h"

namespace bitreplay {

inline constexpr size_t kRowsPerRound = 32;  // a thread's share between two calls of the progress function

inline size_t workers_for(size_t rows, [[maybe_unused]] int threads) {
#ifdef BITREPLAY_DEVICE
  threads = 1;
#endif
  return std::max<size_t>(1, std::min<size_t>(static_cast<size_t>(threads), rows));
}

// Runs job(row, scratch) for every row, in rounds; before each round `report(done)` may give up by throwing.
// A row's result depends on the row alone, so neither threads nor rounds can be seen in it.
template <class Job, class Report>
void for_rows(const Network& network, size_t rows, int threads, const Job& job, const Report& report) {
  const size_t workers = workers_for(rows, threads);
  List<Scratch> scratch;
  scratch.reserve(workers);
  for (size_t i = 0; i < workers; ++i) scratch.push_back(network.make_scratch());
  for (size_t begin = 0; begin < rows;) {
    report(begin);
    const size_t end = std::min(rows, begin + workers * kRowsPerRound);
    const auto share = [&](size_t worker) {
      for (size_t row = begin + worker; row < end; row += workers) job(row, worker, scratch[worker]);
    };
#ifdef BITREPLAY_DEVICE
    share(0);
#else
    std::vector<std::jthread> pool;
    for (size_t i = 1; i < workers; ++i) pool.emplace_back(share, i);
    share(0);
    pool.clear();
#endif
    begin = end;
  }
  report(rows);
}

}  // namespace bitreplay
