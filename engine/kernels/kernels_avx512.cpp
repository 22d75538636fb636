// AVX-512 with VPOPCNTDQ, BITALG and VNNI: what it improves on AVX2.  Binary convolution: lanes are 32 output channels of 16 bits, so
// that counts are the int16 that the rest wants; xor, popcount, add: three operations on 512 multiply-adds, sums stay in registers over
// the whole window.  Activations are broadcast as 32 bits by the load: even lanes see the one, odd lanes the other half, and then the
// same with the halves exchanged.  Bottleneck: the three operations.  Limits: 32 channels at a time, whose weights (18 KiB at 512
// channels) are read from L1 once for up to 8 pixels.  Not done: x1 ^ x2 ^ x3 and their majority of a row's three taps, from weights and
// activations that are kept as differences, need eight operations instead of nine (2.8 against 2.4 T MAC/s seen from L1 on a Zen 5).
#include "kernels.h"

#ifdef BITREPLAY_HAVE_AVX2
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in g++ 12's own header (its bug 105593)
#include <immintrin.h>

#include <bit>
#include <cstddef>
#include <cstring>

#include "bits.h"

#define BITREPLAY_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni,avx512vpopcntdq,avx512bitalg")))

namespace bitreplay {
namespace {

constexpr int kGroup = 32;     // output channels of one vector of weights
constexpr int kMaxPixels = 8;  // whose sums are kept in registers

BITREPLAY_AVX512 inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }
BITREPLAY_AVX512 inline void store(void* p, __m512i v) { _mm512_storeu_si512(p, v); }

BITREPLAY_AVX512 void sign_bits(const int16_t* x, const int16_t* threshold, int64_t pixels, int channels, uint64_t* bits) {
  const int words = words_for(channels);
  for (int64_t p = 0; p < pixels; ++p, x += channels, bits += words) {
    for (int w = 0; w < words; ++w) {
      uint64_t word = 0;
      for (int half = 0; half < 2; ++half) {
        const int c = w * kWordBits + half * 32;
        if (c >= channels) break;
        const __mmask32 inside = channels - c >= 32 ? ~__mmask32{0} : (__mmask32{1} << (channels - c)) - 1;
        __m512i v = _mm512_maskz_loadu_epi16(inside, x + c);
        if (threshold != nullptr) v = _mm512_adds_epi16(v, _mm512_maskz_loadu_epi16(inside, threshold + c));
        word |= static_cast<uint64_t>(_mm512_movepi16_mask(v)) << (half * 32);
      }
      bits[w] = word;
    }
  }
}

// Vectors that a word of weights takes: no more than there are channels in it.
constexpr int steps_for(int in) { return in <= 32 ? 2 : 4; }

// Weights: (groups, kernel * kernel * words, step, channel), 16 bits each.  A word's 16-bit parts 0..3 come in steps of two: lane c has
// part c % 2, then part 1 - c % 2, then the same of parts 2 and 3.
int64_t binary_weight_words(int in, int out, int kernel) {
  return int64_t{(out + kGroup - 1) / kGroup} * kernel * kernel * words_for(in) * steps_for(in) * kGroup / 4;
}

void set_binary_channel(uint64_t* weight, int in, int kernel, int channel, const uint64_t* canonical) {
  const int length = kernel * kernel * words_for(in), steps = steps_for(in);
  auto* to = reinterpret_cast<unsigned char*>(weight) + int64_t{channel / kGroup} * length * steps * kGroup * 2 + channel % kGroup * 2;
  for (int i = 0; i < length; ++i) {
    for (int step = 0; step < steps; ++step, to += kGroup * 2) {
      const auto part = static_cast<uint16_t>(canonical[i] >> (16 * (step ^ (channel & 1))));
      std::memcpy(to, &part, sizeof part);
    }
  }
}

// For every word of the window its 32-bit halves, each as it is and with its own halves exchanged.
void binary_expand(const BinaryTile& tile) {
  const int total = tile.window_rows() * tile.window_columns() * tile.words;
  auto* out = static_cast<uint32_t*>(tile.expanded);
  const int steps = steps_for(tile.in);
  for (int i = 0; i < total; ++i, out += steps) {
    const auto low = static_cast<uint32_t>(tile.window[i]), high = static_cast<uint32_t>(tile.window[i] >> 32);
    out[0] = low;
    out[1] = std::rotl(low, 16);
    if (steps == 2) continue;
    out[2] = high;
    out[3] = std::rotl(high, 16);
  }
}

template <int kPixels>
BITREPLAY_AVX512 void count_pixels(const BinaryTile& tile, const uint32_t* a, const uint64_t* weight, int16_t* z) {
  const ptrdiff_t pixel = ptrdiff_t{tile.words} * steps_for(tile.in);
  const ptrdiff_t next_pixel = tile.stride * pixel, row = tile.window_columns() * pixel;
  const auto steps = static_cast<int>(tile.kernel * pixel);
  __m512i counts[kPixels];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) counts[p] = _mm512_setzero_si512();
  for (int r = 0; r < tile.kernel; ++r, a += row) {
    for (int s = 0; s < steps; ++s, weight += 8) {
      const __m512i w = load(weight);
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
        const __m512i x = _mm512_xor_si512(w, _mm512_set1_epi32(static_cast<int>(a[p * next_pixel + s])));
        counts[p] = _mm512_add_epi16(counts[p], _mm512_popcnt_epi16(x));
      }
    }
  }
  const __m512i bits = _mm512_set1_epi16(static_cast<int16_t>(tile.bits()));
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) store(z + p * kTileChannels, _mm512_sub_epi16(bits, _mm512_add_epi16(counts[p], counts[p])));
}

