// AVX2, signs and binary convolution.  There is no vector popcount, and counting by shuffles costs eight operations on 256 bits.
// Here a shuffle does a table's work instead: lanes are 32 output channels, a byte of weight is one nibble, and the 16-entry table is
// chosen by the activations: entry w of table (a, b) holds popcount(a ^ w) for one pixel in its low and popcount(b ^ w) for a second
// pixel in its high nibble, 256 multiply-adds a shuffle.  Three shuffles are added before a nibble could overflow; then the low nibbles
// are added up as bytes, and the whole shifted right by 4 as 16-bit lanes, from which the low nibbles' part is taken off at the end.
// Nine operations on 768 multiply-adds, against 12 with one pixel a table.  Bottleneck: those operations (four a cycle) and the front end;
// tables (4 KiB), a chunk of weights (3 KiB) and the tile stay in L1.  Limits: weights take a byte a nibble, twice their size; two pixels
// and 64 channels at a time, since g++ spills with more; 32 channels are slower, at half of the sums in flight.
#include "kernels.h"

#ifdef BITREPLAY_HAVE_AVX2
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

#include "bits.h"

#define BITREPLAY_AVX2 __attribute__((target("avx2")))

namespace bitreplay {
namespace {

constexpr int kGroup = 32;                            // output channels of one vector of weights
constexpr int kNibbles = 16;                          // of a word, lowest first
constexpr int kChunkBytes = kNibbles * 3 * kGroup;    // weights of three words: (nibble, word, channel)
constexpr uint8_t kNoWeight = 0x80;                   // a shuffle makes it 0, whatever the table

struct alignas(64) PairTables {
  uint8_t entry[256][16];
};

constexpr PairTables make_tables() {
  PairTables tables{};
  for (unsigned pair = 0; pair < 256; ++pair) {
    for (unsigned w = 0; w < 16; ++w) {
      tables.entry[pair][w] = static_cast<uint8_t>(std::popcount((pair & 15) ^ w) + 16 * std::popcount((pair >> 4) ^ w));
    }
  }
  return tables;
}

constexpr PairTables kTables = make_tables();

BITREPLAY_AVX2 inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
BITREPLAY_AVX2 inline void store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// ---- signs

BITREPLAY_AVX2 inline uint32_t signs_of_32(const int16_t* x, const int16_t* threshold) {
  __m256i a = load(x), b = load(x + 16);
  if (threshold != nullptr) {  // saturation keeps the sign of the exact sum
    a = _mm256_adds_epi16(a, load(threshold));
    b = _mm256_adds_epi16(b, load(threshold + 16));
  }
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8)));
}

BITREPLAY_AVX2 void sign_bits(const int16_t* x, const int16_t* threshold, int64_t pixels, int channels, uint64_t* bits) {
  const int words = words_for(channels);
  for (int64_t p = 0; p < pixels; ++p, x += channels, bits += words) {
    for (int w = 0; w < words; ++w) {
      const int begin = w * kWordBits;
      const int end = std::min(channels, begin + kWordBits);
      uint64_t word = 0;
      int c = begin;
      for (; c + 32 <= end; c += 32) {
        word |= static_cast<uint64_t>(signs_of_32(x + c, threshold ? threshold + c : nullptr)) << (c - begin);
      }
      for (; c < end; ++c) word |= static_cast<uint64_t>(x[c] + (threshold ? threshold[c] : 0) < 0) << (c - begin);
      bits[w] = word;
    }
  }
}

BITREPLAY_AVX2 void expand_bits(const uint64_t* bits, const int16_t* alpha, int64_t pixels, int channels, int16_t* x) {
  const __m256i select = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, INT16_MIN);
  for (int64_t p = 0; p < pixels; ++p, bits += words_for(channels), x += channels) {
    int c = 0;
    for (; c + 16 <= channels; c += 16) {
      const __m256i sixteen = _mm256_set1_epi16(static_cast<int16_t>(bits[c / kWordBits] >> (c % kWordBits)));
      const __m256i negative = _mm256_cmpeq_epi16(_mm256_and_si256(sixteen, select), select);
      store(x + c, _mm256_sub_epi16(_mm256_xor_si256(load(alpha + c), negative), negative));
    }
    for (; c < channels; ++c) x[c] = static_cast<int16_t>(bit_at(bits, c) ? -alpha[c] : alpha[c]);
  }
}

