// AVX-512 with VNNI.  Bottleneck: the dot products of bytes (vpdpbusd, 64 products) or int16 (vpdpwssd, 32), two a cycle on a
// Zen 5; 12 gradients by 32 channels keep 24 sums in registers, so that a step's 24 products read 14 times from L1 or L2.
// Limits: channels come in multiples of 32 and images in multiples of 4 and 12; the rest of a tile is multiplied by 0.
// The head.  Bottleneck: vpdpwssd, 32 products; tiles keep 16 sums in registers.  Features are widened from bytes
// beforehand, as many as the first cache holds.  Limits: values are taken 32 at a time, the rest one by one.
#include "training_tables.h"

#ifdef BITREPLAY_HAVE_AVX2
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in g++ 12's own header (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "bits.h"
#include "fixed_point.h"
#include "random.h"

#define BITREPLAY_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi2,popcnt,prefer-vector-width=512")))
#define BITREPLAY_PRODUCTS 1

namespace bitreplay {
namespace {
namespace avx512 {

constexpr int kRows = 12;
constexpr int kColumns = 32;
constexpr int kVectors = 2;  // of 16 channels
constexpr int kGroup = kRows;
constexpr int64_t kBStep = kColumns * kSources;   // bytes 0 or 1: [channel][source]
constexpr int64_t kChunkBytes = int64_t{1} << 30;  // the second cache is fast enough
constexpr int64_t g_step(bool wide) { return wide ? 2 * 4 * kRows : 4 * kRows; }

BITREPLAY_TARGET inline void expand_mask(uint64_t word, int8_t* mask) { _mm512_store_si512(mask, _mm512_movm_epi8(word)); }

BITREPLAY_TARGET uint64_t signs(const int8_t* values, int count) {
  const __mmask64 valid = ~uint64_t{0} >> (kWordBits - count);
  return _mm512_movepi8_mask(_mm512_maskz_loadu_epi8(valid, values));
}

BITREPLAY_TARGET uint64_t signs(const int16_t* values, int count) {
  const __mmask64 valid = ~uint64_t{0} >> (kWordBits - count);
  const uint64_t low = _mm512_movepi16_mask(_mm512_maskz_loadu_epi16(static_cast<__mmask32>(valid), values));
  const uint64_t high = _mm512_movepi16_mask(_mm512_maskz_loadu_epi16(static_cast<__mmask32>(valid >> 32), values + 32));
  return low | high << 32;
}

// For int16 the sources stand in the order 0, 2, 1, 3: a mask and a shift part them into pairs.
BITREPLAY_TARGET inline void put_step(const uint64_t* words, bool wide, uint8_t* to) {
  const __m512i one = _mm512_set1_epi8(1);
  for (int v = 0; v < kVectors; ++v) {
    uint64_t mask = 0;
    for (int i = 0; i < kSources; ++i) {
      const int place = wide && (i == 1 || i == 2) ? 3 - i : i;
      mask |= _pdep_u64((words[i] >> (16 * v)) & 0xffff, 0x1111111111111111ULL << place);
    }
    _mm512_store_si512(to + 64 * v, _mm512_maskz_mov_epi8(mask, one));
  }
}

// Bytes (kRows, 4), or int16 (kRows) pairs of sources 0 and 1, then of 2 and 3.
inline void put_gradients(const int16_t* g, bool wide, int row, uint8_t* to) {
  if (wide) {
    std::memcpy(to + 4 * row, g, 4);
    std::memcpy(to + 4 * (kRows + row), g + 2, 4);
  } else {
    const int8_t bytes[kSources] = {static_cast<int8_t>(g[0]), static_cast<int8_t>(g[1]), static_cast<int8_t>(g[2]),
                                    static_cast<int8_t>(g[3])};
    std::memcpy(to + 4 * row, bytes, 4);
  }
}

BITREPLAY_TARGET inline void put_group(const int16_t (&g)[kSources][kGroup], bool wide, uint8_t* to, int64_t) {
  uint32_t out[2 * kRows];
  if (wide) {
    for (int r = 0; r < kRows; ++r) out[r] = static_cast<uint16_t>(g[0][r]) | static_cast<uint32_t>(g[1][r]) << 16;
    for (int r = 0; r < kRows; ++r) out[kRows + r] = static_cast<uint16_t>(g[2][r]) | static_cast<uint32_t>(g[3][r]) << 16;
    std::memcpy(to, out, sizeof out);
  } else {
    for (int r = 0; r < kRows; ++r) {
      out[r] = static_cast<uint8_t>(g[0][r]) | static_cast<uint32_t>(static_cast<uint8_t>(g[1][r])) << 8 |
               static_cast<uint32_t>(static_cast<uint8_t>(g[2][r])) << 16 |
               static_cast<uint32_t>(static_cast<uint8_t>(g[3][r])) << 24;
    }
    std::memcpy(to, out, sizeof out / 2);
  }
}

BITREPLAY_TARGET inline __m512i broadcast(const uint8_t* g) {
  int32_t v;
  std::memcpy(&v, g, sizeof v);
  return _mm512_set1_epi32(v);
}

BITREPLAY_TARGET inline void load(const int32_t* sums, __m512i (&sum_i32x16)[kRows][kVectors]) {
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    sum_i32x16[r][0] = _mm512_load_si512(sums + r * kColumns);
    sum_i32x16[r][1] = _mm512_load_si512(sums + r * kColumns + 16);
  }
}

BITREPLAY_TARGET inline void store(const __m512i (&sum_i32x16)[kRows][kVectors], int32_t* sums) {
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    _mm512_store_si512(sums + r * kColumns, sum_i32x16[r][0]);
    _mm512_store_si512(sums + r * kColumns + 16, sum_i32x16[r][1]);
  }
}

BITREPLAY_TARGET void add8(const Run* runs, int count, int steps, int32_t* sums) {
  __m512i sum_i32x16[kRows][kVectors];
  load(sums, sum_i32x16);
  for (const Run* run = runs; run < runs + count; ++run) {
    const uint8_t *b = run->b, *g = run->g;
    for (int step = 0; step < steps; ++step, b += 128, g += 48) {
      const __m512i b0 = _mm512_load_si512(b), b1 = _mm512_load_si512(b + 64);
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        const __m512i v = broadcast(g + 4 * r);
        sum_i32x16[r][0] = _mm512_dpbusd_epi32(sum_i32x16[r][0], b0, v);
        sum_i32x16[r][1] = _mm512_dpbusd_epi32(sum_i32x16[r][1], b1, v);
      }
    }
  }
  store(sum_i32x16, sums);
}

