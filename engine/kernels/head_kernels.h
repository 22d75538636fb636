// The head's step for a whole minibatch (docs/method.md, 4.3 and 6.3): logits, softmax, gradients, one step of the weights.  Buffers are
// the caller's and nothing is allocated.  A step is
//   head_logits, head_softmax, head_gradient, head_weight_gradient, head_descend (for each class).
// features: int8 (rows, width), values in -127..127.  forward: int16 (classes, width), the top 16 bits of the weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace bitreplay {

struct HeadTable;  // the leaves for an instruction set: training_tables.h

// The table in force; checks hand others to the functions below.
const HeadTable& head_table();

struct HeadBatch {
  int rows = 0, width = 0, classes = 0;
};

// out (rows, classes): logits with 16 fraction bits.
void head_logits(const HeadBatch& batch, const int8_t* features, const int16_t* forward, int feature_bits, int64_t* out,
                 const HeadTable& table = head_table());

// Softmax in place of every row of logits + prior (classes), beside `ghosts` classes of logit 0: 15 fraction bits.
// Logits and prior: below 2^45.
void head_softmax(const HeadBatch& batch, int64_t* values, const int64_t* prior, int ghosts, const HeadTable& table = head_table());

// g (rows, classes) = p, less one at the row's class `position` (rows), clamped to int16.
void head_gradient(const HeadBatch& batch, const int64_t* probabilities, const uint32_t* position, int16_t* g);

// dw (classes, width) = sum over rows of g * features, at most 512 rows.  scratch: head_scratch bytes, 64-aligned.
void head_weight_gradient(const HeadBatch& batch, const int8_t* features, const int16_t* g, int32_t* dw, void* scratch,
                          const HeadTable& table = head_table());
int64_t head_scratch(const HeadBatch& batch);

// One class: weight -= rs(dw * rate, 16), saturating.  forward (width): the new forward copy, or nullptr.
void head_descend(std::span<int32_t> weight, const int32_t* dw, int64_t rate, int16_t* forward, const HeadTable& table = head_table());

// dh (rows, width) = sum over classes of g * forward: the gradient of the features.
void head_input_gradient(const HeadBatch& batch, const int16_t* g, const int16_t* forward, int64_t* dh, const HeadTable& table = head_table());

}  // namespace bitreplay
