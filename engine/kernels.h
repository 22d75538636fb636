// One table of function pointers: filled with the scalar meaning, then improved per instruction set.  A kernel knows pointers,
// counts and ranges; it never allocates, throws or decides.
#pragma once

#include <cstdint>

namespace bitreplay {

inline constexpr int kTaps = 9;          // of a 3x3 window
inline constexpr int kChannelTile = 4;   // output channels whose weight words lie side by side

struct Kernels {
  const char* isa;

  // 3x3 binary dot products of one pixel with all output channels (docs/method.md, 3.3).
  //   z[c] = taps * 64 * words - unused - 2 * popcount(window xor weights[c]), for c < channels_padded
  // taps: kTaps pointers to `words` words each; a pad of +1 is a row of zeros.
  // weights: (channels_padded / kChannelTile, kTaps, words, kChannelTile), unused bits 0; channels_padded % kChannelTile == 0.
  // bits: kTaps * C, the value of a dot product without any differing bit; bits <= 32767.
  // z: channels_padded int16, not aliased with the inputs.
  void (*binary_conv3x3)(const uint64_t* const* taps, int words, const uint64_t* weights, int channels_padded, int bits,
                         int16_t* z);

  // sum of x[i] * w[i], i < count; |w| <= 127 and sum |w| * 32768 < 2^31.
  int32_t (*dot_i16)(const int16_t* x, const int16_t* w, int count);
};

// The table in force: the best that this processor has, or the one that BITREPLAY_ISA names ("scalar", "avx2").
// Throws std::runtime_error when that one is unknown or missing here.
const Kernels& kernels();

const Kernels& kernels_scalar();
#if defined(__x86_64__) || defined(_M_X64)
#define BITREPLAY_HAVE_AVX2 1
const Kernels& kernels_avx2();
#endif

}  // namespace bitreplay
