// Every head table, scalar included, against docs/method.md 4.3 and 6.3 value by value, its products against plain loops: on sizes around its
// tiles and on extreme values.
#include <cstdio>

#include "check.h"
#include "fixed_point.h"
#include "kernels/training_tables.h"

namespace bitreplay::checks {
namespace {

void softmax_each(int classes, int64_t* values, const int64_t* prior, int ghosts) {
  constexpr int64_t kLog2E = 94548;  // log2(e) with 16 fraction bits
  int64_t top = ghosts > 0 ? 0 : INT64_MIN;
  for (int c = 0; c < classes; ++c) top = std::max(top, values[c] += prior[c]);
  int64_t total = ghosts > 0 ? ghosts * exp2_negative((top * kLog2E) >> 16) : 0;
  for (int c = 0; c < classes; ++c) total += values[c] = exp2_negative(((top - values[c]) * kLog2E) >> 16);
  for (int c = 0; c < classes; ++c) values[c] = divide_round(values[c] << 15, total);
}

void check_table(const HeadTable& table, const HeadBatch& batch, Pattern pattern) {
  Source random{2000000 + static_cast<uint64_t>(g_checks)};
  const int64_t rows = batch.rows, width = batch.width, classes = batch.classes;
  const auto equal = [&](const char* name, const auto& expected, const auto& got) {
    expect(expected == got, text(std::string(table.isa) + ' ' + name, {rows, width, classes, pattern}));
  };
  const auto features = values<int8_t>(rows * width, -127, 127, pattern, random);
  const auto forward = words16(classes * width, pattern, random), g = words16(rows * classes, pattern, random);
  for (const int feature_bits : {0, 4, 5, 7, 12}) {
    Exact<int64_t> out(rows * classes), expected = out;
    head_logits(batch, features.data(), forward.data(), feature_bits, expected.data(), head_scalar());
    head_logits(batch, features.data(), forward.data(), feature_bits, out.data(), table);
    equal("head_logits", expected, out);
  }
  for (const int magnitude : {4, 16, 19, 21, 24, 40}) {
    const auto scores = values<int64_t>(rows * classes, -(int64_t{1} << magnitude), int64_t{1} << magnitude, pattern, random);
    const auto prior = values<int64_t>(classes, -500000, 500000, kRandom, random);
    for (const int ghosts : {0, 1, 8}) {
      auto out = scores, expected = scores;
      for (int64_t b = 0; b < rows; ++b) softmax_each(batch.classes, expected.data() + b * classes, prior.data(), ghosts);
      head_softmax(batch, out.data(), prior.data(), ghosts, table);
      equal("head_softmax", expected, out);
    }
  }
  Exact<uint8_t> scratch(head_scratch(batch));
  Exact<int32_t> dw(classes * width), expected_dw = dw;
  head_weight_gradient(batch, features.data(), g.data(), expected_dw.data(), scratch.data(), head_scalar());
  head_weight_gradient(batch, features.data(), g.data(), dw.data(), scratch.data(), table);
  equal("head_weight_gradient", expected_dw, dw);
  Exact<int64_t> dh(rows * width), expected_dh = dh;
  for (int64_t i = 0; i < rows * width; ++i) {
    for (int64_t c = 0; c < classes; ++c) expected_dh[i] += g[i / width * classes + c] * forward[c * width + i % width];
  }
  head_input_gradient(batch, g.data(), forward.data(), dh.data(), table);
  equal("head_input_gradient", expected_dh, dh);
  const auto step = values<int32_t>(width, -INT32_MAX, INT32_MAX, pattern, random), small = values<int32_t>(width, -4000, 4000, pattern, random);
  const auto weight = values<int32_t>(width, -INT32_MAX, INT32_MAX, pattern, random), near = values<int32_t>(width, -(1 << 29), 1 << 29, pattern, random);
  for (const int64_t rate : {int64_t{0}, int64_t{37}, int64_t{1} << 20, int64_t{INT32_MAX}, int64_t{1} << 31}) {
    for (const auto& [w, d] : {std::pair{&weight, &step}, std::pair{&near, &small}}) {
      Exact<int32_t> out = *w, expected = *w;
      Exact<int16_t> halves(width), expected_halves(width);
      for (int64_t j = 0; j < width; ++j) {
        expected[j] = sat32(expected[j] - round_shift((*d)[j] * rate, 16));
        expected_halves[j] = static_cast<int16_t>(expected[j] >> 16);
      }
      head_descend({out.data(), static_cast<size_t>(width)}, d->data(), rate, halves.data(), table);
      equal("head_descend", expected, out);
      equal("head_descend, forward copy", expected_halves, halves);
    }
  }
}

}  // namespace

void check_heads() {
  for (const HeadTable* table : runnable<HeadTable>(kHeadTables)) {
    for (const Pattern pattern : kExtremes) {
      for (const HeadBatch& batch : {HeadBatch{1, 1, 1}, HeadBatch{2, 15, 3}, HeadBatch{3, 16, 4}, HeadBatch{7, 33, 5}, HeadBatch{5, 100, 13},
                                     HeadBatch{4, 512, 2}, HeadBatch{3, 1030, 9}, HeadBatch{128, 64, 50}, HeadBatch{2, 9000, 2}, HeadBatch{2, 65, 600}}) {
        check_table(*table, batch, pattern);
      }
    }
    check_table(*table, {512, 32, 3}, kLow);
    std::printf("%s head is right\n", table->isa);
  }
}

}  // namespace bitreplay::checks