// ---- binary convolution.  Weights: (groups, chunks, nibble, word, 32 bytes); even bytes are channels 0..15, odd ones 16..31.
// A chunk is one word of the three taps of a window's row, or three words of a 1x1 window.

int chunks_for(int words, int kernel) { return kernel == 3 ? 3 * words : (words + 2) / 3; }

int64_t binary_weight_words(int in, int out, int kernel) {
  return int64_t{(out + kGroup - 1) / kGroup} * chunks_for(words_for(in), kernel) * (kChunkBytes / 8);
}

void set_binary_channel(uint64_t* weight, int in, int kernel, int channel, const uint64_t* canonical) {
  const int words = words_for(in);
  const int chunks = chunks_for(words, kernel);
  const int lane = channel % 16 * 2 + channel % kGroup / 16;
  uint8_t* to = reinterpret_cast<uint8_t*>(weight) + int64_t{channel / kGroup} * chunks * kChunkBytes + lane;
  for (int chunk = 0; chunk < chunks; ++chunk, to += kChunkBytes) {
    for (int t = 0; t < 3; ++t) {
      const int index = kernel == 3 ? (chunk / words * 3 + t) * words + chunk % words : chunk * 3 + t;
      const bool inside = index < kernel * kernel * words;
      const uint64_t word = inside ? canonical[index] : 0;
      for (int k = 0; k < kNibbles; ++k) {
        const auto nibble = static_cast<uint8_t>((word >> (4 * k)) & 15);
        to[(k * 3 + t) * kGroup] = inside ? nibble : kNoWeight;
      }
    }
  }
}

// For `count` words the offsets of 16 tables each: nibbles of `first` low, of `second` high.  Reads one word further if count is odd.
BITREPLAY_AVX2 inline void expand_words(const uint64_t* first, const uint64_t* second, int count, uint16_t* out) {
  const __m128i low = _mm_set1_epi8(15);
  for (int i = 0; i < count; i += 2, out += 2 * kNibbles) {
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(first + i));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(second + i));
    const __m128i lows = _mm_or_si128(_mm_and_si128(a, low), _mm_slli_epi16(_mm_and_si128(b, low), 4));
    const __m128i highs = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(a, 4), low), _mm_andnot_si128(low, b));
    store(out, _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(lows, highs)), 4));
    store(out + kNibbles, _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_unpackhi_epi8(lows, highs)), 4));
  }
}

// The window, each pixel paired with the one a stride further right; if the number of output columns is odd, then also what the
// last one sees, each pixel paired with the one a stride further down.
BITREPLAY_AVX2 void binary_expand(const BinaryTile& tile) {
  const int row = tile.window_columns() * tile.words;
  int total = tile.window_rows() * row;
  auto* out = static_cast<uint16_t*>(tile.expanded);
  expand_words(tile.window, tile.window + tile.stride * tile.words, total, out);
  if (tile.columns % 2 == 1) {
    const int column_row = tile.kernel * tile.words;
    const uint64_t* from = tile.window + row - column_row;
    for (int i = 0; i < tile.window_rows(); ++i, from += row, total += column_row) {
      // Below the last rows there is nothing to pair with, and nobody looks.
      const uint64_t* below = i + tile.stride < tile.window_rows() ? from + tile.stride * row : from;
      expand_words(from, below, column_row, out + total * kNibbles);
    }
  }
  // A 1x1 window's last chunk may look two words past the end.
  std::memset(out + total * kNibbles, 0, 2 * kNibbles * sizeof(uint16_t));
}

BITREPLAY_AVX2 inline __m256i table(const uint16_t* offset) {
  const uint8_t* entry = kTables.entry[0] + *offset;
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(entry)));
}

