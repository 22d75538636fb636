// The leaves of training, a table of them for gradient.h and one for head_kernels.h: small functions on pointers and counts, whose speed
// depends on the instruction set.  Loops over tiles, minibatches and workers are those of gradient.cpp, gradient_products.cpp and
// head_kernels.cpp, once for all.  Which tables are in force follows kernels().isa.
#pragma once

#include <string_view>

#include "gradient.h"
#include "head_kernels.h"
#include "kernels.h"

namespace bitreplay {

// A column of a tensor: channels [begin, end) of every pixel.
struct Strip {
  int64_t pixels;
  int channels, begin, end;
};

// How values are shifted down with rounding (7.3): to nearest ((t >> first) + up) >> last, or with noise.
struct Drop {
  int shift, first, up, last;
  int32_t limit;
  bool noisy;
  uint64_t key;
};

// Steps of a product that follow one another: their bits, their gradients.
struct Run {
  const uint8_t* b;
  const uint8_t* g;
};

inline constexpr int kSources = 4;  // terms of a sum that a step adds

// How gradient_products.cpp tiles sums of g b, bits b: a tile is `rows` gradients of one kind by `columns` channels (a divisor of 64).
// A leaf with `wide` takes gradients of 16 bits, else they fit bytes.
struct ProductTable {
  int rows, columns;
  int group;            // rows of dW that are laid out at a time, a multiple of `rows`
  int64_t b_step;       // bytes of a step's bits
  int64_t g_step[2];    // of its gradients: [wide]
  int64_t chunk_bytes;  // of steps to go through again and again: what the first cache holds
  // The steps of `count` sources, `stride` words apart, from the low `columns` bits of word >> shift.
  void (*put_bits)(const uint64_t* words, int64_t stride, int64_t count, int shift, bool wide, uint8_t* to);
  // The steps of up to `rows` images at one pixel, `stride` values apart, sources being `channels` output channels; and their totals.
  void (*put_images)(const int16_t* gz, int64_t stride, int images, int channels, bool wide, uint8_t* to, int32_t* totals);
  // The steps of `channels` <= group output channels at one pixel, sources being images `stride` values apart; tiles are `tile_stride`
  // bytes apart.  Adds to totals.
  void (*put_channels)(const int16_t* gz, int64_t stride, int images, int channels, bool wide, uint8_t* to, int64_t tile_stride,
                       int32_t* totals);
  // sums (rows, columns) += sum of g b over runs of `steps` steps: [wide].
  void (*add[2])(const Run* runs, int count, int steps, int32_t* sums);
  // to[r * stride + j] = total[r] - 2 sums[r][j].
  void (*put_sums)(const int32_t* sums, const int32_t* total, int rows, int columns, int64_t stride, int32_t* to);
};

// Formulas and ranges of the passes: gradient.h.  A *_sums adds to the sums and returns the largest magnitude of what is to be rounded.
struct GradientTable {
  const char* isa;
  uint32_t (*largest32)(const int32_t* values, int64_t count);
  uint64_t (*largest64)(const int64_t* values, int64_t count);
  void (*round32)(const int32_t* values, int64_t count, int64_t index, const Drop& drop, int16_t* out);
  void (*round64)(const int64_t* values, int64_t count, int64_t index, const Drop& drop, int16_t* out);
  // floor: 0 with relu, else below every z.
  uint32_t (*norm_sums)(const Strip& strip, const int16_t* g, const int16_t* z, const int16_t* mean, const int16_t* multiplier, int32_t floor,
                        int64_t* d_multiplier, int64_t* d_bias);
  void (*norm_round)(const Strip& strip, const int16_t* g, const int16_t* z, const int16_t* multiplier, int32_t floor, const Drop& drop,
                     int16_t* gz);
  uint32_t (*activation_sums)(const Strip& strip, const int16_t* g, const int16_t* w, const int16_t* high, const int16_t* low, int64_t* d_high,
                              int64_t* d_low, int64_t* d_alpha, int64_t* d_beta);
  void (*activation_round)(const Strip& strip, const int16_t* g, const int16_t* w, const int16_t* high, const int16_t* low, const Drop& drop,
                           int16_t* gu);
  // [0] with totals that fit 31 bits, [1] with any.  Without a drop the sums and the largest, with one gx.
  uint64_t (*stream[2])(const Strip& strip, const int16_t* gu, const int32_t* da, const int16_t* x, const Gate& gate, int shift,
                        int64_t* d_threshold, const Drop* drop, int16_t* gx);
  // shadow <- clamp(shadow - (dw shifted down by k, with noise)), k <= 31.
  void (*shift8)(const int32_t* dw, int64_t count, int k, uint64_t key, int8_t* shadow);
  void (*shift16)(const int32_t* dw, int64_t count, int k, uint64_t key, int16_t* shadow);
  // Bit i: value i of `count` <= 64 is negative.
  uint64_t (*signs8)(const int8_t* values, int count);
  uint64_t (*signs16)(const int16_t* values, int count);
  // b_w = 1: -1 where a weight of +1 turns over (`fall`), or one of -1 (`rise`), if it is one; chance = |dw| << up >> down.
  void (*choose_flips)(const int32_t* dw, int64_t count, uint32_t index, int up, int down, uint64_t key, int8_t* fall, int8_t* rise);
  const ProductTable* product;  // nullptr: plain loops
};

inline constexpr int kRowBlock = 16;        // rows of features that are widened at a time, a multiple of row_tile
inline constexpr int kMostExact = 1024;
inline constexpr int kClassTile = 4;
inline constexpr int kMostPairClasses = 8;
inline constexpr int kPairFeatures = 32;

// How head_kernels.cpp multiplies.  Features are widened to int16 a block at a time.
struct HeadProductTable {
  int row_tile, pair_classes;
  int64_t exact;  // values that are widened and multiplied at a time, <= kMostExact
  // sums (row_tile, kClassTile), `apart` apart, += dot products of `width` <= exact values of x (row_tile, exact) and w, `stride` apart.
  void (*dot_tile)(const int16_t* x, const int16_t* w, int64_t stride, int64_t width, int64_t* sums, int64_t apart);
  // sums (pair_classes, kPairFeatures), of one class in one_class, from pairs of rows x (pairs, kPairFeatures, 2), g (pairs, stride; 2).
  void (*pair_tile)(const int16_t* x, const uint32_t* g, int64_t pairs, int64_t stride, int32_t* sums);
  void (*pair_tile_of_one)(const int16_t* x, const uint32_t* g, int64_t pairs, int64_t stride, int32_t* sums);
  void (*widen)(const int8_t* from, int64_t count, int16_t* to);
  // Gradients of two rows side by side: one multiplication and addition of int16.
  void (*put_pairs)(const int16_t* g, int rows, int classes, uint32_t* to);
  // kPairFeatures values of two rows side by side, of which `count` are there; the gradient of a row that is missing is 0.
  void (*put_features)(const int8_t* features, int rows, int64_t width, int count, int16_t* to);
};

struct HeadTable {
  const char* isa;
  // A row of head_softmax, of head_input_gradient.
  void (*softmax)(int64_t* values, int classes, const int64_t* prior, int ghosts);
  void (*input_gradient)(const int16_t* g, int classes, const int16_t* forward, int64_t width, int64_t* dh);
  // head_descend where nothing leaves int32: |w| < 2^30, the step below 2^28.
  uint32_t (*largest)(const int32_t* values, int64_t count);
  void (*descend)(int32_t* w, const int32_t* dw, int64_t size, int32_t rate);
  void (*high_halves)(const int32_t* w, int64_t size, int16_t* forward);
  const HeadProductTable* product;  // nullptr: plain loops
};

const GradientTable& gradient_scalar();
const GradientTable& gradient_avx2();
const GradientTable& gradient_avx512();
const GradientTable& gradient_neon();
const HeadTable& head_scalar();
const HeadTable& head_avx2();
const HeadTable& head_avx512();
const HeadTable& head_neon();

// All that are built in, scalar first.
#if defined(BITREPLAY_HAVE_AVX2)
inline constexpr const GradientTable& (*kGradientTables[])() = {gradient_scalar, gradient_avx2, gradient_avx512};
inline constexpr const HeadTable& (*kHeadTables[])() = {head_scalar, head_avx2, head_avx512};
#elif defined(BITREPLAY_HAVE_NEON)
inline constexpr const GradientTable& (*kGradientTables[])() = {gradient_scalar, gradient_neon};
inline constexpr const HeadTable& (*kHeadTables[])() = {head_scalar, head_neon};
#else
inline constexpr const GradientTable& (*kGradientTables[])() = {gradient_scalar};
inline constexpr const HeadTable& (*kHeadTables[])() = {head_scalar};
#endif

// The one of `tables` whose isa is in force.
template <class Tables>
const auto& in_force(const Tables& tables) {
  const auto* chosen = &tables[0]();
  for (const auto table : tables) {
    if (table().isa == std::string_view(kernels().isa)) chosen = &table();
  }
  return *chosen;
}

}  // namespace bitreplay
