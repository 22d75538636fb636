// The binary 3x3 convolution of a block in training off the device: float streams and shadow weights around the integer kernels
// (docs/method.md, 2.6).  Owns the way from floats to bits and 8- or 16-bit gradients and back.  Not part of what runs on a device.
#pragma once

#include <cstdint>

#include "kernels/gradient.h"
#include "memory.h"
#include "workers.h"

namespace bitreplay {

// z = sum over the window of sign(x) sign(W), padded with +1, with straight-through gradients.  Tensors are NHWC, weights (C, 9, C);
// sign(0) = +1.  Results do not depend on threads or instruction set.
class ConvTrainer {
 public:
  explicit ConvTrainer(int threads) : workers_(threads) {}

  // bits: sign of x, gate: |x| <= clip, packed (rows * pixels, words); z: the exact dot products.
  void forward(const Batch& batch, const float* x, const float* weight, float clip, uint64_t* bits, uint64_t* gate, float* z);

  // From g, the gradient of z: dx, zero where the gate is shut, and dw, for the signs of the weights.  g is rounded once, to gradient_bits
  // (8 to 16) of its largest magnitude.  Rows are taken a part at a time, so that sums of 32 bits hold.
  void backward(const Batch& batch, const float* g, const uint64_t* bits, const uint64_t* gate, const float* weight, int gradient_bits,
                float* dx, float* dw);

 private:
  void pack_weight(const Batch& batch, const float* weight);

  Workers workers_;
  Buffer<uint64_t> weight_, scratch_;
  Buffer<int16_t> rounded_;
  Buffer<int32_t> sums_;
};

}  // namespace bitreplay