// Where a chunk stands among those of a window: the first one stores counts, others add, the last makes dot products of them.
template <bool kFirst, bool kLast>
BITREPLAY_AVX2 inline void finish(int16_t* z, __m256i counts, __m256i bits) {
  if (!kFirst) counts = _mm256_add_epi16(counts, load(z));
  if (kLast) counts = _mm256_sub_epi16(bits, _mm256_add_epi16(counts, counts));
  store(z, counts);
}

// The pixels of a tile that are computed in pairs, in units of the expanded window and of z.
struct PairWalk {
  const uint16_t* a;
  ptrdiff_t next_word;              // of a chunk
  ptrdiff_t row, pair;              // to the next row, the next pair of a row
  ptrdiff_t z_row, z_pair, z_second;  // the same of z, and to a pair's second pixel
  int rows, pairs;
  bool odd;                         // the very last pair has one pixel only
  int nibbles;                      // of a word that may hold a channel: 8 or 16
};

// One chunk for all pairs of a walk and kGroups groups of channels, `next_group` bytes of weights apart.
template <int kGroups, bool kFirst, bool kLast>
BITREPLAY_AVX2 void count_chunk(const PairWalk& walk, const uint8_t* weight, ptrdiff_t next_group, int bits, int16_t* z) {
  alignas(32) int16_t sink[kTileChannels];
  const __m256i low_nibbles = _mm256_set1_epi8(15);
  const __m256i even = _mm256_set1_epi16(255);
  const __m256i all_bits = _mm256_set1_epi16(static_cast<int16_t>(bits));
  for (int i = 0; i < walk.rows; ++i) {
    const uint16_t* a = walk.a + i * walk.row;
    int16_t* first = z + i * walk.z_row;
    for (int j = 0; j < walk.pairs; ++j, a += walk.pair, first += walk.z_pair) {
      __m256i low[kGroups], both[kGroups];
      for (int g = 0; g < kGroups; ++g) low[g] = both[g] = _mm256_setzero_si256();
#pragma GCC unroll 2
      for (int k = 0; k < walk.nibbles; ++k) {
        const __m256i t0 = table(a + k), t1 = table(a + k + walk.next_word), t2 = table(a + k + 2 * walk.next_word);
#pragma GCC unroll 2
        for (int g = 0; g < kGroups; ++g) {
          const uint8_t* w = weight + g * next_group + k * 3 * kGroup;
          const __m256i sum = _mm256_add_epi8(_mm256_add_epi8(_mm256_shuffle_epi8(t0, load(w)), _mm256_shuffle_epi8(t1, load(w + kGroup))),
                                              _mm256_shuffle_epi8(t2, load(w + 2 * kGroup)));
          low[g] = _mm256_add_epi8(low[g], _mm256_and_si256(sum, low_nibbles));  // at most 16 * 12
          both[g] = _mm256_add_epi16(both[g], _mm256_srli_epi16(sum, 4));  // even byte's high + 16 odd's low + 256 odd's high
        }
      }
      const bool alone = walk.odd && i == walk.rows - 1 && j == walk.pairs - 1;
      int16_t* second = alone ? sink : first + walk.z_second;
      for (int g = 0; g < kGroups; ++g) {
        const __m256i odd_low = _mm256_srli_epi16(low[g], 8);
        const __m256i high = _mm256_sub_epi16(both[g], _mm256_slli_epi16(odd_low, 4));
        finish<kFirst, kLast>(first + g * kGroup, _mm256_and_si256(low[g], even), all_bits);
        finish<kFirst, kLast>(first + g * kGroup + 16, odd_low, all_bits);
        finish<kFirst, kLast>(second + g * kGroup, _mm256_and_si256(high, even), all_bits);
        finish<kFirst, kLast>(second + g * kGroup + 16, _mm256_srli_epi16(high, 8), all_bits);
      }
    }
  }
}

