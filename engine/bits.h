// THE bit convention (docs/method.md, 3.1): bit 1 means -1, bit 0 means +1, channel c is bit c % 64 of word c / 64, unused
// bits are 0.  Owns packing; knows nothing of layers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitreplay {

inline constexpr int kWordBits = 64;

// Words that `channels` bits take.
constexpr int words_for(int channels) { return (channels + kWordBits - 1) / kWordBits; }

inline bool bit_at(const uint64_t* words, int channel) {
  return (words[channel / kWordBits] >> (channel % kWordBits)) & 1;
}

// Mask of the bits of the last word that carry a channel; all ones when none is unused.
constexpr uint64_t last_word_mask(int channels) {
  return channels % kWordBits == 0 ? ~uint64_t{0} : (uint64_t{1} << (channels % kWordBits)) - 1;
}

}  // namespace bitreplay
