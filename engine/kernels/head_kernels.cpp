// The plain meaning of head_kernels.h, and the choice of a table.
#include "head_kernels.h"

#include <algorithm>
#include <cstring>

#include "fixed_point.h"
#include "gradient_table.h"
#include "kernels.h"

namespace bitreplay {
namespace {
namespace plain {

constexpr int kForwardBits = 11;  // fraction bits of a forward weight
constexpr int kLogitBits = 16;
constexpr int64_t kLog2E = 94548;  // log2(e) with 16 fraction bits

void logits(const HeadBatch& batch, const int8_t* features, const int16_t* forward, int feature_bits, int64_t* out) {
  const int shift = feature_bits + kForwardBits - kLogitBits;
  for (int b = 0; b < batch.rows; ++b, features += batch.width) {
    for (int c = 0; c < batch.classes; ++c) {
      const int16_t* w = forward + static_cast<int64_t>(c) * batch.width;
      int64_t sum = 0;
      for (int j = 0; j < batch.width; ++j) sum += features[j] * w[j];
      *out++ = shift >= 0 ? round_shift(sum, shift) : sum * (int64_t{1} << -shift);
    }
  }
}

void softmax(const HeadBatch& batch, int64_t* values, const int64_t* prior, int ghosts) {
  for (int b = 0; b < batch.rows; ++b, values += batch.classes) {
    int64_t top = ghosts > 0 ? 0 : INT64_MIN;
    for (int c = 0; c < batch.classes; ++c) top = std::max(top, values[c] += prior[c]);
    int64_t total = ghosts > 0 ? ghosts * exp2_negative((top * kLog2E) >> 16) : 0;
    for (int c = 0; c < batch.classes; ++c) {
      values[c] = exp2_negative(((top - values[c]) * kLog2E) >> 16);
      total += values[c];
    }
    for (int c = 0; c < batch.classes; ++c) values[c] = divide_round(values[c] << 15, total);
  }
}

void weight_gradient(const HeadBatch& batch, const int8_t* features, const int16_t* g, int32_t* dw, void*) {
  const int64_t width = batch.width;
  std::fill_n(dw, batch.classes * width, 0);
  for (int b = 0; b < batch.rows; ++b, features += width, g += batch.classes) {
    for (int c = 0; c < batch.classes; ++c) {
      for (int64_t j = 0; j < width; ++j) dw[c * width + j] += g[c] * features[j];
    }
  }
}

void descend(std::span<int32_t> weight, const int32_t* dw, int64_t rate, int16_t* forward) {
  for (size_t j = 0; j < weight.size(); ++j) {
    weight[j] = sat32(weight[j] - round_shift(dw[j] * rate, 16));
    if (forward) forward[j] = static_cast<int16_t>(weight[j] >> 16);
  }
}

void input_gradient(const HeadBatch& batch, const int16_t* g, const int16_t* forward, int64_t* dh) {
  const int64_t width = batch.width;
  std::fill_n(dh, batch.rows * width, 0);
  for (int b = 0; b < batch.rows; ++b, dh += width, g += batch.classes) {
    for (int c = 0; c < batch.classes; ++c) {
      for (int64_t j = 0; j < width; ++j) dh[j] += g[c] * forward[c * width + j];
    }
  }
}

}  // namespace plain

const HeadTable& table() {
  static const HeadTable& chosen = [&]() -> const HeadTable& {
#ifdef BITREPLAY_HAVE_AVX2
    const char* isa = kernels().isa;
    if (std::strcmp(isa, "avx512") == 0) return has_gradient_avx512() ? head_avx512() : head_avx2();
    if (std::strcmp(isa, "avx2") == 0) return head_avx2();
#endif
#ifdef BITREPLAY_HAVE_NEON
    if (std::strcmp(kernels().isa, "neon") == 0) return head_neon();
#endif
    return head_scalar();
  }();
  return chosen;
}

}  // namespace

const HeadTable& head_scalar() {
  static const HeadTable chosen{"scalar",       plain::logits,        plain::softmax, plain::weight_gradient,
                                plain::descend, plain::input_gradient};
  return chosen;
}

void head_logits(const HeadBatch& batch, const int8_t* features, const int16_t* forward, int feature_bits, int64_t* out) {
  table().logits(batch, features, forward, feature_bits, out);
}

void head_softmax(const HeadBatch& batch, int64_t* values, const int64_t* prior, int ghosts) {
  table().softmax(batch, values, prior, ghosts);
}

void head_gradient(const HeadBatch& batch, const int64_t* probabilities, const uint32_t* position, int16_t* g) {
  for (int b = 0; b < batch.rows; ++b, probabilities += batch.classes, g += batch.classes) {
    for (int c = 0; c < batch.classes; ++c) g[c] = static_cast<int16_t>(std::min<int64_t>(probabilities[c], INT16_MAX));
    g[position[b]] = static_cast<int16_t>(probabilities[position[b]] - (int64_t{1} << 15));
  }
}

void head_weight_gradient(const HeadBatch& batch, const int8_t* features, const int16_t* g, int32_t* dw, void* scratch) {
  table().weight_gradient(batch, features, g, dw, scratch);
}

// Pairs of rows: a block of 32 features as int16 (pairs, 32, 2), and gradients (pairs, classes, 2).
int64_t head_scratch(const HeadBatch& batch) {
  const int64_t pairs = (batch.rows + 1) / 2;
  return pairs * (64 * int64_t{sizeof(int16_t)} + batch.classes * int64_t{sizeof(uint32_t)});
}

void head_descend(std::span<int32_t> weight, const int32_t* dw, int64_t rate, int16_t* forward) {
  table().descend(weight, dw, rate, forward);
}

void head_input_gradient(const HeadBatch& batch, const int16_t* g, const int16_t* forward, int64_t* dh) {
  table().input_gradient(batch, g, forward, dh);
}

}  // namespace bitreplay
