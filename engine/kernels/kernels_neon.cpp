// NEON of aarch64, signs, binary convolution, epilogue.  Lanes of the binary convolution are 4 output channels of 32 bits, which see the
// same 32 activations, repeated beforehand: xor, cnt, add of bytes, three operations on 128 multiply-adds.  At most 31 counts of up
// to 8 add up in a byte; the pairwise addition that widens them takes the place of one more.  Bottleneck: those three operations
// (two a cycle on Cortex-A72 and -A76, one on -A53); 4 pixels by 16 channels keep 16 sums in registers, 8 loads for 48 operations.
// Limits: channels come in multiples of 16 and 32 bits of input; a window's 4-fold copy takes up to 24 KiB of L1 or L2.
// Not used: tbl, which takes three operations on an A72; sadalp for every count, one a cycle there; sdot, which older cores lack.
// Not done: bsl between xors of all the steps so far, counted with alternating signs, takes five operations for two steps instead
// of six (xor, xor, bsl, cnt, add), but keeps twice the registers, and a chain ends with the pixel's channels.
#include "kernels.h"

#ifdef BITREPLAY_HAVE_NEON
#include <arm_neon.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

#include "bits.h"
#include "neon_bits.h"

namespace bitreplay {
namespace {

constexpr int kGroup = 16;      // output channels computed at once
constexpr int kVectors = 4;     // of weights of a step: kGroup * 32 bits
constexpr int kStepBits = 32;   // of input
constexpr int kStepBytes = 16;  // of the expanded window
constexpr int kMaxSteps = 31;   // counts of at most 8 that a byte holds
constexpr int kMaxPixels = 4;   // whose sums are kept in registers

// ---- signs

inline uint64_t signs_of_64(const int16_t* x, const int16_t* threshold) {
  int8x16_t bytes[4];
  for (int i = 0; i < 4; ++i, x += 16) {
    int16x8_t a = vld1q_s16(x), b = vld1q_s16(x + 8);
    if (threshold != nullptr) {  // saturation keeps the sign of the exact sum
      a = vqaddq_s16(a, vld1q_s16(threshold + 16 * i));
      b = vqaddq_s16(b, vld1q_s16(threshold + 16 * i + 8));
    }
    bytes[i] = high_bytes(a, b);
  }
  return signs_of(bytes);
}

void sign_bits(const int16_t* x, const int16_t* threshold, int64_t pixels, int channels, uint64_t* bits) {
  const int words = words_for(channels);
  for (int64_t p = 0; p < pixels; ++p, x += channels, bits += words) {
    int c = 0;
    for (; c + kWordBits <= channels; c += kWordBits) {
      bits[c / kWordBits] = signs_of_64(x + c, threshold ? threshold + c : nullptr);
    }
    if (c == channels) continue;
    int16_t rest[kWordBits] = {}, rest_threshold[kWordBits] = {};
    std::copy_n(x + c, channels - c, rest);
    if (threshold != nullptr) std::copy_n(threshold + c, channels - c, rest_threshold);
    bits[words - 1] = signs_of_64(rest, rest_threshold);
  }
}

void expand_bits(const uint64_t* bits, const int16_t* alpha, int64_t pixels, int channels, int16_t* x) {
  constexpr uint16_t kPlaces[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  const uint16x8_t places = vld1q_u16(kPlaces);
  for (int64_t p = 0; p < pixels; ++p, bits += words_for(channels), x += channels) {
    int c = 0;
    for (; c + 8 <= channels; c += 8) {
      const uint16x8_t eight = vdupq_n_u16(static_cast<uint16_t>(bits[c / kWordBits] >> (c % kWordBits)));
      const int16x8_t value = vld1q_s16(alpha + c);
      vst1q_s16(x + c, vbslq_s16(vtstq_u16(eight, places), vnegq_s16(value), value));
    }
    for (; c < channels; ++c) x[c] = static_cast<int16_t>(bit_at(bits, c) ? -alpha[c] : alpha[c]);
  }
}

// ---- binary convolution

// Steps of 32 bits that a pixel takes.
constexpr int steps_for(int in) { return (in + kStepBits - 1) / kStepBits; }

// Weights: (groups, kernel * kernel, steps, channel), 32 bits each.
int64_t binary_weight_words(int in, int out, int kernel) {
  return int64_t{(out + kGroup - 1) / kGroup} * kernel * kernel * steps_for(in) * kGroup * kStepBits / kWordBits;
}

inline uint32_t step_of(const uint64_t* words, int step) { return static_cast<uint32_t>(words[step / 2] >> (step % 2 * kStepBits)); }

void set_binary_channel(uint64_t* weight, int in, int kernel, int channel, const uint64_t* canonical) {
  const int taps = kernel * kernel, steps = steps_for(in);
  auto* to = reinterpret_cast<unsigned char*>(weight) + (int64_t{channel / kGroup} * taps * steps * kGroup + channel % kGroup) * 4;
  for (int tap = 0; tap < taps; ++tap, canonical += words_for(in)) {
    for (int step = 0; step < steps; ++step, to += kGroup * 4) {
      const uint32_t part = step_of(canonical, step);
      std::memcpy(to, &part, sizeof part);
    }
  }
}

// For every pixel of the window its steps, four times each.
void binary_expand(const BinaryTile& tile) {
  const int pixels = tile.window_rows() * tile.window_columns(), steps = steps_for(tile.in);
  const uint64_t* from = tile.window;
  auto* to = static_cast<uint8_t*>(tile.expanded);
  for (int p = 0; p < pixels; ++p, from += tile.words) {
    for (int s = 0; s < steps; ++s, to += kStepBytes) vst1q_u8(to, vreinterpretq_u8_u32(vdupq_n_u32(step_of(from, s))));
  }
}

// What is counted in bytes: rows of a window, or part of a row; at most kMaxSteps steps.
struct Span {
  ptrdiff_t a, w;  // where it begins
  int rows, steps;
};

struct Walk {
  ptrdiff_t pixel, row;  // to the next output pixel's window; to a window's next row
  int bits, count;       // of spans: at most 3 rows of 96 steps in 4 parts
  Span spans[12];
};

Walk walk_of(const BinaryTile& tile) {
  const int steps = tile.kernel * steps_for(tile.in);
  const ptrdiff_t pixel = ptrdiff_t{steps_for(tile.in)} * kStepBytes;
  Walk walk{tile.stride * pixel, tile.window_columns() * pixel, tile.bits(), 0, {}};
  const int together = std::max(1, kMaxSteps / steps);  // rows
  const int parts = (steps + kMaxSteps - 1) / kMaxSteps;
  for (int row = 0; row < tile.kernel; row += together) {
    for (int part = 0; part < parts; ++part) {
      const int begin = steps * part / parts, end = steps * (part + 1) / parts;
      walk.spans[walk.count++] = {row * walk.row + begin * kStepBytes, ptrdiff_t{row * steps + begin} * kGroup * 4,
                                  std::min(together, tile.kernel - row), end - begin};
    }
  }
  return walk;
}

// Adds one step to the counts, or begins them.
template <int kPixels, bool kBegin>
__attribute__((always_inline)) inline void count_step(const uint8_t* a, ptrdiff_t pixel, const uint8_t* w,
                                                      uint8x16_t (&counts)[kPixels][kVectors]) {
  uint8x16_t x[kPixels];
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p) x[p] = vld1q_u8(a + p * pixel);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const uint8x16_t weight = vld1q_u8(w + 16 * v);
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p) {
      const uint8x16_t count = vcntq_u8(veorq_u8(x[p], weight));
      counts[p][v] = kBegin ? count : vaddq_u8(counts[p][v], count);
    }
  }
}

