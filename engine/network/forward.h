// The operations of the network in integers (docs/method.md, 3) as values and free functions.  Knows shapes and kernels; knows
// nothing of the order of operations, labels or files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <type_traits>
#include <variant>

#include "function_ref.h"
#include "memory.h"
#include "workers.h"

namespace bitreplay {

inline constexpr int kMostChannels = 2048;  // of a stream

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
  Buffer<int32_t> multiplier;
  Buffer<int64_t> bias;
  int shift = 0;
};

// What lies around a map under a window that leaves it.
struct Pad {
  int top = -1, left = 0, bottom = 0, right = 0;  // top -1: (kernel - 1) / 2 on every side
};

// Where a square window goes.
struct Window {
  int kernel = 1, stride = 1;
  Pad pad;
  Pad padding() const {
    const int half = (kernel - 1) / 2;
    return pad.top < 0 ? Pad{half, half, half, half} : pad;
  }
  Shape over(Shape in, int channels) const {
    const Pad p = padding();
    const auto side = [&](int room) { return room < 0 ? 0 : room / stride + 1; };
    return {side(in.height + p.top + p.bottom - kernel), side(in.width + p.left + p.right - kernel), channels};
  }
};

struct Conv {  // section 3.2
  int in = 0, out = 0, kernel = 0, stride = 0;
  bool depthwise = false, relu = false;
  // dense: of each group as dense_tile of kernels.h wants it, for every kDenseChannels of its channels; depth-wise: (kernel, kernel, channels)
  Buffer<int16_t> weight;
  Affine affine;
  int groups = 1;  // of a dense one: each reads in / groups channels and makes out / groups
  Pad pad;
  Window window() const { return {kernel, stride, pad}; }
};

struct Block {  // section 3.3
  int channels = 0, shift = 0;
  bool relu = true;
  Buffer<uint64_t> weight;                 // as kernels.h wants it
  Buffer<int16_t> mean, multiplier;        // channels each
  Buffer<int32_t> bias;                    // channels
  Buffer<int16_t> threshold;               // empty, or channels: bit = x + threshold < 0
  Buffer<int16_t> alpha, beta, high, low;  // empty, or channels each: the activation
  Buffer<int16_t> tap_sums;                // empty, or with a pad of nothing: (taps, channels), the dot product of a tap's weights with +1
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

// A binary convolution by itself (section 3.8): what a block has, without the stream that it is added to.
struct Binary {
  int in = 0, groups = 1;
  Window window;
  Block block;  // channels = out; its threshold has `in` values
};

struct Scale {  // an affine on a stream (section 3.9)
  int channels = 0;
  bool relu = false;
  Affine affine;
};

struct Activate {  // the activation of a block by itself (section 3.9)
  Block block;     // whose mean, multiplier and bias are 0
};

struct Add {  // section 3.9
  int channels = 0, shift = 0;
  int16_t multipliers[2] = {};
  bool relu = false;
};

struct Concat {  // section 3.9
  int channels = 0;
};

struct MaxPool {  // section 3.10
  int channels = 0;
  Window window;
  bool relu = false;
};

struct AveragePool {  // section 3.10
  int channels = 0;
  Window window;
};

struct ChannelGate {  // section 3.9
  int channels = 0;
};

using Operation = std::variant<Conv, Block, Pool, Down, Binary, Scale, Activate, Add, Concat, MaxPool, AveragePool, ChannelGate>;

// A binary convolution by itself: kernel 1 or 3, stride 1 or 2, padded with +1 or, with `zero_pad`, with nothing.
struct BinaryConv {
  int in = 0, out = 0, kernel = 3, stride = 1;
  bool zero_pad = false;
  Buffer<uint64_t> weight;    // as kernels.h wants it
  Buffer<int16_t> tap_sums;   // with zero_pad: (kernel * kernel, out), dot product of a tap's weights with +1
};

// What running operations needs at most: sizes grow with every operation that is added.
struct ScratchPlan {
  int64_t stream = 0;  // int16 values: of an operation by itself its input and its output, of a network all that is alive at one time
  int64_t bits = 0;    // words: the packed signs of a block's input
  int64_t rows = 0;    // int16 values for each part of the work: padded input rows, pooled features

  // An operation by itself, with the streams that it reads and writes.
  void add(const Conv& conv, Shape in, bool image = false);  // image: it is read as it comes
  void add(const Block& block, Shape in);
  void add(const Pool& pool, Shape in);
  void add(const Down& down, Shape in);
  // What an operation needs beside its streams.
  void add_work(const Operation& operation, Shape in);
  void add_work(const Conv& conv, Shape in);
  void add_bits(Shape in);           // packed signs
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
  uint64_t* bits() { return memory_.data() + stream_words_; }
  int16_t* rows(int part) { return values(stream_words_ + bits_words_ + part * rows_words_); }

