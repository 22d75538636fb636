// The plain meaning of every kernel: read this one.
#include <bit>

#include "kernels.h"

namespace bitreplay {
namespace {

void binary_conv3x3(const uint64_t* const* taps, int words, const uint64_t* weights, int channels_padded, int bits,
                    int16_t* z) {
  for (int tile = 0; tile < channels_padded; tile += kChannelTile) {
    int differing[kChannelTile] = {};
    for (int t = 0; t < kTaps; ++t) {
      for (int w = 0; w < words; ++w) {
        for (int c = 0; c < kChannelTile; ++c) differing[c] += std::popcount(taps[t][w] ^ *weights++);
      }
    }
    for (int c = 0; c < kChannelTile; ++c) z[tile + c] = static_cast<int16_t>(bits - 2 * differing[c]);
  }
}

int32_t dot_i16(const int16_t* x, const int16_t* w, int count) {
  int32_t sum = 0;
  for (int i = 0; i < count; ++i) sum += static_cast<int32_t>(x[i]) * w[i];
  return sum;
}

}  // namespace

const Kernels& kernels_scalar() {
  static const Kernels table{"scalar", binary_conv3x3, dot_i16};
  return table;
}

}  // namespace bitreplay
