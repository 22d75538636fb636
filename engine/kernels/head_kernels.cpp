// Minibatches of head_kernels.h out of the leaves of a table; where a table has no products, plain loops.
#include "head_kernels.h"

#include <algorithm>

#include "fixed_point.h"
#include "training_tables.h"

namespace bitreplay {
namespace {

constexpr int kForwardBits = 11;  // fraction bits of a forward weight
constexpr int kLogitBits = 16;

void plain_dots(const HeadBatch& batch, const int8_t* features, const int16_t* forward, int64_t* out) {
  for (int b = 0; b < batch.rows; ++b, features += batch.width) {
    for (int c = 0; c < batch.classes; ++c) {
      const int16_t* w = forward + static_cast<int64_t>(c) * batch.width;
      int64_t sum = 0;
      for (int j = 0; j < batch.width; ++j) sum += features[j] * w[j];
      *out++ = sum;
    }
  }
}

// Dot products of up to kRowBlock rows.
void block_dots(const HeadProductTable& table, const HeadBatch& batch, const int8_t* features, const int16_t* forward, int rows, int64_t* out) {
  alignas(64) int16_t x[kRowBlock * kMostExact];
  const int64_t width = batch.width, classes = batch.classes, exact = table.exact;
  std::fill_n(out, rows * classes, 0);
  for (int64_t begin = 0; begin < width; begin += exact) {
    const int64_t count = std::min(exact, width - begin);
    for (int r = 0; r < rows; ++r) table.widen(features + r * width + begin, count, x + r * exact);
    for (int r = rows; r < table.row_tile; ++r) std::fill_n(x + r * exact, count, int16_t{0});
    for (int64_t c = 0; c < classes; c += kClassTile) {
      for (int r = 0; r < rows; r += table.row_tile) {
        if (c + kClassTile <= classes && r + table.row_tile <= rows) {
          table.dot_tile(x + r * exact, forward + c * width + begin, width, count, out + r * classes + c, classes);
          continue;
        }
        // A tile at the edge begins earlier, so that it is whole, and gives what is new; where there are too few classes, it
        // takes one again and again.
        const int top = std::max(0, std::min(r, rows - table.row_tile));
        const bool few = classes < kClassTile;
        const int64_t begin_class = few ? 0 : std::min(c, classes - kClassTile), end_class = few ? classes : begin_class + 1;
        for (int64_t left = begin_class; left < end_class; ++left) {
          int64_t sums[kRowBlock * kClassTile] = {};
          table.dot_tile(x + top * exact, forward + left * width + begin, few ? 0 : width, count, sums, kClassTile);
          const int64_t from = few ? left : c, to = few ? left + 1 : std::min(classes, c + kClassTile);
          for (int i = r; i < std::min(rows, r + table.row_tile); ++i) {
            for (int64_t k = from; k < to; ++k) out[i * classes + k] += sums[(i - top) * kClassTile + k - left];
          }
        }
      }
    }
  }
}

void plain_weight_gradient(const HeadBatch& batch, const int8_t* features, const int16_t* g, int32_t* dw) {
  const int64_t width = batch.width;
  std::fill_n(dw, batch.classes * width, 0);
  for (int b = 0; b < batch.rows; ++b, features += width, g += batch.classes) {
    for (int c = 0; c < batch.classes; ++c) {
      for (int64_t j = 0; j < width; ++j) dw[c * width + j] += g[c] * features[j];
    }
  }
}

}  // namespace

const HeadTable& head_table() {
  static const HeadTable& table = in_force(kHeadTables);
  return table;
}

void head_logits(const HeadBatch& batch, const int8_t* features, const int16_t* forward, int feature_bits, int64_t* out, const HeadTable& table) {
  const int shift = feature_bits + kForwardBits - kLogitBits;
  const int64_t size = static_cast<int64_t>(batch.rows) * batch.classes;
  if (!table.product) plain_dots(batch, features, forward, out);
  for (int64_t b = 0; table.product && b < batch.rows; b += kRowBlock) {
    block_dots(*table.product, batch, features + b * batch.width, forward, static_cast<int>(std::min<int64_t>(kRowBlock, batch.rows - b)),
               out + b * batch.classes);
  }
  for (int64_t i = 0; i < size; ++i) out[i] = shift >= 0 ? round_shift(out[i], shift) : out[i] * (int64_t{1} << -shift);
}

void head_softmax(const HeadBatch& batch, int64_t* values, const int64_t* prior, int ghosts, const HeadTable& table) {
  for (int b = 0; b < batch.rows; ++b, values += batch.classes) table.softmax(values, batch.classes, prior, ghosts);
}

void head_gradient(const HeadBatch& batch, const int64_t* probabilities, const uint32_t* position, int16_t* g) {
  for (int b = 0; b < batch.rows; ++b, probabilities += batch.classes, g += batch.classes) {
    for (int c = 0; c < batch.classes; ++c) g[c] = static_cast<int16_t>(std::min<int64_t>(probabilities[c], INT16_MAX));
    g[position[b]] = static_cast<int16_t>(probabilities[position[b]] - (int64_t{1} << 15));
  }
}

void head_weight_gradient(const HeadBatch& batch, const int8_t* features, const int16_t* g, int32_t* dw, void* scratch, const HeadTable& table) {
  if (!table.product) return plain_weight_gradient(batch, features, g, dw);
  const HeadProductTable& product = *table.product;
  const int64_t width = batch.width, pairs = (batch.rows + 1) / 2;
  auto* x = static_cast<int16_t*>(scratch);
  auto* pair_g = reinterpret_cast<uint32_t*>(x + pairs * 2 * kPairFeatures);
  product.put_pairs(g, batch.rows, batch.classes, pair_g);
  alignas(64) int32_t sums[kMostPairClasses * kPairFeatures];
  for (int64_t at = 0; at < width; at += kPairFeatures) {
    const int count = static_cast<int>(std::min<int64_t>(kPairFeatures, width - at));
    product.put_features(features + at, batch.rows, width, count, x);
    for (int c = 0, classes; c < batch.classes; c += classes) {
      const bool whole = c + product.pair_classes <= batch.classes;
      classes = whole ? product.pair_classes : 1;
      (whole ? product.pair_tile : product.pair_tile_of_one)(x, pair_g + c, pairs, batch.classes, sums);
      for (int i = 0; i < classes; ++i) std::copy_n(sums + i * kPairFeatures, count, dw + (c + i) * width + at);
    }
  }
}

// Pairs of rows: a block of features as int16 (pairs, kPairFeatures, 2), and gradients (pairs, classes, 2).
int64_t head_scratch(const HeadBatch& batch) {
  const int64_t pairs = (batch.rows + 1) / 2;
  return pairs * (2 * kPairFeatures * int64_t{sizeof(int16_t)} + batch.classes * int64_t{sizeof(uint32_t)});
}

void head_descend(std::span<int32_t> weight, const int32_t* dw, int64_t rate, int16_t* forward, const HeadTable& table) {
  // Without saturation where nothing can leave int32: |w| < 2^30, the step below 2^28.
  const auto size = static_cast<int64_t>(weight.size());
  const bool small = rate >= 0 && rate <= INT32_MAX && table.largest(weight.data(), size) < uint32_t{1} << 30 &&
                     static_cast<uint64_t>(table.largest(dw, size)) * static_cast<uint64_t>(rate) < uint64_t{1} << 44;
  if (small) {
    table.descend(weight.data(), dw, size, static_cast<int32_t>(rate));
  } else {
    for (size_t j = 0; j < weight.size(); ++j) weight[j] = sat32(weight[j] - round_shift(dw[j] * rate, 16));
  }
  if (forward) table.high_halves(weight.data(), size, forward);
}

void head_input_gradient(const HeadBatch& batch, const int16_t* g, const int16_t* forward, int64_t* dh, const HeadTable& table) {
  for (int b = 0; b < batch.rows; ++b, dh += batch.width, g += batch.classes) table.input_gradient(g, batch.classes, forward, batch.width, dh);
}

}  // namespace bitreplay