using CountPixels = void (*)(const BinaryTile&, const uint32_t*, const uint64_t*, int16_t*);
constexpr CountPixels kCountPixels[kMaxPixels + 1] = {nullptr,         count_pixels<1>, count_pixels<2>, count_pixels<3>, count_pixels<4>,
                                                      count_pixels<5>, count_pixels<6>, count_pixels<7>, count_pixels<8>};

void binary_tile(const BinaryTile& tile, const uint64_t* weight, int first, int count, int16_t* z) {
  const int64_t group_words = binary_weight_words(tile.in, kGroup, tile.kernel);
  const ptrdiff_t pixel = ptrdiff_t{tile.stride} * tile.words * steps_for(tile.in);
  const ptrdiff_t row = tile.window_columns() * pixel;
  const int runs = (tile.columns + kMaxPixels - 1) / kMaxPixels;
  for (int c = 0; c < count; c += kGroup) {
    const uint64_t* w = weight + (first + c) / kGroup * group_words;
    for (int i = 0; i < tile.rows; ++i) {
      const auto* a = static_cast<const uint32_t*>(tile.expanded) + i * row;
      int16_t* to = z + int64_t{i} * tile.columns * kTileChannels + c;
      for (int run = 0; run < runs; ++run) {  // of nearly equal length
        const int begin = tile.columns * run / runs, end = tile.columns * (run + 1) / runs;
        kCountPixels[end - begin](tile, a + begin * pixel, w, to + begin * kTileChannels);
      }
    }
  }
}

// The order in which 32-bit products stand after 16-bit unpacking: 4 of every 8 channels.
BITREPLAY_AVX512 inline void load_unpacked(const int32_t* p, __m512i (&out)[2]) {
  const __m512i a = load(p), b = load(p + 16);
  out[0] = _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13), b);
  out[1] = _mm512_permutex2var_epi64(a, _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15), b);
}

template <bool kActivation>
BITREPLAY_AVX512 void apply_channels(const BlockParameters& block, int first, const int16_t* z, int64_t z_stride, int16_t* x,
                                     int64_t x_stride, int64_t pixels) {
  const __m512i floor = _mm512_set1_epi16(block.relu ? 0 : INT16_MIN);
  const __m512i half = _mm512_set1_epi32(block.shift == 0 ? 0 : 1 << (block.shift - 1));
  const __m512i one_half = _mm512_set1_epi32(1 << 12);
  const __m128i shift = _mm_cvtsi32_si128(block.shift);
  const __m512i mean = load(block.mean + first), multiplier = load(block.multiplier + first);
  __m512i bias[2], alpha{}, beta{}, high{}, low{};
  load_unpacked(block.bias + first, bias);
  bias[0] = _mm512_add_epi32(bias[0], half);
  bias[1] = _mm512_add_epi32(bias[1], half);
  if (kActivation) {
    alpha = load(block.alpha + first);
    beta = load(block.beta + first);
    high = load(block.high + first);
    low = load(block.low + first);
  }
  z += first;
  x += first;
  for (int64_t p = 0; p < pixels; ++p, z += z_stride, x += x_stride) {
    const __m512i r = _mm512_sub_epi16(_mm512_max_epi16(load(z), floor), mean);
    const __m512i product_low = _mm512_mullo_epi16(r, multiplier), product_high = _mm512_mulhi_epi16(r, multiplier);
    const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi16(product_low, product_high), bias[0]);
    const __m512i b = _mm512_add_epi32(_mm512_unpackhi_epi16(product_low, product_high), bias[1]);
    __m512i y = _mm512_adds_epi16(load(x), _mm512_packs_epi32(_mm512_sra_epi32(a, shift), _mm512_sra_epi32(b, shift)));
    if (kActivation) {
      const __m512i w = _mm512_subs_epi16(y, alpha);
      const __m512i slope = _mm512_mask_blend_epi16(_mm512_movepi16_mask(w), high, low);
      const __m512i wl = _mm512_mullo_epi16(w, slope), wh = _mm512_mulhi_epi16(w, slope);
      const __m512i c = _mm512_srai_epi32(_mm512_add_epi32(_mm512_unpacklo_epi16(wl, wh), one_half), 13);
      const __m512i d = _mm512_srai_epi32(_mm512_add_epi32(_mm512_unpackhi_epi16(wl, wh), one_half), 13);
      y = _mm512_subs_epi16(_mm512_packs_epi32(c, d), beta);
    }
    store(x, y);
  }
}