BITREPLAY_TARGET void add16(const Run* runs, int count, int steps, int32_t* sums) {
  const __m512i low_bytes = _mm512_set1_epi16(255);
  __m512i sum_i32x16[kRows][kVectors];
  load(sums, sum_i32x16);
  for (const Run* run = runs; run < runs + count; ++run) {
    const uint8_t *b = run->b, *g = run->g;
    for (int step = 0; step < steps; ++step, b += 128, g += 96) {
      const __m512i b0 = _mm512_load_si512(b), b1 = _mm512_load_si512(b + 64);
      const __m512i even0 = _mm512_and_si512(b0, low_bytes), odd0 = _mm512_srli_epi16(b0, 8);
      const __m512i even1 = _mm512_and_si512(b1, low_bytes), odd1 = _mm512_srli_epi16(b1, 8);
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        const __m512i v = broadcast(g + 4 * r), w = broadcast(g + 48 + 4 * r);
        sum_i32x16[r][0] = _mm512_dpwssd_epi32(sum_i32x16[r][0], even0, v);
        sum_i32x16[r][1] = _mm512_dpwssd_epi32(sum_i32x16[r][1], even1, v);
        sum_i32x16[r][0] = _mm512_dpwssd_epi32(sum_i32x16[r][0], odd0, w);
        sum_i32x16[r][1] = _mm512_dpwssd_epi32(sum_i32x16[r][1], odd1, w);
      }
    }
  }
  store(sum_i32x16, sums);
}

// ---- the head

constexpr int kRowTile = 4;
constexpr int kPairClasses = 8;
constexpr int64_t kExact = 1024;  // values at a time; a folded lane of sums takes 128 products of at most 127 * 2^15

