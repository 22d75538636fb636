// AVX2.  Four bits of a step choose one of 16 sums of four gradients: a table of 16 bytes that one shuffle looks up for 32
// channels at once, where a multiplication of bytes would take two instructions for 8.  A sum is biased to be positive and
// divided into digits, one table each: 2 digits of 5 bits for gradients of at most 8 bits, else 3 of 6.  Looked-up digits add
// up in bytes for 8 or 4 steps, then in int16, then in int32.
// Bottleneck: two shuffles, two additions and one operation of widening for 128 products of bytes (3, 3 and 3 for int16). Limits:
// channels come in multiples of 64 and images in multiples of 4 and 2; the rest of a tile is zeros.
// The head.  Bottleneck: vpmaddwd, 16 products and an addition behind it; tiles keep 8 or 12 sums in registers.  Features are widened
// from bytes beforehand, as many as the first cache holds.  Limits: values are taken 16 at a time, the rest one by one.
#include "training_tables.h"

#ifdef BITREPLAY_HAVE_AVX2
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "bits.h"
#include "digits.h"
#include "fixed_point.h"
#include "random.h"

#define BITREPLAY_TARGET __attribute__((target("avx2")))
#define BITREPLAY_PRODUCTS 1

namespace bitreplay {
namespace {
namespace avx2 {

constexpr int kRows = 2;
constexpr int kColumns = 64;
constexpr int kVectors = 2;  // of 32 channels
constexpr int kGroup = 8;
constexpr int64_t kBStep = kColumns;  // a nibble in each byte: bit i is that of source i; see put_bits for the order
constexpr int64_t kChunkBytes = 28 * 1024;
constexpr int64_t g_step(bool wide) { return kRows * kTable * (wide ? kDigits16 : kDigits8); }

// Bytes -1 where a bit of the 32 is set.
BITREPLAY_TARGET inline __m256i spread(uint32_t bits) {
  const __m256i byte_of =
      _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ULL));
  const __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(bits)), byte_of), bit_of);
  return _mm256_cmpeq_epi8(v, bit_of);
}

BITREPLAY_TARGET inline void expand_mask(uint64_t word, int8_t* mask) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(mask), spread(static_cast<uint32_t>(word)));
  _mm256_store_si256(reinterpret_cast<__m256i*>(mask + 32), spread(static_cast<uint32_t>(word >> 32)));
}

inline __m256i const* vector_at(const void* p) { return static_cast<const __m256i*>(p); }

BITREPLAY_TARGET uint64_t signs(const int8_t* values, int count) {
  int8_t padded[kWordBits] = {};
  if (count < kWordBits) values = static_cast<const int8_t*>(std::memcpy(padded, values, static_cast<size_t>(count)));
  const auto low = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_loadu_si256(vector_at(values))));
  const auto high = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_loadu_si256(vector_at(values + 32))));
  return low | static_cast<uint64_t>(high) << 32;
}

BITREPLAY_TARGET uint64_t signs(const int16_t* values, int count) {
  int16_t padded[kWordBits] = {};
  if (count < kWordBits)
    values = static_cast<const int16_t*>(std::memcpy(padded, values, static_cast<size_t>(count) * sizeof *values));
  uint64_t word = 0;
  for (int i = 0; i < kWordBits; i += 32) {
    const __m256i v =
        _mm256_packs_epi16(_mm256_loadu_si256(vector_at(values + i)), _mm256_loadu_si256(vector_at(values + i + 16)));
    const auto mask = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(v, 0xd8)));
    word |= static_cast<uint64_t>(mask) << i;
  }
  return word;
}

// Byte p of a vector of 32 holds channel 8 * v + 4 * half + j for p = 16 * half + 2 * (4 * (v % 2) + j) + v / 2: so the int16 of
// even and odd bytes, interleaved to int32, come out in the order of the channels.
BITREPLAY_TARGET inline void put_step(const uint64_t* words, bool, uint8_t* to) {
  const __m256i halves = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  const __m256i places = _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15,  //
                                          0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  for (int v = 0; v < kVectors; ++v) {
    __m256i nibbles = _mm256_setzero_si256();
    for (int i = 0; i < kSources; ++i) {
      const __m256i mask = spread(static_cast<uint32_t>(words[i] >> (32 * v)));
      nibbles = _mm256_or_si256(nibbles, _mm256_and_si256(mask, _mm256_set1_epi8(static_cast<char>(1 << i))));
    }
    nibbles = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(nibbles, halves), places);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + 32 * v), nibbles);
  }
}

