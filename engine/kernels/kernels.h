// One table of function pointers for the forward pass: filled with the scalar meaning, then improved per instruction set.  A
// kernel knows pointers, counts and ranges; it never allocates, throws or decides.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace bitreplay {

inline constexpr int kTaps = 9;             // of a 3x3 window
inline constexpr int kTilePixels = 128;     // output pixels of a tile, at most
inline constexpr int kTileChannels = 64;    // output channels that binary_tile computes at once; z's distance between pixels
inline constexpr int kWindowWords = 768;     // of the window of a binary tile, at most
inline constexpr int kExpandedBytes = 2 * kWindowWords * 32 + 128;
inline constexpr int kDenseChannels = 16;   // output channels that dense_tile and depthwise_tile compute at once

// A rectangle of output pixels of a binary convolution and the input bits that it sees.
struct BinaryTile {
  int in, words;          // channels and words of an input pixel
  int kernel, stride;     // 1 or 3; 1 or 2
  int rows, columns;      // of output; rows * columns <= kTilePixels
  const uint64_t* window; // (window_rows, window_columns, words), unused bits 0; a pad of +1 is words of zeros; 2 * words + 1
                          // further words may be read
  void* expanded;         // kExpandedBytes, 64-aligned: what binary_expand makes of the window
  int bits() const { return kernel * kernel * in; }  // a dot product without any differing bit; at most 9216
  int window_rows() const { return (rows - 1) * stride + kernel; }
  int window_columns() const { return (columns - 1) * stride + kernel; }
};

// Per-channel values of a block (docs/method.md, 3.3), those of the first channel first; no activation: alpha is null.
// |mean| <= 9216, |bias| <= 2^29, shift <= 30: all sums fit 32 bits.
struct BlockParameters {
  const int16_t *mean, *multiplier;
  const int32_t* bias;
  int shift;
  bool relu;
  const int16_t *alpha, *beta, *high, *low;
};

inline BlockParameters from_channel(BlockParameters block, int c) {
  for (const int16_t** values : {&block.mean, &block.multiplier, &block.alpha, &block.beta, &block.high, &block.low}) {
    if (*values != nullptr) *values += c;
  }
  block.bias += c;
  return block;
}

// y = sat16(round_shift(acc * multiplier + bias, shift)), then max(y, 0) with relu; |multiplier| <= 2^30, |bias| < 2^61, shift <= 46.
struct AffineParameters {
  const int32_t* multiplier;
  const int64_t* bias;
  int shift;
  bool relu;
};

// Pixels of a dense convolution: the values of pixel p are `rows` runs of 2 * pairs values, at x + p * pixel_stride + r * row_pitch.
struct DenseTile {
  const int16_t* x;
  int pixel_stride, row_pitch;
  int rows, pairs;
  int pixels;
};

// Output pixels of one row of a depth-wise convolution; rows: those of the input under the window, null: outside.
struct DepthwiseTile {
  const int16_t* rows[3];
  int width, channels;  // of the input
  int kernel, stride;
  int first, columns;   // of output
};

struct Kernels {
  const char* isa;

  // bit of channel c = x[p][c] + threshold[c] < 0 (exact), packed as bits.h says; threshold null: 0.
  void (*sign_bits)(const int16_t* x, const int16_t* threshold, int64_t pixels, int channels, uint64_t* bits);
  // x[p][c] = bit ? -alpha[c] : alpha[c]; |alpha| <= 32767.
  void (*expand_bits)(const uint64_t* bits, const int16_t* alpha, int64_t pixels, int channels, int16_t* x);

  // Weights of binary_tile, in the table's own layout: its size, and setting one output channel of zeroed memory from
  // canonical words (kernel * kernel, words), unused bits 0.
  int64_t (*binary_weight_words)(int in, int out, int kernel);
  void (*set_binary_channel)(uint64_t* weight, int in, int kernel, int channel, const uint64_t* canonical);
  void (*binary_expand)(const BinaryTile& tile);
  // z[p * kTileChannels + c] = tile.bits() - 2 * popcount(window of p xor weight[first + c]) for c < count <= kTileChannels;
  // first % kTileChannels == 0; values of c up to the next multiple of 32 may be overwritten.  binary_expand came before.
  void (*binary_tile)(const BinaryTile& tile, const uint64_t* weight, int first, int count, int16_t* z);
  // x = y of docs/method.md 3.3 from z and x; strides are distances between pixels; nothing is aliased.
  void (*block_apply)(const BlockParameters& block, const int16_t* z, int64_t z_stride, int16_t* x, int64_t x_stride, int64_t pixels,
                      int channels);

  // acc[p][c] = sum over k of x[k] * weight[k / 2][c][k % 2], c < kDenseChannels; no sum of magnitudes passes 2^31.
  void (*dense_tile)(const DenseTile& tile, const int16_t* weight, int32_t* acc);
  // acc[j][c] = sum over the taps inside the map, c < count <= kDenseChannels; weight (kernel, kernel, channels), channel 0 of
  // rows and weight being the first of the count.
  void (*depthwise_tile)(const DepthwiseTile& tile, const int16_t* weight, int count, int32_t* acc);
  // y[p * y_stride + c] from acc[p][c], c < count <= kDenseChannels.
  void (*affine)(const AffineParameters& affine, const int32_t* acc, int64_t pixels, int count, int16_t* y, int64_t y_stride);
  // One output row of docs/method.md 3.4 from input rows 2i-1 .. 2i+2 (the outer ones null: outside); width is the input's.
  void (*pool_row)(const int16_t* const rows[4], int width, int channels, int16_t* y);
  // sums[c] = sum of x[p][c], of max(x[p][c], 0) with relu; at most 65536 pixels.
  void (*channel_sums)(const int16_t* x, int64_t pixels, int channels, bool relu, int32_t* sums);

  // sum of x[i] * w[i], i < count; |w| <= 127 and sum |w| * 32768 < 2^31.
  int32_t (*dot_i16)(const int16_t* x, const int16_t* w, int count);
  // popcount(a xor b) of packed rows.
  int64_t (*differing_bits)(const uint64_t* a, const uint64_t* b, int64_t words);
};

// The table in force: the best that this processor has, or the one that BITREPLAY_ISA names ("scalar", "avx2", "avx512", "neon").
// Throws std::runtime_error when that one is unknown or missing here.
const Kernels& kernels();

const Kernels& kernels_scalar();
#if (defined(__x86_64__) || defined(_M_X64)) && !defined(BITREPLAY_SCALAR)
#define BITREPLAY_HAVE_AVX2 1
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
void add_dense_avx2(Kernels& table);  // the kernels on values of many bits have a file of their own
bool has_avx2();
bool has_avx512();  // F, BW, VL, VNNI, VPOPCNTDQ, BITALG: Ice Lake, Zen 4 and later
#endif
#if defined(__aarch64__) && defined(__ARM_NEON) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && !defined(BITREPLAY_SCALAR)
#define BITREPLAY_HAVE_NEON 1  // of every such processor: nothing is detected
const Kernels& kernels_neon();
void add_dense_neon(Kernels& table);
#endif

}  // namespace bitreplay
