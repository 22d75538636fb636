// THE bit convention (docs/method.md, 3.1): bit 1 means -1, bit 0 means +1, channel c is bit c % 64 of word c / 64, unused
// bits are 0.  Owns packing; knows nothing of layers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitreplay {

inline constexpr int kWordBits = 64;

// Words that `channels` bits take.
constexpr int words_for(int channels) { return (channels + kWordBits - 1) / kWordBits; }

// Packs the signs of `channels` values: bit = value < 0.
inline void pack_negative(const int16_t* values, int channels, uint64_t* words) {
  for (int w = 0; w < words_for(channels); ++w) {
    const int count = channels - w * kWordBits < kWordBits ? channels - w * kWordBits : kWordBits;
    uint64_t word = 0;
    for (int i = 0; i < count; ++i) word |= static_cast<uint64_t>(values[w * kWordBits + i] < 0) << i;
    words[w] = word;
  }
}

inline bool bit_at(const uint64_t* words, int channel) {
  return (words[channel / kWordBits] >> (channel % kWordBits)) & 1;
}

// Mask of the bits of the last word that carry a channel; all ones when none is unused.
constexpr uint64_t last_word_mask(int channels) {
  return channels % kWordBits == 0 ? ~uint64_t{0} : (uint64_t{1} << (channels % kWordBits)) - 1;
}

}  // namespace bitreplay
