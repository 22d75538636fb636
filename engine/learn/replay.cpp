#include "replay.h"

#include <algorithm>
#include <utility>

#include "near_equal.h"
#include "random.h"

namespace bitreplay {
namespace {

// A row that may be kept: of a slot, or live.
struct Entry {
  uint64_t hash;
  uint32_t index;
  uint16_t label;
  bool live;
};

static_assert(sizeof(Entry) == kEntryBytes);

// Largest level with sum(min(count, level)) <= capacity, and how many classes may hold one row more.
std::pair<uint64_t, uint64_t> water_level(std::span<const uint64_t> counts, uint64_t capacity) {
  const auto held = [&](uint64_t level) {
    uint64_t total = 0;
    for (const uint64_t n : counts) total += std::min(n, level);
    return total;
  };
  uint64_t low = 0, high = capacity;
  while (low < high) {
    const uint64_t middle = low + (high - low + 1) / 2;
    if (held(middle) <= capacity) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return {low, capacity - held(low)};
}

}  // namespace

Replay::Replay(size_t capacity, size_t latent_words, size_t further_words)
    : capacity_(capacity), latent_words_(latent_words), row_words_(latent_words + further_words) {
  rows_.reserve(capacity * row_words_);
  labels_.reserve(capacity);
}

Replay::Plan Replay::plan(const uint64_t* live, std::span<const int32_t> labels, std::span<const uint8_t> offered, size_t classes, uint64_t seed,
                          const Near& near) const {
  Plan plan;
  plan.writes.reserve(capacity_);
  plan.seen.assign(classes, 0);
  std::copy(seen_.begin(), seen_.end(), plan.seen.begin());
  for (const int32_t label : labels) ++plan.seen[static_cast<size_t>(label)];
  if (capacity_ == 0) return plan;

  Buffer<Entry> entries(labels_.size() + labels.size());
  Buffer<uint64_t> counts(classes, 0), first(classes);
  size_t size = 0;
  const auto enter = [&](const uint64_t* row, size_t index, size_t label, bool is_live) {
    entries[size++] = {row_hash(seed, Purpose::row_order, {row, latent_words_}), static_cast<uint32_t>(index), static_cast<uint16_t>(label), is_live};
    ++counts[label];
  };
  for (size_t slot = 0; slot < labels_.size(); ++slot) enter(row(slot), slot, labels_[slot], false);
  // Whether a row of that class which is near-equal is stored.
  const auto is_stored = [&](const uint64_t* own, size_t label) {
    size_t compared = 0;
    for (size_t slot = 0; near.most >= 0 && slot < labels_.size() && compared < kMostCompared; ++slot) {
      if (labels_[slot] != label) continue;
      if (near(own, row(slot), latent_words_)) return true;
      ++compared;
    }
    return false;
  };
  for (size_t i = 0; i < labels.size(); ++i) {
    const uint64_t* own = live + i * row_words_;
    const auto label = static_cast<size_t>(labels[i]);
    if (offered[i] != 0 && !is_stored(own, label)) enter(own, i, label, true);
  }
  std::sort(entries.begin(), entries.begin() + static_cast<ptrdiff_t>(size), [](const Entry& a, const Entry& b) {
    if (a.label != b.label) return a.label < b.label;
    if (a.hash != b.hash) return a.hash < b.hash;
    return a.live != b.live ? b.live : a.index < b.index;  // equal hashes: equal rows
  });
  const auto [level, spare] = water_level({counts.data(), classes}, capacity_);

  // Of each class the first `level` rows, and the next one as a candidate for what is left over.
  Buffer<Entry> next(classes);
  size_t candidates = 0, begin = 0;
  for (size_t c = 0; c < classes; ++c) {
    first[c] = begin;
    const size_t end = begin + counts[c];
    size_t kept = std::min<size_t>(end, begin + level + 1);
    if (kept == begin + level + 1) next[candidates++] = entries[--kept];
    counts[c] = kept - begin;
    begin = end;
  }
  const size_t more = std::min<size_t>(candidates, spare);
  const auto precedes = [](const Entry& a, const Entry& b) { return a.hash != b.hash ? a.hash < b.hash : a.label < b.label; };
  std::sort(next.begin(), next.begin() + static_cast<ptrdiff_t>(candidates), precedes);
  for (size_t i = 0; i < more; ++i) ++counts[next[i].label];  // it still lies there

  Buffer<uint8_t> occupied(capacity_, 0);
  for (size_t c = 0; c < classes; ++c) {
    for (size_t i = first[c]; i < first[c] + counts[c]; ++i) {
      if (!entries[i].live) occupied[entries[i].index] = 1;
    }
    plan.size += counts[c];
  }
  uint32_t free = 0;
  const auto next_free = [&] {
    while (occupied[free]) ++free;
    occupied[free] = 1;
    return free;
  };
  for (size_t c = 0; c < classes; ++c) {
    for (size_t i = first[c]; i < first[c] + counts[c]; ++i) {
      if (entries[i].live) plan.writes.push_back({next_free(), entries[i].index, static_cast<uint16_t>(c), false});
    }
  }
  // Close the holes: the highest occupied slot moves into the lowest free one.
  for (size_t high = labels_.size(); high-- > plan.size;) {
    if (!occupied[high]) continue;
    plan.writes.push_back({next_free(), static_cast<uint32_t>(high), labels_[high], true});
  }
  return plan;
}

void Replay::resize(size_t size) noexcept {
  rows_.resize(size * row_words_);
  labels_.resize(size);
}

void Replay::commit(Plan&& plan, const uint64_t* live) noexcept {
  if (plan.size > labels_.size()) resize(plan.size);  // every write goes below plan.size; moved rows may come from above it
  for (const Write& write : plan.writes) {
    const uint64_t* source = write.moved ? row(write.from) : live + size_t{write.from} * row_words_;
    std::copy_n(source, row_words_, rows_.data() + size_t{write.to} * row_words_);
    labels_[write.to] = write.label;
  }
  resize(plan.size);
  take_over(seen_, plan.seen);
}

void Replay::restore(std::span<const uint64_t> rows, std::span<const uint16_t> labels, std::span<const uint64_t> seen) {
  seen_.assign(seen.begin(), seen.end());
  resize(labels.size());
  std::copy(rows.begin(), rows.end(), rows_.begin());
  std::copy(labels.begin(), labels.end(), labels_.begin());
}

}  // namespace bitreplay
