// The operations of the network in integers (docs/method.md, 3) as values and free functions.  Knows shapes and kernels; knows
// nothing of the order of operations, labels or files.
#pragma once

#include <cstdint>
#include <span>
#include <variant>

#include "function_ref.h"
#include "memory.h"

namespace bitreplay {

class Workers;

// Shape of a tensor, NHWC without N.
struct Shape {
  int height = 0;
  int width = 0;
  int channels = 0;
  int64_t pixels() const { return int64_t{height} * width; }
  int64_t size() const { return pixels() * channels; }
};

// Per-channel affine requantisation: sat16(round_shift(value * multiplier + bias, shift)).
struct Affine {
  Buffer<int16_t> multiplier;
  Buffer<int64_t> bias;
  int shift = 0;
};

struct Conv {  // section 3.2
  int in = 0, out = 0, kernel = 0, stride = 0;
  bool depthwise = false, relu = false;
  // dense: as dense_tile of kernels.h wants it, for every kDenseChannels of out; depth-wise: (kernel, kernel, channels)
  Buffer<int16_t> weight;
  Affine affine;
};

struct Block {  // section 3.3
  int channels = 0, shift = 0;
  bool relu = true;
  Buffer<uint64_t> weight;                 // as kernels.h wants it
  Buffer<int16_t> mean, multiplier;        // channels each
  Buffer<int32_t> bias;                    // channels
  Buffer<int16_t> threshold;               // empty, or channels: bit = x + threshold < 0
  Buffer<int16_t> alpha, beta, high, low;  // empty, or channels each: the activation
};

struct Pool {  // section 3.4
  int channels = 0;
};

struct Down {  // section 3.7
  int in = 0, out = 0;
  // channels = out; its weight is that of (in, out), 3x3, and its threshold has `in` values
  Block block;
  Conv shortcut;  // 1x1, weights +1 and -1
};

using Operation = std::variant<Conv, Block, Pool, Down>;

// A binary convolution by itself: kernel 1 or 3, stride 1 or 2, padded with +1 or, with `zero_pad`, with nothing.
struct BinaryConv {
  int in = 0, out = 0, kernel = 3, stride = 1;
  bool zero_pad = false;
  Buffer<uint64_t> weight;    // as kernels.h wants it
  Buffer<int16_t> tap_sums;   // with zero_pad: (kernel * kernel, out), dot product of a tap's weights with +1
};

// What running operations needs at most: sizes grow with every operation that is added.
struct ScratchPlan {
  int64_t stream = 0;  // int16 values: the input and the output of one operation
  int64_t bits = 0;    // words: the packed signs of a block's input
  int64_t rows = 0;    // int16 values for each part of the work: padded input rows, pooled features

  void add(const Conv& conv, Shape in, bool image = false);  // image: it is read as it comes
  void add(const Block& block, Shape in);
  void add(const Pool& pool, Shape in);
  void add(const Down& down, Shape in);
  void add_map(Shape map);           // a stream by itself
  void add_features(int channels);
  int64_t bytes(int parts) const;
};

// Working memory of one call at a time whose work is cut into at most `parts` parts; one allocation.
class Scratch {
 public:
  Scratch(const ScratchPlan& plan, int parts);
  int parts() const { return parts_; }
  int64_t bytes() const { return bytes_of(memory_); }
  int16_t* stream() { return values(0); }
  // Where a map of that shape lies so that it does not overlap the map at `other`: at the begin or the end of the stream.
  int16_t* opposite(const int16_t* other, Shape shape);
  uint64_t* bits() { return memory_.data() + stream_words_; }
  int16_t* rows(int part) { return values(stream_words_ + bits_words_ + part * rows_words_); }

 private:
  int16_t* values(int64_t word) { return reinterpret_cast<int16_t*>(memory_.data() + word); }
  int64_t stream_words_, bits_words_, rows_words_;
  int parts_;
  Buffer<uint64_t> memory_;
};

// How kernels lay weights and working memory out: as those in force do; or in no less memory than any of them, on any processor.
enum class Layout { here, anywhere };

int64_t bytes_of(const Conv& conv);
int64_t bytes_of(const Block& block, int in, Layout layout);  // in: channels of its input

// Fills the weights of a block whose channels are set: canonical is (channels, 9, words) as in the model file, unused bits 0.
void set_block_weight(Block& block, std::span<const uint64_t> canonical);
// Replaces those of one output channel: 9 * words words.
void set_block_channel(Block& block, int channel, const uint64_t* canonical);

// The steps of section 3.3 for one map, C = shape.channels = block.channels:
// x (H*W, C) -> signs, packed (H*W, words)
void block_bits(const Block& block, Shape shape, const int16_t* x, uint64_t* bits);
// -> z (H*W, C)
void block_dots(const Block& block, Shape shape, const uint64_t* bits, int16_t* z);
// -> y, in place of x
void block_apply(const Block& block, Shape shape, const int16_t* z, int16_t* x);
// The three above.  Uses scratch.bits(); `workers` share the map, at most scratch.parts() of them.
void block_forward(const Block& block, Shape shape, int16_t* x, Scratch& scratch, Workers* workers = nullptr);

// Fills the binary weights of a down whose channels are set: canonical (out, 9, words) and (out, words), words of `in` bits each,
// unused bits 0.
void set_down_weight(Down& down, std::span<const uint64_t> canonical, std::span<const uint64_t> shortcut);
Shape down_shape(const Down& down, Shape in);
// x (in), at the begin or the end of the stream -> y (down_shape), whose place is returned; x is lost.  Uses scratch.bits();
// `workers` share the map, at most scratch.parts() of them.
int16_t* down_forward(const Down& down, Shape in, const int16_t* x, Scratch& scratch, Workers* workers = nullptr);
// rs(sum, 2) of the four values of every 2x2 square: x (in) -> y (H/2, W/2, C).
void average_pool(Shape in, const int16_t* x, int16_t* y);

// canonical (out, kernel * kernel, words); in, out, kernel, stride, zero_pad are set.
void set_binary_weight(BinaryConv& conv, std::span<const uint64_t> canonical);
Shape binary_shape(const BinaryConv& conv, Shape in);
// bits (H*W, words) -> z (binary_shape, out): C * taps - 2 * popcount, taps outside the map counting as padded.
void binary_dots(const BinaryConv& conv, Shape in, const uint64_t* bits, int16_t* z);

// Weights (out, kernel, kernel, in), depth-wise (channels, kernel, kernel), in the order that Conv::weight has.
Buffer<int16_t> conv_weight(const Conv& conv, std::span<const int8_t> canonical);
Buffer<int16_t> conv_weight(const Conv& conv, FunctionRef<int8_t(size_t)> canonical);
Shape conv_shape(const Conv& conv, Shape in);
// x (in) -> y (conv_shape); one value behind x may be read.
void conv_forward(const Conv& conv, Shape in, const int16_t* x, int16_t* y, Scratch& scratch, Workers* workers = nullptr);
// The same for an image (section 1); a dense 3x3 convolution only.
void conv_forward(const Conv& conv, Shape in, const uint8_t* image, int16_t* y, Scratch& scratch, Workers* workers = nullptr);

Shape pool_shape(Shape in);
void pool_forward(Shape in, const int16_t* x, int16_t* y, int parts = 1, Workers* workers = nullptr);

// The affine of one value.
int16_t apply(const Affine& affine, int channel, int64_t value);

}  // namespace bitreplay