 private:
  int16_t* values(int64_t word) { return reinterpret_cast<int16_t*>(memory_.data() + word); }
  int64_t stream_words_, bits_words_, rows_words_;
  int parts_;
  Buffer<uint64_t> memory_;
};

int64_t space_of(Shape shape);  // int16 values that a stream takes: one behind a map may be read

// How kernels lay weights and working memory out: as those in force do; or in no less memory than any of them, on any processor.
enum class Layout { here, anywhere };

int64_t bytes_of(const Affine& affine);
int64_t bytes_of(const Conv& conv);
int64_t bytes_of(const Block& block, int in, Layout layout, int taps = 9, int groups = 1);  // in: channels that a value sees
int64_t bytes_of(const Operation& operation, Layout layout);

// Fills the weights of a block whose channels are set: canonical is (channels, 9, words) as in the model file, unused bits 0.
void set_block_weight(Block& block, std::span<const uint64_t> canonical, bool zero_pad = false);
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
// x (in) -> y (down_shape), which may overlap x; mean: of the pooled map, apart from both.  Uses scratch.bits(); `workers` share the map, at most
// scratch.parts() of them.
void down_forward(const Down& down, Shape in, const int16_t* x, int16_t* mean, int16_t* y, Scratch& scratch, Workers* workers = nullptr);
// canonical (out, kernel, kernel, words), words of in / groups bits each.  zero_pad: a tap outside the map counts for nothing.
void set_weight(Binary& binary, std::span<const uint64_t> canonical, bool zero_pad);
// x (in) -> y (window.over(in)), apart from x.  Uses scratch.bits() as above.
void binary_forward(const Binary& binary, Shape in, const int16_t* x, int16_t* y, Scratch& scratch, Workers* workers = nullptr);
// rs(sum, 2) of the four values of every 2x2 square: x (in) -> y (H/2, W/2, C).
void average_pool(Shape in, const int16_t* x, int16_t* y);

// canonical (out, kernel * kernel, words); in, out, kernel, stride, zero_pad are set.
void set_binary_weight(BinaryConv& conv, std::span<const uint64_t> canonical);
Shape binary_shape(const BinaryConv& conv, Shape in);
// bits (H*W, words) -> z (binary_shape, out): C * taps - 2 * popcount, taps outside the map counting as padded.
void binary_dots(const BinaryConv& conv, Shape in, const uint64_t* bits, int16_t* z);

// Weights (out, kernel, kernel, in), depth-wise (channels, kernel, kernel), in the order that Conv::weight has.
Buffer<int16_t> conv_weight(const Conv& conv, std::span<const int8_t> canonical);
Buffer<int16_t> conv_weight(const Conv& conv, FunctionRef<int16_t(size_t)> canonical);
Shape conv_shape(const Conv& conv, Shape in);
// x (in) -> y (conv_shape); one value behind x may be read.
void conv_forward(const Conv& conv, Shape in, const int16_t* x, int16_t* y, Scratch& scratch, Workers* workers = nullptr);
// The same for an image (section 1); a dense 3x3 convolution only.
void conv_forward(const Conv& conv, Shape in, const uint8_t* image, int16_t* y, Scratch& scratch, Workers* workers = nullptr);

Shape pool_shape(Shape in);
void pool_forward(Shape in, const int16_t* x, int16_t* y, int parts = 1, Workers* workers = nullptr);

// Groups of a convolution that are computed as one, so that they fill a tile of output channels; weights that one has and the others have not are 0.
int merged_groups(int out, int groups);
// x (in) -> y; y may be x.
void scale_forward(const Scale& scale, Shape in, const int16_t* x, int16_t* y, int parts = 1, Workers* workers = nullptr);
// The same of an image (section 1), whose values are few.
void scale_forward(const Scale& scale, Shape in, const uint8_t* image, int16_t* y, int parts = 1, Workers* workers = nullptr);
void activate_forward(const Activate& activate, Shape in, int16_t* x, int parts = 1, Workers* workers = nullptr);
void add_forward(const Add& add, Shape in, const int16_t* a, const int16_t* b, int16_t* y, int parts = 1, Workers* workers = nullptr);
void gate_forward(Shape in, const int16_t* x, const int16_t* gates, int16_t* y, int parts = 1, Workers* workers = nullptr);
// x (in), of `channels` channels, -> channels `first` on of y, whose pixels have `all`.
void concat_forward(Shape in, const int16_t* x, int16_t* y, int first, int all);
// y apart from x.
void max_pool_forward(const MaxPool& pool, Shape in, const int16_t* x, int16_t* y, int parts = 1, Workers* workers = nullptr);
void average_pool_forward(const AveragePool& pool, Shape in, const int16_t* x, int16_t* y, int parts = 1, Workers* workers = nullptr);

// f(part, begin, end) for nearly equal shares of 0 .. total.
template <class F>
void share(int64_t total, int most_parts, Workers* workers, const F& f) {
  const int parts = workers == nullptr ? 1 : std::min(workers->count(), most_parts);
  const auto job = [&](int part) {
    const int64_t begin = total * part / parts, end = total * (part + 1) / parts;
    if (begin < end) f(part, begin, end);
  };
  if (parts == 1) return job(0);
  workers->run(parts, job);
}

// The affine of one value.
int16_t apply(const Affine& affine, int channel, int64_t value);

}  // namespace bitreplay
