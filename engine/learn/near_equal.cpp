#include "near_equal.h"

#include <algorithm>
#include <cstdlib>

#include "kernels/kernels.h"
#include "random.h"

namespace bitreplay {
namespace {

struct Entry {
  uint64_t hash;
  int32_t label;
  uint32_t row;
};

static_assert(sizeof(Entry) == kEntryBytes);

}  // namespace

bool Near::operator()(const uint64_t* a, const uint64_t* b, size_t words) const {
  if (most < 0) return false;
  if (!of_features) return kernels().differing_bits(a, b, static_cast<int64_t>(words)) <= most;
  const auto *x = reinterpret_cast<const int8_t*>(a), *y = reinterpret_cast<const int8_t*>(b);
  int32_t sum = 0;  // of at most 1024 features
  for (size_t j = 0; j < words * sizeof(uint64_t); ++j) sum += std::abs(x[j] - y[j]);
  return sum <= most;
}

Buffer<uint8_t> count_once(const uint64_t* rows, size_t stride, size_t words, std::span<const int32_t> labels, const Near& near) {
  Buffer<uint8_t> counts(labels.size(), 1);
  if (near.most < 0) return counts;
  Buffer<Entry> entries(labels.size());
  for (size_t i = 0; i < labels.size(); ++i) entries[i] = {row_hash(0, Purpose::row_order, {rows + i * stride, words}), labels[i], static_cast<uint32_t>(i)};
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.label != b.label ? a.label < b.label : a.hash != b.hash ? a.hash < b.hash : a.row < b.row;  // equal hashes: equal rows
  });
  size_t first = 0, counted = 0;  // entries[first, counted): those of the class that count so far
  for (const Entry& entry : entries) {
    if (counted > first && entries[first].label != entry.label) first = counted;
    const size_t compared = std::min(counted, first + kMostCompared);
    const auto known = std::find_if(entries.begin() + static_cast<ptrdiff_t>(first), entries.begin() + static_cast<ptrdiff_t>(compared), [&](const Entry& other) {
      return near(rows + other.row * stride, rows + entry.row * stride, words);
    });
    if (known != entries.begin() + static_cast<ptrdiff_t>(compared)) {
      counts[entry.row] = 0;
    } else {
      entries[counted++] = entry;
    }
  }
  return counts;
}

}  // namespace bitreplay