template <int kGroups>
BITREPLAY_AVX2 void count_walk(const BinaryTile& tile, PairWalk walk, ptrdiff_t window_row, const uint8_t* weight, int16_t* z) {
  const int chunks = chunks_for(tile.words, tile.kernel);
  const ptrdiff_t next_group = ptrdiff_t{chunks} * kChunkBytes;
  const uint16_t* begin = walk.a;
  for (int chunk = 0; chunk < chunks; ++chunk, weight += kChunkBytes) {
    const bool first = chunk == 0, last = chunk == chunks - 1;
    walk.a = begin + (tile.kernel == 3 ? chunk / tile.words * window_row + chunk % tile.words * kNibbles : 3 * chunk * kNibbles);
    const auto count = first ? (last ? count_chunk<kGroups, true, true> : count_chunk<kGroups, true, false>)
                             : (last ? count_chunk<kGroups, false, true> : count_chunk<kGroups, false, false>);
    count(walk, weight, next_group, tile.bits(), z);
  }
}

BITREPLAY_AVX2 void binary_tile(const BinaryTile& tile, const uint64_t* weight, int first, int count, int16_t* z) {
  const uint8_t* w = reinterpret_cast<const uint8_t*>(weight) + int64_t{first / kGroup} * chunks_for(tile.words, tile.kernel) * kChunkBytes;
  const ptrdiff_t pixel = ptrdiff_t{tile.words} * kNibbles;  // of the expanded window
  const ptrdiff_t row = tile.window_columns() * pixel;
  PairWalk walk;
  walk.a = static_cast<const uint16_t*>(tile.expanded);
  walk.next_word = tile.kernel == 3 ? pixel : kNibbles;
  walk.row = tile.stride * row;
  walk.pair = 2 * tile.stride * pixel;
  walk.z_row = ptrdiff_t{tile.columns} * kTileChannels;
  walk.z_pair = 2 * kTileChannels;
  walk.z_second = kTileChannels;
  walk.rows = tile.rows;
  walk.pairs = tile.columns / 2;
  walk.odd = false;
  walk.nibbles = tile.in <= 32 ? kNibbles / 2 : kNibbles;
  const auto count_all = count > kGroup ? count_walk<2> : count_walk<1>;
  count_all(tile, walk, row, w, z);
  if (tile.columns % 2 == 0) return;
  // The last column: its pixels are paired with those one row below.
  const ptrdiff_t column_row = tile.kernel * pixel;
  walk.a += tile.window_rows() * row;
  walk.row = 2 * tile.stride * column_row;
  walk.z_row *= 2;
  walk.z_second = ptrdiff_t{tile.columns} * kTileChannels;
  walk.rows = (tile.rows + 1) / 2;
  walk.pairs = 1;
  walk.odd = tile.rows % 2 == 1;
  count_all(tile, walk, column_row, w, z + (tile.columns - 1) * kTileChannels);
}

// ---- the rest of a block, 16 * kVectors channels of all pixels at a time, their parameters in registers

