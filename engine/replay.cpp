#include "replay.h"

#include <algorithm>
#include <utility>

#include "random.h"

namespace bitreplay {
namespace {

// An entry of a class's list: a slot that is kept, or a live row.
struct Entry {
  uint32_t index;
  bool live;
};

// Largest level with sum(min(seen, level)) <= capacity, and how many classes may hold one row more.
std::pair<uint64_t, uint64_t> water_level(std::span<const uint64_t> seen, uint64_t capacity) {
  const auto held = [&](uint64_t level) {
    uint64_t total = 0;
    for (const uint64_t s : seen) total += std::min(s, level);
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

Replay::Replay(size_t capacity, size_t row_words)
    : capacity_(capacity), row_words_(row_words) {
  rows_.reserve(capacity * row_words);
  labels_.reserve(capacity);
}

int64_t Replay::planning_bytes(size_t capacity, size_t live, size_t classes) {
  const size_t slots = capacity;
  return static_cast<int64_t>(sizeof(Write) * slots + sizeof(uint64_t) * classes         // the plan
                              + sizeof(uint64_t) * 3 * classes                           // stored, target, first
                              + sizeof(Entry) * slots + sizeof(uint8_t) * slots          // lists, occupied
                              + sizeof(uint32_t) * live + sizeof(uint64_t) * (classes + 1));  // live rows by class
}

Replay::Plan Replay::plan(std::span<const int32_t> labels, size_t classes, uint64_t seed, uint64_t experience) const {
  Plan plan;
  plan.writes.reserve(capacity_);
  plan.seen.assign(classes, 0);
  std::copy(seen_.begin(), seen_.end(), plan.seen.begin());
  for (const int32_t label : labels) ++plan.seen[label];

  Buffer<uint64_t> stored(classes, 0), target(classes), first(classes);
  for (const uint16_t label : this->labels()) ++stored[label];
  const auto [level, remainder] = water_level({plan.seen.data(), classes}, capacity_);
  uint64_t extra = remainder;
  uint64_t total = 0;
  for (size_t c = 0; c < classes; ++c) {
    target[c] = std::min(plan.seen[c], level);
    if (plan.seen[c] > level && extra > 0) {
      ++target[c];
      --extra;
    }
    first[c] = total;
    total += target[c];
  }

  // Live rows by class, in their order.
  Buffer<uint64_t> live_first(classes + 1, 0);
  Buffer<uint32_t> live_rows(labels.size());
  for (const int32_t label : labels) ++live_first[label + 1];
  for (size_t c = 0; c < classes; ++c) live_first[c + 1] += live_first[c];
  for (size_t i = 0; i < labels.size(); ++i) live_rows[live_first[labels[i]]++] = static_cast<uint32_t>(i);
  for (size_t c = classes; c > 0; --c) live_first[c] = live_first[c - 1];
  live_first[0] = 0;

  Buffer<Entry> entries(capacity_);
  Buffer<uint8_t> occupied(capacity_, 0);
  for (size_t c = 0; c < classes; ++c) {
    Entry* list = entries.data() + first[c];
    uint64_t size = stored[c];
    if (size > target[c]) {
      // The list has room for the survivors only: they are drawn in `writes`, which is not used yet.
      Buffer<Write>& ranks = plan.writes;
      ranks.clear();
      for (uint32_t slot = 0; slot < labels_.size(); ++slot) {
        if (labels_[slot] == c) ranks.push_back({slot, 0, 0, false});
      }
      for (; size > target[c]; --size) {
        ranks[below(size, draw(seed, Purpose::replay_drop, experience << 32 | c, size))] = ranks[size - 1];
      }
      for (uint64_t i = 0; i < size; ++i) list[i] = {ranks[i].to, false};
      ranks.clear();
    } else {
      uint64_t i = 0;
      for (uint32_t slot = 0; slot < labels_.size(); ++slot) {
        if (labels_[slot] == c) list[i++] = {slot, false};
      }
    }
    uint64_t index = c < seen_.size() ? seen_[c] : 0;
    for (uint64_t i = live_first[c]; i < live_first[c + 1]; ++i, ++index) {
      if (size < target[c]) {
        list[size++] = {live_rows[i], true};
      } else if (target[c] > 0) {
        const uint64_t j = below(index + 1, draw(seed, Purpose::replay_offer, experience << 32 | c, index));
        if (j < target[c]) list[j] = {live_rows[i], true};
      }
    }
    target[c] = size;
    for (uint64_t i = 0; i < size; ++i) {
      if (!list[i].live) occupied[list[i].index] = 1;
    }
  }

  uint32_t free = 0;
  const auto next_free = [&] {
    while (occupied[free]) ++free;
    occupied[free] = 1;
    return free;
  };
  for (size_t c = 0; c < classes; ++c) {
    for (uint64_t i = 0; i < target[c]; ++i) {
      const Entry entry = entries[first[c] + i];
      if (entry.live) plan.writes.push_back({next_free(), entry.index, static_cast<uint16_t>(c), false});
    }
    plan.size += target[c];
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
