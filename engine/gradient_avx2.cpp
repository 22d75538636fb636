// AVX2.  Bottleneck: a product of bytes takes two instructions (vpmaddubsw, vpaddw) for 32 of them, one of int16 (vpmaddwd,
// vpaddd) two for 16; 6 gradients by 16 channels keep 12 sums in registers.  Sums of bytes are int16: 128 steps of at most 2 * 127.
// Limits: channels come in multiples of 16 and images in multiples of 4 and 6; the rest of a tile is multiplied by 0.
#include "gradient_table.h"

#ifdef BITREPLAY_HAVE_AVX2
#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#include "bits.h"
#include "random.h"
#include "workers.h"

#define BITREPLAY_TARGET __attribute__((target("avx2")))

namespace bitreplay {
namespace {
namespace avx2 {

constexpr int kRows = 6;
constexpr int kColumns = 16;
constexpr int kVectors = 2;  // of 8 channels
constexpr int kStepsPerInt16 = 128;
struct Run;

// Bytes -1 where a bit of the 32 is set.
BITREPLAY_TARGET inline __m256i spread(uint32_t bits) {
  const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ULL));
  const __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(bits)), byte_of), bit_of);
  return _mm256_cmpeq_epi8(v, bit_of);
}

BITREPLAY_TARGET inline void expand_mask(uint64_t word, int8_t* mask) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(mask), spread(static_cast<uint32_t>(word)));
  _mm256_store_si256(reinterpret_cast<__m256i*>(mask + 32), spread(static_cast<uint32_t>(word >> 32)));
}

inline __m256i const* vector_at(const void* p) { return static_cast<const __m256i*>(p); }

BITREPLAY_TARGET uint64_t pack_signs(const int8_t* values, int count) {
  int8_t padded[kWordBits] = {};
  if (count < kWordBits) values = static_cast<const int8_t*>(std::memcpy(padded, values, static_cast<size_t>(count)));
  const auto low = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_loadu_si256(vector_at(values))));
  const auto high = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_loadu_si256(vector_at(values + 32))));
  return low | static_cast<uint64_t>(high) << 32;
}

BITREPLAY_TARGET uint64_t pack_signs(const int16_t* values, int count) {
  int16_t padded[kWordBits] = {};
  if (count < kWordBits) values = static_cast<const int16_t*>(std::memcpy(padded, values, static_cast<size_t>(count) * sizeof *values));
  uint64_t word = 0;
  for (int i = 0; i < kWordBits; i += 32) {
    const __m256i v = _mm256_packs_epi16(_mm256_loadu_si256(vector_at(values + i)), _mm256_loadu_si256(vector_at(values + i + 16)));
    const auto mask = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(v, 0xd8)));
    word |= static_cast<uint64_t>(mask) << i;
  }
  return word;
}

// `to` is 64-aligned.
BITREPLAY_TARGET inline void expand(const uint32_t* chunks, uint8_t* to) {
  const __m128i one = _mm_set1_epi8(1);
  const __m256i low = spread((chunks[0] & 0xffff) | chunks[1] << 16), high = spread((chunks[2] & 0xffff) | chunks[3] << 16);
  const __m128i e0 = _mm_and_si128(_mm256_castsi256_si128(low), one), e1 = _mm_and_si128(_mm256_extracti128_si256(low, 1), one);
  const __m128i e2 = _mm_and_si128(_mm256_castsi256_si128(high), one), e3 = _mm_and_si128(_mm256_extracti128_si256(high, 1), one);
  const __m128i a = _mm_unpacklo_epi8(e0, e1), b = _mm_unpacklo_epi8(e2, e3);
  const __m128i c = _mm_unpackhi_epi8(e0, e1), d = _mm_unpackhi_epi8(e2, e3);
  auto* out = reinterpret_cast<__m128i*>(to);
  _mm_store_si128(out, _mm_unpacklo_epi16(a, b));
  _mm_store_si128(out + 1, _mm_unpackhi_epi16(a, b));
  _mm_store_si128(out + 2, _mm_unpacklo_epi16(c, d));
  _mm_store_si128(out + 3, _mm_unpackhi_epi16(c, d));
}