// Adds the counts of a span to the sums, or begins them.
template <int kPixels, bool kBegin>
__attribute__((always_inline)) inline void count_span(const Walk& walk, const Span& span, const uint8_t* a, const uint8_t* w,
                                                      uint16x8_t (&sums)[kPixels][kVectors]) {
  a += span.a;
  w += span.w;
  uint8x16_t counts[kPixels][kVectors];
  count_step<kPixels, true>(a, walk.pixel, w, counts);
  w += kGroup * 4;
  for (int r = 0, s = 1; r < span.rows; ++r, s = 0) {
    const uint8_t* at = a + r * walk.row + s * kStepBytes;
    for (; s < span.steps; ++s, at += kStepBytes, w += kGroup * 4) count_step<kPixels, false>(at, walk.pixel, w, counts);
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[p][v] = kBegin ? vpaddlq_u8(counts[p][v]) : vpadalq_u8(sums[p][v], counts[p][v]);
  }
}

template <int kPixels>
void count_pixels(const Walk& walk, const uint8_t* a, const uint8_t* w, int16_t* z) {
  uint16x8_t sums[kPixels][kVectors];
  count_span<kPixels, true>(walk, walk.spans[0], a, w, sums);
  for (int i = 1; i < walk.count; ++i) count_span<kPixels, false>(walk, walk.spans[i], a, w, sums);
  const int16x8_t all = vdupq_n_s16(static_cast<int16_t>(walk.bits));
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v += 2) {
      const int16x8_t differing = vreinterpretq_s16_u16(vpaddq_u16(sums[p][v], sums[p][v + 1]));
      vst1q_s16(z + p * kTileChannels + 4 * v, vsubq_s16(all, vshlq_n_s16(differing, 1)));
    }
  }
}

using CountPixels = void (*)(const Walk&, const uint8_t*, const uint8_t*, int16_t*);
constexpr CountPixels kCountPixels[kMaxPixels + 1] = {nullptr, count_pixels<1>, count_pixels<2>, count_pixels<3>, count_pixels<4>};