// The digits of bias + the sum of the gradients that each nibble chooses.
BITREPLAY_TARGET inline void put_gradients(const int16_t* g, bool wide, int row, uint8_t* to) {
  if (wide) {
    const __m256i zero_to_seven = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i low = _mm256_set1_epi32(kBias16);
    for (int i = 0; i < 3; ++i) {
      const __m256i chosen = _mm256_srai_epi32(_mm256_sllv_epi32(zero_to_seven, _mm256_set1_epi32(31 - i)), 31);
      low = _mm256_add_epi32(low, _mm256_and_si256(chosen, _mm256_set1_epi32(g[i])));
    }
    const __m256i high = _mm256_add_epi32(low, _mm256_set1_epi32(g[3]));
    const __m256i digit = _mm256_set1_epi32((1 << kDigitBits16) - 1);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i d0 = _mm256_packus_epi32(_mm256_and_si256(low, digit), _mm256_and_si256(high, digit));
    const __m256i d1 = _mm256_packus_epi32(_mm256_and_si256(_mm256_srli_epi32(low, kDigitBits16), digit),
                                           _mm256_and_si256(_mm256_srli_epi32(high, kDigitBits16), digit));
    const __m256i d2 = _mm256_packus_epi32(_mm256_srli_epi32(low, 2 * kDigitBits16), _mm256_srli_epi32(high, 2 * kDigitBits16));
    to += row * kDigits16 * kTable;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(_mm256_packus_epi16(d0, d1), order));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * kTable),
                     _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(_mm256_packus_epi16(d2, d2), order)));
  } else {
    const __m256i zero_to_fifteen = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m256i sum = _mm256_set1_epi16(kBias8);
    for (int i = 0; i < kSources; ++i) {
      const __m256i chosen = _mm256_srai_epi16(_mm256_slli_epi16(zero_to_fifteen, 15 - i), 15);
      sum = _mm256_add_epi16(sum, _mm256_and_si256(chosen, _mm256_set1_epi16(g[i])));
    }
    const __m256i digit = _mm256_set1_epi16((1 << kDigitBits8) - 1);
    const __m256i digits = _mm256_packus_epi16(_mm256_and_si256(sum, digit), _mm256_srli_epi16(sum, kDigitBits8));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + row * kDigits8 * kTable), _mm256_permute4x64_epi64(digits, 0xd8));
  }
}

BITREPLAY_TARGET inline void put_group(const int16_t (&g)[kSources][kGroup], bool wide, uint8_t* to, int64_t stride) {
  for (int r = 0; r < kGroup; ++r) {
    const int16_t v[kSources] = {g[0][r], g[1][r], g[2][r], g[3][r]};
    put_gradients(v, wide, r % kRows, to + r / kRows * stride);
  }
}


// int32 of the digits of 16 lanes, low or high half of each 128 bits.
template <int kDigits>
BITREPLAY_TARGET inline __m256i joined(const __m256i (&digits)[kDigits][2], int odd, bool high) {
  constexpr int kBits = kDigits == kDigits8 ? kDigitBits8 : kDigitBits16;
  const __m256i units = _mm256_set1_epi32(1 | 1 << (16 + kBits));
  const __m256i d0 = digits[0][odd], d1 = digits[1][odd];
  __m256i sum = _mm256_madd_epi16(high ? _mm256_unpackhi_epi16(d0, d1) : _mm256_unpacklo_epi16(d0, d1), units);
  if constexpr (kDigits == 3) {
    const __m256i zero = _mm256_setzero_si256(), d2 = digits[2][odd];
    sum = _mm256_add_epi32(
        sum, _mm256_slli_epi32(high ? _mm256_unpackhi_epi16(d2, zero) : _mm256_unpacklo_epi16(d2, zero), 2 * kBits));
  }
  return sum;
}

// Digits of a tile: 16 bits of even and of odd bytes.
template <int kDigits>
struct Digits {
  static constexpr int kLargest = 32768;  // they are multiplied as int16
  __m256i sum_u16x16[kRows][kVectors][kDigits][2];

