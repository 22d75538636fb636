// The leaves of training without an instruction set: plain loops alone.  Products of gradients and bits, and of features, are the plain loops of
// gradient_products.cpp and head_kernels.cpp, which take next to no scratch.
#include "training_tables.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "bits.h"
#include "fixed_point.h"
#include "random.h"

#define BITREPLAY_TARGET
#define BITREPLAY_PRODUCTS 0

namespace bitreplay {
namespace {
namespace scalar {

void expand_mask(uint64_t word, int8_t* mask) {
  for (int i = 0; i < kWordBits; ++i) mask[i] = static_cast<int8_t>(-static_cast<int>((word >> i) & 1));
}

template <class T>
uint64_t signs(const T* values, int count) {
  uint64_t word = 0;
  for (int i = 0; i < count; ++i) word |= static_cast<uint64_t>(values[i] < 0) << i;
  return word;
}

void descend(int32_t* w, const int32_t* dw, int64_t size, int32_t rate) {
  for (int64_t j = 0; j < size; ++j) w[j] -= static_cast<int32_t>(round_shift(int64_t{dw[j]} * rate, 16));
}

constexpr const ProductTable* kProducts = nullptr;
constexpr const HeadProductTable* kHeadProducts = nullptr;

#include "training_leaves.inc"

}  // namespace scalar
}  // namespace

const GradientTable& gradient_scalar() {
  static constexpr GradientTable table = scalar::gradients("scalar");
  return table;
}

const HeadTable& head_scalar() {
  static constexpr HeadTable table = scalar::heads("scalar");
  return table;
}

}  // namespace bitreplay
