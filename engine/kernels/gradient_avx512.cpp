// AVX-512 with VNNI.  Bottleneck: the dot products of bytes (vpdpbusd, 64 products) or int16 (vpdpwssd, 32), two a cycle on a
// Zen 5; 12 gradients by 32 channels keep 24 sums in registers, so that a step's 24 products read 14 times from L1 or L2.
// Limits: channels come in multiples of 32 and images in multiples of 4 and 12; the rest of a tile is multiplied by 0.
#include "gradient_table.h"

#ifdef BITREPLAY_HAVE_AVX2
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in g++ 12's own header (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
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

#define BITREPLAY_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi2,popcnt,prefer-vector-width=512")))

namespace bitreplay {
namespace {
namespace avx512 {

constexpr int kRows = 12;
constexpr int kColumns = 32;
constexpr int kVectors = 2;  // of 16 channels
constexpr int kGroup = kRows;
constexpr int kSources = 4;
constexpr int64_t kBStep = kColumns * kSources;   // bytes 0 or 1: [channel][source]
constexpr int64_t kStepBytes = int64_t{1} << 30;  // the second cache is fast enough
constexpr int64_t g_step(bool wide) { return wide ? 2 * 4 * kRows : 4 * kRows; }

struct Run {
  const uint8_t* b;
  const uint8_t* g;
};

BITREPLAY_TARGET inline void expand_mask(uint64_t word, int8_t* mask) { _mm512_store_si512(mask, _mm512_movm_epi8(word)); }

BITREPLAY_TARGET uint64_t pack_signs(const int8_t* values, int count) {
  const __mmask64 valid = ~uint64_t{0} >> (kWordBits - count);
  return _mm512_movepi8_mask(_mm512_maskz_loadu_epi8(valid, values));
}

BITREPLAY_TARGET uint64_t pack_signs(const int16_t* values, int count) {
  const __mmask64 valid = ~uint64_t{0} >> (kWordBits - count);
  const uint64_t low = _mm512_movepi16_mask(_mm512_maskz_loadu_epi16(static_cast<__mmask32>(valid), values));
  const uint64_t high = _mm512_movepi16_mask(_mm512_maskz_loadu_epi16(static_cast<__mmask32>(valid >> 32), values + 32));
  return low | high << 32;
}

// For int16 the sources stand in the order 0, 2, 1, 3: a mask and a shift part them into pairs.
BITREPLAY_TARGET inline void put_bits(const uint64_t* words, bool wide, uint8_t* to) {
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

#include "gradient_passes.inc"
#include "gradient_steps.inc"

void add8(const Run* runs, int count, int steps, int32_t* sums);
void add16(const Run* runs, int count, int steps, int32_t* sums);

#include "gradient_tiles.inc"

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

}  // namespace avx512
}  // namespace

const GradientTable& gradient_avx512() { return avx512::make_table("avx512"); }

bool has_gradient_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("bmi2");
}

}  // namespace bitreplay
#endif