  BITREPLAY_TARGET inline Digits() { clear(); }
  BITREPLAY_TARGET inline void clear() {
    for (auto& row : sum_u16x16) {
      for (auto& vector : row) {
        for (auto& digit : vector) digit[0] = digit[1] = _mm256_setzero_si256();
      }
    }
  }

  // Sums of bytes stay in registers.
  BITREPLAY_TARGET inline void look_up(const uint8_t* b, const uint8_t* g, int steps) {
    __m256i sum_u8x32[kRows][kVectors][kDigits];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int d = 0; d < kDigits; ++d) sum_u8x32[r][0][d] = sum_u8x32[r][1][d] = _mm256_setzero_si256();
    }
    for (int step = 0; step < steps; ++step, b += kBStep, g += kRows * kDigits * kTable) {
      const __m256i b0 = _mm256_load_si256(vector_at(b)), b1 = _mm256_load_si256(vector_at(b + 32));
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int d = 0; d < kDigits; ++d) {
          const __m256i table =
              _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(g + (r * kDigits + d) * kTable)));
          sum_u8x32[r][0][d] = _mm256_add_epi8(sum_u8x32[r][0][d], _mm256_shuffle_epi8(table, b0));
          sum_u8x32[r][1][d] = _mm256_add_epi8(sum_u8x32[r][1][d], _mm256_shuffle_epi8(table, b1));
        }
      }
    }
    const __m256i low_bytes = _mm256_set1_epi16(255);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
        for (int d = 0; d < kDigits; ++d) {
          __m256i* sum = sum_u16x16[r][v][d];
          sum[0] = _mm256_add_epi16(sum[0], _mm256_and_si256(sum_u8x32[r][v][d], low_bytes));
          sum[1] = _mm256_add_epi16(sum[1], _mm256_srli_epi16(sum_u8x32[r][v][d], 8));
        }
      }
    }
  }

  BITREPLAY_TARGET inline void move(int bias, int32_t* sums) {
    const __m256i biases = _mm256_set1_epi32(bias);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
        for (int part = 0; part < 4; ++part) {
          auto* to = reinterpret_cast<__m256i*>(sums + r * kColumns + v * 32 + part * 8);
          const __m256i sum = joined<kDigits>(sum_u16x16[r][v], part / 2, part % 2 != 0);
          *to = _mm256_add_epi32(*to, _mm256_sub_epi32(sum, biases));
        }
      }
    }
    clear();
  }
};

BITREPLAY_TARGET void add8(const Run* runs, int count, int steps, int32_t* sums) {
  Digits<kDigits8> digits;
  add_digits<kDigits8>(runs, count, steps, kBStep, g_step(false), digits, sums);
}

BITREPLAY_TARGET void add16(const Run* runs, int count, int steps, int32_t* sums) {
  Digits<kDigits16> digits;
  add_digits<kDigits16>(runs, count, steps, kBStep, g_step(true), digits, sums);
}

// ---- the head

constexpr int kRowTile = 2;
constexpr int kPairClasses = 3;
constexpr int64_t kExact = 1024;  // values at a time; a lane of sums takes 128 products of at most 127 * 2^15

// int64 totals of the lanes of four sums.
BITREPLAY_TARGET inline __m256i paired(__m256i sum_i32x8) {
  return _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(sum_i32x8)),
                          _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sum_i32x8, 1)));
}

BITREPLAY_TARGET inline __m256i totals(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i pa = paired(a), pb = paired(b), pc = paired(c), pd = paired(d);
  const __m256i ab = _mm256_add_epi64(_mm256_unpacklo_epi64(pa, pb), _mm256_unpackhi_epi64(pa, pb));
  const __m256i cd = _mm256_add_epi64(_mm256_unpacklo_epi64(pc, pd), _mm256_unpackhi_epi64(pc, pd));
  return _mm256_add_epi64(_mm256_permute2x128_si256(ab, cd, 0x20), _mm256_permute2x128_si256(ab, cd, 0x31));
}