void binary_tile(const BinaryTile& tile, const uint64_t* weight, int first, int count, int16_t* z) {
  const int64_t group_words = binary_weight_words(tile.in, kGroup, tile.kernel);
  const Walk walk = walk_of(tile);
  const int runs = (tile.columns + kMaxPixels - 1) / kMaxPixels;
  for (int c = 0; c < count; c += kGroup) {
    const auto* w = reinterpret_cast<const uint8_t*>(weight + (first + c) / kGroup * group_words);
    for (int i = 0; i < tile.rows; ++i) {
      const uint8_t* a = static_cast<const uint8_t*>(tile.expanded) + i * tile.stride * walk.row;
      int16_t* to = z + int64_t{i} * tile.columns * kTileChannels + c;
      for (int run = 0; run < runs; ++run) {  // of nearly equal length
        const int begin = tile.columns * run / runs, end = tile.columns * (run + 1) / runs;
        kCountPixels[end - begin](walk, a + begin * walk.pixel, w, to + begin * kTileChannels);
      }
    }
  }
}

// ---- epilogue

// Eight channels of all pixels.
template <bool kActivation>
void apply_eight(const BlockParameters& block, const int16_t* z, int64_t z_stride, int16_t* x, int64_t x_stride, int64_t pixels) {
  const int16x8_t floor = vdupq_n_s16(block.relu ? 0 : INT16_MIN);
  const int16x8_t mean = vld1q_s16(block.mean), multiplier = vld1q_s16(block.multiplier);
  const int32x4_t bias_low = vld1q_s32(block.bias), bias_high = vld1q_s32(block.bias + 4);
  const int32x4_t down = vdupq_n_s32(-block.shift);  // a rounding shift; nothing leaves 32 bits before it
  int16x8_t alpha{}, beta{}, high{}, low{};
  if (kActivation) {
    alpha = vld1q_s16(block.alpha);
    beta = vld1q_s16(block.beta);
    high = vld1q_s16(block.high);
    low = vld1q_s16(block.low);
  }
  for (int64_t p = 0; p < pixels; ++p, z += z_stride, x += x_stride) {
    const int16x8_t r = vsubq_s16(vmaxq_s16(vld1q_s16(z), floor), mean);
    const int32x4_t a = vmlal_s16(bias_low, vget_low_s16(r), vget_low_s16(multiplier)), b = vmlal_high_s16(bias_high, r, multiplier);
    const int16x8_t v = vqmovn_high_s32(vqmovn_s32(vrshlq_s32(a, down)), vrshlq_s32(b, down));
    int16x8_t y = vqaddq_s16(vld1q_s16(x), v);
    if (kActivation) {
      const int16x8_t w = vqsubq_s16(y, alpha);
      const int16x8_t slope = vbslq_s16(vcltzq_s16(w), low, high);
      const int16x4_t scaled = vqrshrn_n_s32(vmull_s16(vget_low_s16(w), vget_low_s16(slope)), 13);
      y = vqsubq_s16(vqrshrn_high_n_s32(scaled, vmull_high_s16(w, slope), 13), beta);
    }
    vst1q_s16(x, y);
  }
}

void block_apply(const BlockParameters& block, const int16_t* z, int64_t z_stride, int16_t* x, int64_t x_stride, int64_t pixels,
                 int channels) {
  const auto apply = block.alpha != nullptr ? apply_eight<true> : apply_eight<false>;
  int c = 0;
  for (; c + 8 <= channels; c += 8) apply(from_channel(block, c), z + c, z_stride, x + c, x_stride, pixels);
  if (c == channels) return;
  kernels_scalar().block_apply(from_channel(block, c), z + c, z_stride, x + c, x_stride, pixels, channels - c);
}

int64_t differing_bits(const uint64_t* a, const uint64_t* b, int64_t words) {
  uint64x2_t total = vdupq_n_u64(0);
  int64_t i = 0;
  for (; i + 2 <= words; i += 2) {
    const uint8x16_t x = vreinterpretq_u8_u64(veorq_u64(vld1q_u64(a + i), vld1q_u64(b + i)));
    total = vpadalq_u32(total, vpaddlq_u16(vpaddlq_u8(vcntq_u8(x))));
  }
  auto count = static_cast<int64_t>(vaddvq_u64(total));
  if (i < words) count += std::popcount(a[i] ^ b[i]);
  return count;
}

Kernels make_table() {
  Kernels table = kernels_scalar();
  table.isa = "neon";
  table.sign_bits = sign_bits;
  table.expand_bits = expand_bits;
  table.binary_weight_words = binary_weight_words;
  table.set_binary_channel = set_binary_channel;
  table.binary_expand = binary_expand;
  table.binary_tile = binary_tile;
  table.block_apply = block_apply;
  table.differing_bits = differing_bits;
  add_dense_neon(table);
  return table;
}

}  // namespace

const Kernels& kernels_neon() {
  static const Kernels table = make_table();
  return table;
}

}  // namespace bitreplay
#endif