BITREPLAY_AVX512 void block_apply(const BlockParameters& block, const int16_t* z, int64_t z_stride, int16_t* x, int64_t x_stride,
                                  int64_t pixels, int channels) {
  const int whole = channels / 32 * 32;
  for (int c = 0; c < whole; c += 32) {
    if (block.alpha != nullptr) {
      apply_channels<true>(block, c, z, z_stride, x, x_stride, pixels);
    } else {
      apply_channels<false>(block, c, z, z_stride, x, x_stride, pixels);
    }
  }
  if (whole == channels) return;
  kernels_avx2().block_apply(from_channel(block, whole), z + whole, z_stride, x + whole, x_stride, pixels, channels - whole);
}

// ---- values of many bits

template <int kPixels>
BITREPLAY_AVX512 inline void dense_pixels(const DenseTile& tile, const int16_t* x, const int16_t* weight, int32_t* acc) {
  __m512i sum[kPixels];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) sum[p] = _mm512_setzero_si512();
  for (int r = 0; r < tile.rows; ++r) {
    const int16_t* row = x + int64_t{r} * tile.row_pitch;
    for (int k = 0; k < tile.pairs; ++k, row += 2, weight += 2 * kDenseChannels) {
      const __m512i w = load(weight);
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
        int32_t pair;
        std::memcpy(&pair, row + int64_t{p} * tile.pixel_stride, sizeof pair);
        sum[p] = _mm512_dpwssd_epi32(sum[p], w, _mm512_set1_epi32(pair));
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) store(acc + p * kDenseChannels, sum[p]);
}

BITREPLAY_AVX512 void dense_tile(const DenseTile& tile, const int16_t* weight, int32_t* acc) {
  const int16_t* x = tile.x;
  int left = tile.pixels;
  for (; left >= 8; left -= 8, x += 8 * int64_t{tile.pixel_stride}, acc += 8 * kDenseChannels) dense_pixels<8>(tile, x, weight, acc);
  for (; left >= 4; left -= 4, x += 4 * int64_t{tile.pixel_stride}, acc += 4 * kDenseChannels) dense_pixels<4>(tile, x, weight, acc);
  for (; left > 0; --left, x += tile.pixel_stride, acc += kDenseChannels) dense_pixels<1>(tile, x, weight, acc);
}

BITREPLAY_AVX512 int64_t differing_bits(const uint64_t* a, const uint64_t* b, int64_t words) {
  __m512i total = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 8 <= words; i += 8) {
    total = _mm512_add_epi64(total, _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i))));
  }
  if (i < words) {
    const auto rest = static_cast<__mmask8>((1 << (words - i)) - 1);
    total = _mm512_add_epi64(total, _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_maskz_loadu_epi64(rest, a + i), _mm512_maskz_loadu_epi64(rest, b + i))));
  }
  alignas(64) int64_t sums[8];
  _mm512_store_si512(sums, total);
  int64_t count = 0;
  for (const int64_t sum : sums) count += sum;
  return count;
}

Kernels make_table() {
  Kernels table = kernels_avx2();
  table.isa = "avx512";
  table.sign_bits = sign_bits;
  table.binary_weight_words = binary_weight_words;
  table.set_binary_channel = set_binary_channel;
  table.binary_expand = binary_expand;
  table.binary_tile = binary_tile;
  table.block_apply = block_apply;
  table.differing_bits = differing_bits;
  table.dense_tile = dense_tile;
  return table;
}

}  // namespace

const Kernels& kernels_avx512() {
  static const Kernels table = make_table();
  return table;
}

}  // namespace bitreplay
#endif
