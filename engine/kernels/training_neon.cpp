// NEON of aarch64.  Four bits of a step choose one of 16 sums of four gradients: a table of 16 bytes that one tbl looks up for 16
// channels.  A sum is biased to be positive and divided into digits, one table each: 2 digits of 5 bits for gradients of at most 8
// bits, else 3 of 6.  Looked-up digits add up in bytes for 8 or 4 steps, then in 16 bits, then in int32.
// Bottleneck: two look-ups and two additions for 64 products of bytes (3 and 3 for int16); masks and sadalp take 8 operations for as
// many.  tbl of 128 bits is three operations on a Cortex-A72, which leaves both ways equal there; one on an A76.
// Limits: channels come in multiples of 32 and images in multiples of 4; the rest of a tile is zeros.
// The head.  Bottleneck: smlal, 4 products and their addition, one a cycle on Cortex-A53 and -A72; tiles keep 16 sums in
// registers, 32 of them for 8 loads.  Features are widened from bytes beforehand, as many as half of the first cache holds.  Limits:
// values are taken 8 at a time, the rest one by one.  Bytes in two digits would take as many multiplications: not done.
#include "training_tables.h"

#ifdef BITREPLAY_HAVE_NEON
#include <arm_neon.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "bits.h"
#include "digits.h"
#include "fixed_point.h"
#include "random.h"
#include "neon_bits.h"

#define BITREPLAY_TARGET
#define BITREPLAY_PRODUCTS 1

