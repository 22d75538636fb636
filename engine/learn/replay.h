// The replay memory (docs/method.md, 5): at most `capacity` rows of (latent, class), class-balanced; of a class those with the smallest hashes, so
// that what is kept depends on what was offered, not on when.
// Knows rows of words and class numbers; nothing of images, weights or names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "memory.h"
#include "near_equal.h"

namespace bitreplay {

class Replay {
 public:
  // One row to write at commit: slot `to` takes live row `from`, or the row of slot `from` where `moved`.
  struct Write {
    uint32_t to, from;
    uint16_t label;
    bool moved;
  };

  // What an experience does to the memory; made by `plan`, carried out by `commit`.
  struct Plan {
    Buffer<Write> writes;
    Buffer<uint64_t> seen;
    size_t size = 0;
  };

  // Reserves everything at once; a row's memory is touched when the row is first stored.  Of its words the first `latent_words` say which row it is;
  // what follows goes with it.
  Replay(size_t capacity, size_t latent_words, size_t further_words = 0);

  size_t capacity() const { return capacity_; }
  size_t size() const { return labels_.size(); }
  size_t row_words() const { return row_words_; }
  size_t latent_words() const { return latent_words_; }
  const uint64_t* row(size_t slot) const { return rows_.data() + slot * row_words_; }
  std::span<const uint16_t> labels() const { return {labels_.data(), labels_.size()}; }
  std::span<const uint64_t> seen() const { return {seen_.data(), seen_.size()}; }

  // Makes room for the counts of so many classes.
  void reserve_classes(size_t classes) { seen_.reserve(classes); }

  // Decides which of the live rows (their classes in `labels`, all < classes) enter, and what they replace.  offered: which may, 1 or 0.
  // near: a live row that differs from a stored one of its class in at most so many bits does not stand beside it; negative: all may.
  Plan plan(const uint64_t* live, std::span<const int32_t> labels, std::span<const uint8_t> offered, size_t classes, uint64_t seed, const Near& near) const;

  // Carries a plan out; `live` holds the rows that `plan` was given.  Cannot fail.
  void commit(Plan&& plan, const uint64_t* live) noexcept;

  // Takes over the content of a state file; sizes have been checked by the caller.
  void restore(std::span<const uint64_t> rows, std::span<const uint16_t> labels, std::span<const uint64_t> seen);

 private:
  void resize(size_t size) noexcept;  // up to the capacity, which is reserved

  size_t capacity_, latent_words_, row_words_;
  Buffer<uint64_t> rows_;
  Buffer<uint16_t> labels_;
  Buffer<uint64_t> seen_;
};

}  // namespace bitreplay