template <int kVectors, bool kActivation>
BITREPLAY_AVX2 void apply_channels(const BlockParameters& block, int first, const int16_t* z, int64_t z_stride, int16_t* x,
                                   int64_t x_stride, int64_t pixels) {
  const __m256i floor = _mm256_set1_epi16(block.relu ? 0 : INT16_MIN);
  const __m256i half = _mm256_set1_epi32(block.shift == 0 ? 0 : 1 << (block.shift - 1));
  const __m128i shift = _mm_cvtsi32_si128(block.shift);
  __m256i mean[kVectors], multiplier[kVectors], bias[kVectors][2];
  __m256i alpha{}, beta{}, high{}, low{};
  for (int v = 0; v < kVectors; ++v) {
    const int c = first + 16 * v;
    mean[v] = load(block.mean + c);
    multiplier[v] = load(block.multiplier + c);
    const __m256i a = _mm256_add_epi32(load(block.bias + c), half), b = _mm256_add_epi32(load(block.bias + c + 8), half);
    bias[v][0] = _mm256_permute2x128_si256(a, b, 0x20);  // in the order of unpacked products
    bias[v][1] = _mm256_permute2x128_si256(a, b, 0x31);
  }
  if (kActivation) {
    alpha = load(block.alpha + first);
    beta = load(block.beta + first);
    high = load(block.high + first);
    low = load(block.low + first);
  }
  z += first;
  x += first;
  for (int64_t p = 0; p < pixels; ++p, z += z_stride, x += x_stride) {
    for (int v = 0; v < kVectors; ++v) {
      const __m256i r = _mm256_sub_epi16(_mm256_max_epi16(load(z + 16 * v), floor), mean[v]);
      const __m256i product_low = _mm256_mullo_epi16(r, multiplier[v]), product_high = _mm256_mulhi_epi16(r, multiplier[v]);
      const __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi16(product_low, product_high), bias[v][0]);
      const __m256i b = _mm256_add_epi32(_mm256_unpackhi_epi16(product_low, product_high), bias[v][1]);
      __m256i y = _mm256_adds_epi16(load(x + 16 * v), _mm256_packs_epi32(_mm256_sra_epi32(a, shift), _mm256_sra_epi32(b, shift)));
      if (kActivation) {
        const __m256i w = _mm256_subs_epi16(y, alpha);
        const __m256i slope = _mm256_blendv_epi8(high, low, _mm256_srai_epi16(w, 15));
        const __m256i wl = _mm256_mullo_epi16(w, slope), wh = _mm256_mulhi_epi16(w, slope);
        const __m256i one_half = _mm256_set1_epi32(1 << 12);
        const __m256i c = _mm256_srai_epi32(_mm256_add_epi32(_mm256_unpacklo_epi16(wl, wh), one_half), 13);
        const __m256i d = _mm256_srai_epi32(_mm256_add_epi32(_mm256_unpackhi_epi16(wl, wh), one_half), 13);
        y = _mm256_subs_epi16(_mm256_packs_epi32(c, d), beta);
      }
      store(x + 16 * v, y);
    }
  }
}

BITREPLAY_AVX2 void block_apply(const BlockParameters& block, const int16_t* z, int64_t z_stride, int16_t* x, int64_t x_stride,
                                int64_t pixels, int channels) {
  int c = 0;
  if (block.alpha != nullptr) {
    for (; c + 16 <= channels; c += 16) apply_channels<1, true>(block, c, z, z_stride, x, x_stride, pixels);
  } else {
    for (; c + 32 <= channels; c += 32) apply_channels<2, false>(block, c, z, z_stride, x, x_stride, pixels);
    for (; c + 16 <= channels; c += 16) apply_channels<1, false>(block, c, z, z_stride, x, x_stride, pixels);
  }
  if (c == channels) return;
  kernels_scalar().block_apply(from_channel(block, c), z + c, z_stride, x + c, x_stride, pixels, channels - c);
}

// The counts of both halves of every byte from a table, bytes summed before they overflow: 31 times at most 8.
BITREPLAY_AVX2 int64_t differing_bits(const uint64_t* a, const uint64_t* b, int64_t words) {
  const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15);
  __m256i total = _mm256_setzero_si256();
  int64_t i = 0;
  while (i + 4 <= words) {
    __m256i bytes = _mm256_setzero_si256();
    for (int rounds = 0; rounds < 31 && i + 4 <= words; ++rounds, i += 4) {
      const __m256i x = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + i)));
      bytes = _mm256_add_epi8(bytes, _mm256_shuffle_epi8(counts, _mm256_and_si256(x, low)));
      bytes = _mm256_add_epi8(bytes, _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(x, 4), low)));
    }
    total = _mm256_add_epi64(total, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
  }
  alignas(32) int64_t sums[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(sums), total);
  int64_t count = sums[0] + sums[1] + sums[2] + sums[3];
  for (; i < words; ++i) count += std::popcount(a[i] ^ b[i]);
  return count;
}

Kernels make_table() {
  Kernels table = kernels_scalar();
  table.isa = "avx2";
  table.sign_bits = sign_bits;
  table.expand_bits = expand_bits;
  table.binary_weight_words = binary_weight_words;
  table.set_binary_channel = set_binary_channel;
  table.binary_expand = binary_expand;
  table.binary_tile = binary_tile;
  table.block_apply = block_apply;
  table.differing_bits = differing_bits;
  add_dense_avx2(table);
  return table;
}

}  // namespace

const Kernels& kernels_avx2() {
  static const Kernels table = make_table();
  return table;
}

}  // namespace bitreplay
#endif