#include "gradient_passes.inc"

void multiply8(const Run* runs, int count, int steps, int32_t* sums);
void multiply16(const Run* runs, int count, int steps, int32_t* sums);

#include "gradient_tiles.inc"

BITREPLAY_TARGET inline __m256i broadcast(const uint8_t* g) {
  int32_t v;
  std::memcpy(&v, g, sizeof v);
  return _mm256_set1_epi32(v);
}

BITREPLAY_TARGET inline __m256i* sum_at(int32_t* sums, int r, int v) { return reinterpret_cast<__m256i*>(sums + r * kColumns + v * 8); }

BITREPLAY_TARGET void multiply8(const Run* runs, int count, int steps, int32_t* sums) {
  const __m256i ones = _mm256_set1_epi16(1);
  std::fill_n(sums, kSumsInTile, 0);
  __m256i sum_i16x16[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) sum_i16x16[r][0] = sum_i16x16[r][1] = _mm256_setzero_si256();
  int room = kStepsPerInt16;
  for (const Run* run = runs; run < runs + count; ++run) {
    const uint8_t *b = run->b, *g = run->g;
    for (int left = steps; left > 0;) {
      const int now = std::min(left, room);
      left -= now;
      room -= now;
      for (int step = 0; step < now; ++step, b += 64, g += 24) {
        const __m256i b0 = _mm256_load_si256(vector_at(b)), b1 = _mm256_load_si256(vector_at(b + 32));
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
          const __m256i v = broadcast(g + 4 * r);
          sum_i16x16[r][0] = _mm256_add_epi16(sum_i16x16[r][0], _mm256_maddubs_epi16(b0, v));
          sum_i16x16[r][1] = _mm256_add_epi16(sum_i16x16[r][1], _mm256_maddubs_epi16(b1, v));
        }
      }
      if (room > 0 && (left > 0 || run + 1 < runs + count)) continue;
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          *sum_at(sums, r, v) = _mm256_add_epi32(*sum_at(sums, r, v), _mm256_madd_epi16(sum_i16x16[r][v], ones));
          sum_i16x16[r][v] = _mm256_setzero_si256();
        }
      }
      room = kStepsPerInt16;
    }
  }
}

BITREPLAY_TARGET void multiply16(const Run* runs, int count, int steps, int32_t* sums) {
  const __m256i low_bytes = _mm256_set1_epi16(255);
  __m256i sum_i32x8[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) sum_i32x8[r][0] = sum_i32x8[r][1] = _mm256_setzero_si256();
  for (const Run* run = runs; run < runs + count; ++run) {
    const uint8_t *b = run->b, *g = run->g;
    for (int step = 0; step < steps; ++step, b += 64, g += 48) {
      const __m256i even0 = _mm256_and_si256(_mm256_load_si256(vector_at(b)), low_bytes);
      const __m256i even1 = _mm256_and_si256(_mm256_load_si256(vector_at(b + 32)), low_bytes);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const __m256i v = broadcast(g + 4 * r);
        sum_i32x8[r][0] = _mm256_add_epi32(sum_i32x8[r][0], _mm256_madd_epi16(even0, v));
        sum_i32x8[r][1] = _mm256_add_epi32(sum_i32x8[r][1], _mm256_madd_epi16(even1, v));
      }
      const __m256i odd0 = _mm256_srli_epi16(_mm256_load_si256(vector_at(b)), 8);
      const __m256i odd1 = _mm256_srli_epi16(_mm256_load_si256(vector_at(b + 32)), 8);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const __m256i v = broadcast(g + 24 + 4 * r);
        sum_i32x8[r][0] = _mm256_add_epi32(sum_i32x8[r][0], _mm256_madd_epi16(odd0, v));
        sum_i32x8[r][1] = _mm256_add_epi32(sum_i32x8[r][1], _mm256_madd_epi16(odd1, v));
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    *sum_at(sums, r, 0) = sum_i32x8[r][0];
    *sum_at(sums, r, 1) = sum_i32x8[r][1];
  }
}

}  // namespace avx2
}  // namespace

const GradientTable& gradient_avx2() { return avx2::make_table("avx2"); }

}  // namespace bitreplay
#endif