// x (kRowTile, kExact) and w, `stride` apart: sums (kRowTile, kClassTile, `apart` apart) += dot products of `width` <= kExact
// values.
BITREPLAY_TARGET void dot_tile(const int16_t* x, const int16_t* w, int64_t stride, int64_t width, int64_t* sums, int64_t apart) {
  __m256i sum_i32x8[kRowTile][kClassTile];
#pragma GCC unroll 8
  for (int i = 0; i < kRowTile * kClassTile; ++i) sum_i32x8[i / kClassTile][i % kClassTile] = _mm256_setzero_si256();
  const int64_t whole = width / 16 * 16;
  for (int64_t j = 0; j < whole; j += 16) {
    __m256i u[kRowTile];
#pragma GCC unroll 8
    for (int r = 0; r < kRowTile; ++r) u[r] = _mm256_load_si256(reinterpret_cast<const __m256i*>(x + r * kExact + j));
#pragma GCC unroll 8
    for (int c = 0; c < kClassTile; ++c) {
      __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + c * stride + j));
      __asm__("" : "+x"(v));  // one load, not one in each multiplication: loads are the next bottleneck
#pragma GCC unroll 8
      for (int r = 0; r < kRowTile; ++r) sum_i32x8[r][c] = _mm256_add_epi32(sum_i32x8[r][c], _mm256_madd_epi16(u[r], v));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRowTile; ++r) {
    auto* to = reinterpret_cast<__m256i*>(sums + r * apart);
    const auto& s = sum_i32x8[r];
    _mm256_storeu_si256(to, _mm256_add_epi64(_mm256_loadu_si256(to), totals(s[0], s[1], s[2], s[3])));
    for (int c = 0; c < kClassTile; ++c) {
      for (int64_t j = whole; j < width; ++j) sums[r * apart + c] += x[r * kExact + j] * w[c * stride + j];
    }
  }
}

template <int kClasses>
BITREPLAY_TARGET void pair_tile(const int16_t* x, const uint32_t* g, int64_t pairs, int64_t stride, int32_t* sums) {
  __m256i sum_i32x8[kClasses][4];
#pragma GCC unroll 16
  for (int i = 0; i < 4 * kClasses; ++i) sum_i32x8[i / 4][i % 4] = _mm256_setzero_si256();
  for (int64_t pair = 0; pair < pairs; ++pair, x += 64, g += stride) {
    __m256i factor[kClasses];
#pragma GCC unroll 8
    for (int c = 0; c < kClasses; ++c) factor[c] = _mm256_set1_epi32(static_cast<int32_t>(g[c]));
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m256i u = _mm256_load_si256(reinterpret_cast<const __m256i*>(x + 16 * v));
#pragma GCC unroll 8
      for (int c = 0; c < kClasses; ++c) sum_i32x8[c][v] = _mm256_add_epi32(sum_i32x8[c][v], _mm256_madd_epi16(u, factor[c]));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4 * kClasses; ++i) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + i / 4 * 32 + i % 4 * 8), sum_i32x8[i / 4][i % 4]);
  }
}

// The low 32 bits of round_shift(a * b, shift), 0 < shift < 32.
template <int kShift>
BITREPLAY_TARGET inline __m256i scaled(__m256i a, __m256i b) {
  const __m256i half = _mm256_set1_epi64x(int64_t{1} << (kShift - 1));
  const __m256i even = _mm256_add_epi64(_mm256_mul_epi32(a, b), half);
  const __m256i odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(a, 32), b), half);
  return _mm256_blend_epi32(_mm256_srli_epi64(even, kShift), _mm256_slli_epi64(odd, 32 - kShift), 0xaa);
}

// descend where nothing leaves int32.
BITREPLAY_TARGET void descend(int32_t* w, const int32_t* dw, int64_t size, int32_t rate) {
  const __m256i rates = _mm256_set1_epi32(rate);
  int64_t j = 0;
  for (; j + 8 <= size; j += 8) {
    auto* to = reinterpret_cast<__m256i*>(w + j);
    const __m256i v = _mm256_loadu_si256(to);
    const __m256i step = scaled<16>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(dw + j)), rates);
    _mm256_storeu_si256(to, _mm256_sub_epi32(v, step));
  }
  for (; j < size; ++j) {
    w[j] -= static_cast<int32_t>(round_shift(int64_t{dw[j]} * rate, 16));
  }
}

#include "training_leaves.inc"

}  // namespace avx2
}  // namespace

const GradientTable& gradient_avx2() {
  static constexpr GradientTable table = avx2::gradients("avx2");
  return table;
}

const HeadTable& head_avx2() {
  static constexpr HeadTable table = avx2::heads("avx2");
  return table;
}

}  // namespace bitreplay
#endif
