// Bits to bytes and back, for the NEON kernels of aarch64.
#pragma once

#include "kernels.h"

#ifdef BITREPLAY_HAVE_NEON
#include <arm_neon.h>

#include <cstdint>

namespace bitreplay {

// In byte i of each half the bit i.
inline uint8x16_t bit_places() { return vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ULL)); }

// Bytes -1 where a bit of the 16 is set.
inline uint8x16_t spread(uint64_t bits) {
  const uint8x8_t low = vdup_n_u8(static_cast<uint8_t>(bits)), high = vdup_n_u8(static_cast<uint8_t>(bits >> 8));
  return vtstq_u8(vcombine_u8(low, high), bit_places());
}

// The high bytes of 16 values, which have their signs.
inline int8x16_t high_bytes(int16x8_t a, int16x8_t b) { return vuzp2q_s8(vreinterpretq_s8_s16(a), vreinterpretq_s8_s16(b)); }

// Bit i: byte i of the 64 is negative.
inline uint64_t signs_of(const int8x16_t (&bytes)[4]) {
  uint8x16_t bits[4];
  for (int i = 0; i < 4; ++i) bits[i] = vandq_u8(vcltzq_s8(bytes[i]), bit_places());
  const uint8x16_t halves = vpaddq_u8(vpaddq_u8(bits[0], bits[1]), vpaddq_u8(bits[2], bits[3]));
  return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(halves, halves)), 0);
}

}  // namespace bitreplay
#endif