// The two halves of a sum, added: by way of memory, since g++ 12 warns of the intrinsics that part them.
BITREPLAY_TARGET inline __m256i folded(__m512i v) {
  alignas(64) __m256i halves[2];
  _mm512_store_si512(halves, v);
  return _mm256_add_epi32(halves[0], halves[1]);
}

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
  __m512i sum_i32x16[kRowTile][kClassTile];
#pragma GCC unroll 16
  for (int i = 0; i < kRowTile * kClassTile; ++i) sum_i32x16[i / kClassTile][i % kClassTile] = _mm512_setzero_si512();
  const int64_t whole = width / 32 * 32;
  for (int64_t j = 0; j < whole; j += 32) {
    __m512i u[kRowTile];
#pragma GCC unroll 8
    for (int r = 0; r < kRowTile; ++r) u[r] = _mm512_load_si512(x + r * kExact + j);
#pragma GCC unroll 8
    for (int c = 0; c < kClassTile; ++c) {
      const __m512i v = _mm512_loadu_si512(w + c * stride + j);
#pragma GCC unroll 8
      for (int r = 0; r < kRowTile; ++r) sum_i32x16[r][c] = _mm512_dpwssd_epi32(sum_i32x16[r][c], u[r], v);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRowTile; ++r) {
    auto* to = reinterpret_cast<__m256i*>(sums + r * apart);
    const auto& s = sum_i32x16[r];
    const __m256i found = totals(folded(s[0]), folded(s[1]), folded(s[2]), folded(s[3]));
    _mm256_storeu_si256(to, _mm256_add_epi64(_mm256_loadu_si256(to), found));
    for (int c = 0; c < kClassTile; ++c) {
      for (int64_t j = whole; j < width; ++j) sums[r * apart + c] += x[r * kExact + j] * w[c * stride + j];
    }
  }
}

template <int kClasses>
BITREPLAY_TARGET void pair_tile(const int16_t* x, const uint32_t* g, int64_t pairs, int64_t stride, int32_t* sums) {
  __m512i sum_i32x16[kClasses][2];
#pragma GCC unroll 16
  for (int c = 0; c < kClasses; ++c) sum_i32x16[c][0] = sum_i32x16[c][1] = _mm512_setzero_si512();
  for (int64_t pair = 0; pair < pairs; ++pair, x += 64, g += stride) {
    const __m512i x0 = _mm512_load_si512(x), x1 = _mm512_load_si512(x + 32);
#pragma GCC unroll 16
    for (int c = 0; c < kClasses; ++c) {
      const __m512i factor = _mm512_set1_epi32(static_cast<int32_t>(g[c]));
      sum_i32x16[c][0] = _mm512_dpwssd_epi32(sum_i32x16[c][0], x0, factor);
      sum_i32x16[c][1] = _mm512_dpwssd_epi32(sum_i32x16[c][1], x1, factor);
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < kClasses; ++c) {
    _mm512_store_si512(sums + c * 32, sum_i32x16[c][0]);
    _mm512_store_si512(sums + c * 32 + 16, sum_i32x16[c][1]);
  }
}

// The low 32 bits of round_shift(a * b, shift), 0 < shift <= 32.
BITREPLAY_TARGET inline int32_t scaled(int32_t a, int32_t b, int shift) {
  return static_cast<int32_t>((static_cast<uint64_t>(int64_t{a} * b) + (uint64_t{1} << (shift - 1))) >> shift);
}

// descend where nothing leaves int32.
BITREPLAY_TARGET void descend(int32_t* __restrict w, const int32_t* dw, int64_t size, int32_t rate) {
  for (int64_t j = 0; j < size; ++j) w[j] -= scaled(dw[j], rate, 16);
}

#include "training_leaves.inc"

}  // namespace avx512
}  // namespace

const GradientTable& gradient_avx512() {
  static constexpr GradientTable table = avx512::gradients("avx512");
  return table;
}

const HeadTable& head_avx512() {
  static constexpr HeadTable table = avx512::heads("avx512");
  return table;
}

}  // namespace bitreplay
#endif
