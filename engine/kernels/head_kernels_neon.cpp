// NEON of aarch64.  Bottleneck: smlal, 4 products and their addition, one a cycle on Cortex-A53 and -A72; tiles keep 16 sums in
// registers, 32 of them for 8 loads.  Features are widened from bytes beforehand, as many as half of the first cache holds.  Limits:
// values are taken 8 at a time, the rest one by one.  Bytes in two digits would take as many multiplications: not done.
#include "head_kernels.h"
#include "kernels.h"

#ifdef BITREPLAY_HAVE_NEON
#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "fixed_point.h"

#define BITREPLAY_TARGET

namespace bitreplay {
namespace {
namespace neon {

constexpr int kRowTile = 4;
constexpr int kClassTile = 4;
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
void descend_narrow(int32_t* w, const int32_t* dw, int64_t size, int32_t rate) {
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

#include "head_passes.inc"

}  // namespace neon
}  // namespace

const HeadTable& head_neon() { return neon::make_table("neon"); }

}  // namespace bitreplay
#endif