namespace bitreplay {
namespace {
namespace neon {

constexpr int kRows = 4;
constexpr int kColumns = 32;
constexpr int kVectors = 2;  // of 16 channels
constexpr int kGroup = 8;
constexpr int64_t kBStep = kColumns;  // a nibble in each byte: bit i is that of source i
constexpr int64_t kChunkBytes = 28 * 1024;
constexpr int64_t g_step(bool wide) { return kRows * kTable * (wide ? kDigits16 : kDigits8); }

inline void expand_mask(uint64_t word, int8_t* mask) {
  for (int i = 0; i < 4; ++i) vst1q_s8(mask + 16 * i, vreinterpretq_s8_u8(spread(word >> (16 * i))));
}

uint64_t signs(const int8_t* values, int count) {
  int8_t padded[kWordBits] = {};
  if (count < kWordBits) values = static_cast<const int8_t*>(std::memcpy(padded, values, static_cast<size_t>(count)));
  return signs_of({vld1q_s8(values), vld1q_s8(values + 16), vld1q_s8(values + 32), vld1q_s8(values + 48)});
}

uint64_t signs(const int16_t* values, int count) {
  int16_t padded[kWordBits] = {};
  if (count < kWordBits)
    values = static_cast<const int16_t*>(std::memcpy(padded, values, static_cast<size_t>(count) * sizeof *values));
  int8x16_t bytes[4];
  for (int i = 0; i < 4; ++i) bytes[i] = high_bytes(vld1q_s16(values + 16 * i), vld1q_s16(values + 16 * i + 8));
  return signs_of(bytes);
}

inline void put_step(const uint64_t* words, bool, uint8_t* to) {
  for (int v = 0; v < kVectors; ++v) {
    uint8x16_t nibbles = vdupq_n_u8(0);
    for (int i = 0; i < kSources; ++i) {
      nibbles = vorrq_u8(nibbles, vandq_u8(spread(words[i] >> (16 * v)), vdupq_n_u8(static_cast<uint8_t>(1 << i))));
    }
    vst1q_u8(to + 16 * v, nibbles);
  }
}

inline uint8x16_t bytes_of(uint16x8_t low, uint16x8_t high) { return vmovn_high_u16(vmovn_u16(low), high); }
inline uint16x8_t halves_of(uint32x4_t low, uint32x4_t high) { return vmovn_high_u32(vmovn_u32(low), high); }

// The digits of bias + the sum of the gradients that each nibble chooses.
inline void put_gradients(const int16_t* g, bool wide, int row, uint8_t* to) {
  if (wide) {
    constexpr int32_t kFirst[4] = {0, 1, 0, 1}, kSecond[4] = {0, 0, 1, 1};
    const int32x4_t pair = vmlaq_n_s32(vmlaq_n_s32(vdupq_n_s32(kBias16), vld1q_s32(kFirst), g[0]), vld1q_s32(kSecond), g[1]);
    uint32x4_t sum[4];  // of nibbles 0..3, 4..7, 8..11, 12..15
    for (int i = 0; i < 4; ++i) sum[i] = vreinterpretq_u32_s32(vaddq_s32(pair, vdupq_n_s32((i & 1) * g[2] + (i >> 1) * g[3])));
    const uint16x8_t digit = vdupq_n_u16((1 << kDigitBits16) - 1);
    const uint16x8_t low = halves_of(sum[0], sum[1]), high = halves_of(sum[2], sum[3]);
    const uint16x8_t top_low = vshrn_high_n_u32(vshrn_n_u32(sum[0], 2 * kDigitBits16), sum[1], 2 * kDigitBits16);
    const uint16x8_t top_high = vshrn_high_n_u32(vshrn_n_u32(sum[2], 2 * kDigitBits16), sum[3], 2 * kDigitBits16);
    to += row * kDigits16 * kTable;
    vst1q_u8(to, bytes_of(vandq_u16(low, digit), vandq_u16(high, digit)));
    vst1q_u8(to + kTable, bytes_of(vandq_u16(vshrq_n_u16(low, kDigitBits16), digit), vandq_u16(vshrq_n_u16(high, kDigitBits16), digit)));
    vst1q_u8(to + 2 * kTable, bytes_of(top_low, top_high));
  } else {
    constexpr int16_t kFirst[8] = {0, 1, 0, 1, 0, 1, 0, 1}, kSecond[8] = {0, 0, 1, 1, 0, 0, 1, 1}, kThird[8] = {0, 0, 0, 0, 1, 1, 1, 1};
    int16x8_t sum = vmlaq_n_s16(vdupq_n_s16(kBias8), vld1q_s16(kFirst), g[0]);
    sum = vmlaq_n_s16(vmlaq_n_s16(sum, vld1q_s16(kSecond), g[1]), vld1q_s16(kThird), g[2]);
    const uint16x8_t low = vreinterpretq_u16_s16(sum), high = vreinterpretq_u16_s16(vaddq_s16(sum, vdupq_n_s16(g[3])));
    to += row * kDigits8 * kTable;
    vst1q_u8(to, vandq_u8(bytes_of(low, high), vdupq_n_u8((1 << kDigitBits8) - 1)));
    vst1q_u8(to + kTable, vshrn_high_n_u16(vshrn_n_u16(low, kDigitBits8), high, kDigitBits8));
  }
}

inline void put_group(const int16_t (&g)[kSources][kGroup], bool wide, uint8_t* to, int64_t stride) {
  for (int r = 0; r < kGroup; ++r) {
    const int16_t v[kSources] = {g[0][r], g[1][r], g[2][r], g[3][r]};
    put_gradients(v, wide, r % kRows, to + r / kRows * stride);
  }
}


// int32 of the digits of 4 channels.
template <int kDigits>
inline uint32x4_t joined(const uint16x4_t (&digits)[kDigits]) {
  constexpr int kBits = kDigits == kDigits8 ? kDigitBits8 : kDigitBits16;
  uint32x4_t sum = vaddw_u16(vshll_n_u16(digits[1], kBits), digits[0]);
  if constexpr (kDigits == 3) sum = vaddq_u32(sum, vshll_n_u16(digits[2], 2 * kBits));
  return sum;
}

// Digits of a tile: of 8 channels each.
template <int kDigits>
struct Digits {
  static constexpr int kLargest = 65536;
  uint16x8_t sum_u16x8[kRows][kVectors][kDigits][2];

  // Steps of kHeld rows from `first` on; sums of bytes stay in registers.
  template <int kHeld>
  inline void look_up_rows(const uint8_t* b, const uint8_t* g, int steps, int first) {
    uint8x16_t sum_u8x16[kHeld][kVectors][kDigits];
#pragma GCC unroll 4
    for (int r = 0; r < kHeld; ++r) {
#pragma GCC unroll 4
      for (int d = 0; d < kDigits; ++d) sum_u8x16[r][0][d] = sum_u8x16[r][1][d] = vdupq_n_u8(0);
    }
    g += first * kDigits * kTable;
    for (int step = 0; step < steps; ++step, b += kBStep, g += kRows * kDigits * kTable) {
      const uint8x16_t b0 = vld1q_u8(b), b1 = vld1q_u8(b + 16);
#pragma GCC unroll 4
      for (int r = 0; r < kHeld; ++r) {
#pragma GCC unroll 4
        for (int d = 0; d < kDigits; ++d) {
          const uint8x16_t table = vld1q_u8(g + (r * kDigits + d) * kTable);
          sum_u8x16[r][0][d] = vaddq_u8(sum_u8x16[r][0][d], vqtbl1q_u8(table, b0));
          sum_u8x16[r][1][d] = vaddq_u8(sum_u8x16[r][1][d], vqtbl1q_u8(table, b1));
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kHeld; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
        for (int d = 0; d < kDigits; ++d) {
          uint16x8_t* sum = sum_u16x8[first + r][v][d];
          sum[0] = vaddw_u8(sum[0], vget_low_u8(sum_u8x16[r][v][d]));
          sum[1] = vaddw_high_u8(sum[1], sum_u8x16[r][v][d]);
        }
      }
    }
  }

  // Sums of three digits fill the registers with two rows.
  __attribute__((noinline)) void look_up(const uint8_t* b, const uint8_t* g, int steps) {
    constexpr int kHeld = kDigits == kDigits8 ? kRows : kRows / 2;
    for (int first = 0; first < kRows; first += kHeld) look_up_rows<kHeld>(b, g, steps, first);
  }

  void move(int bias, int32_t* sums) {
    const int32x4_t biases = vdupq_n_s32(bias);
    for (int r = 0; r < kRows; ++r) {
      for (int part = 0; part < kColumns / 4; ++part, sums += 4) {
        uint16x4_t parts[kDigits];
        for (int d = 0; d < kDigits; ++d) {
          const uint16x8_t eight = sum_u16x8[r][part / 4][d][part / 2 % 2];
          parts[d] = part % 2 == 0 ? vget_low_u16(eight) : vget_high_u16(eight);
        }
        const int32x4_t sum = vreinterpretq_s32_u32(joined<kDigits>(parts));
        vst1q_s32(sums, vaddq_s32(vld1q_s32(sums), vsubq_s32(sum, biases)));
      }
    }
    *this = {};
  }
};

void add8(const Run* runs, int count, int steps, int32_t* sums) {
  Digits<kDigits8> digits{};
  add_digits<kDigits8>(runs, count, steps, kBStep, g_step(false), digits, sums);
}

void add16(const Run* runs, int count, int steps, int32_t* sums) {
  Digits<kDigits16> digits{};
  add_digits<kDigits16>(runs, count, steps, kBStep, g_step(true), digits, sums);
}

// ---- the head

constexpr int kRowTile = 4;
constexpr int kPairClasses = 2;
constexpr int64_t kExact = 512;  // values at a time; a lane of sums takes 128 products of at most 127 * 2^15

// x (kRowTile, kExact) and w, `stride` apart: sums (kRowTile, kClassTile, `apart` apart) += dot products of `width` <= kExact
// values.
void dot_tile(const int16_t* x, const int16_t* w, int64_t stride, int64_t width, int64_t* sums, int64_t apart) {
  int32x4_t sum_i32x4[kRowTile][kClassTile];
#pragma GCC unroll 16
  for (int i = 0; i < kRowTile * kClassTile; ++i) sum_i32x4[i / kClassTile][i % kClassTile] = vdupq_n_s32(0);
  const int64_t whole = width / 8 * 8;
  for (int64_t j = 0; j < whole; j += 8) {
    int16x8_t u[kRowTile];
#pragma GCC unroll 8
    for (int r = 0; r < kRowTile; ++r) u[r] = vld1q_s16(x + r * kExact + j);
#pragma GCC unroll 8
    for (int c = 0; c < kClassTile; ++c) {
      const int16x8_t v = vld1q_s16(w + c * stride + j);
#pragma GCC unroll 8
      for (int r = 0; r < kRowTile; ++r) {
        sum_i32x4[r][c] = vmlal_high_s16(vmlal_s16(sum_i32x4[r][c], vget_low_s16(u[r]), vget_low_s16(v)), u[r], v);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRowTile; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kClassTile; ++c) sums[r * apart + c] += vaddlvq_s32(sum_i32x4[r][c]);
    for (int c = 0; c < kClassTile; ++c) {
      for (int64_t j = whole; j < width; ++j) sums[r * apart + c] += x[r * kExact + j] * w[c * stride + j];
    }
  }
}

template <int kClasses>
void pair_tile(const int16_t* x, const uint32_t* g, int64_t pairs, int64_t stride, int32_t* sums) {
  int32x4_t sum_i32x4[kClasses][8];
#pragma GCC unroll 16
  for (int i = 0; i < 8 * kClasses; ++i) sum_i32x4[i / 8][i % 8] = vdupq_n_s32(0);
  for (int64_t pair = 0; pair < pairs; ++pair, x += 64, g += stride) {
    int16x4_t factor[kClasses];
#pragma GCC unroll 8
    for (int c = 0; c < kClasses; ++c) factor[c] = vreinterpret_s16_u32(vdup_n_u32(g[c]));
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const int16x8x2_t u = vld2q_s16(x + 16 * v);  // 8 features of each row
#pragma GCC unroll 8
      for (int c = 0; c < kClasses; ++c) {
        int32x4_t* sum = sum_i32x4[c] + 2 * v;
        sum[0] = vmlal_lane_s16(vmlal_lane_s16(sum[0], vget_low_s16(u.val[0]), factor[c], 0), vget_low_s16(u.val[1]), factor[c], 1);
        sum[1] = vmlal_high_lane_s16(vmlal_high_lane_s16(sum[1], u.val[0], factor[c], 0), u.val[1], factor[c], 1);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 8 * kClasses; ++i) vst1q_s32(sums + 4 * i, sum_i32x4[i / 8][i % 8]);
}

// The low 32 bits of round_shift(a * b, shift), 0 < shift <= 32.
template <int kShift>
inline int32x4_t scaled(int32x4_t a, int32x4_t b) {
  const int32x2_t low = vrshrn_n_s64(vmull_s32(vget_low_s32(a), vget_low_s32(b)), kShift);
  return vrshrn_high_n_s64(low, vmull_high_s32(a, b), kShift);
}

// descend where nothing leaves int32.
void descend(int32_t* w, const int32_t* dw, int64_t size, int32_t rate) {
  const int32x4_t rates = vdupq_n_s32(rate);
  int64_t j = 0;
  for (; j + 4 <= size; j += 4) {
    const int32x4_t v = vld1q_s32(w + j);
    const int32x4_t step = scaled<16>(vld1q_s32(dw + j), rates);
    vst1q_s32(w + j, vsubq_s32(v, step));
  }
  for (; j < size; ++j) {
    w[j] -= static_cast<int32_t>(round_shift(int64_t{dw[j]} * rate, 16));
  }
}

#include "training_leaves.inc"

}  // namespace neon
}  // namespace

const GradientTable& gradient_neon() {
  static constexpr GradientTable table = neon::gradients("neon");
  return table;
}

const HeadTable& head_neon() {
  static constexpr HeadTable table = neon::heads("neon");
  return table;
}

}  // namespace bitreplay
#endif
