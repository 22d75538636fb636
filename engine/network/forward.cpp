#include "forward.h"

#include <algorithm>

#include "bits.h"
#include "fixed_point.h"
#include "kernels/kernels.h"

namespace bitreplay {
namespace {

constexpr int kAlign = 32;        // int16 values of a cache line
constexpr int kConvPixels = 64;   // of a tile

int64_t lines(int64_t values) { return (values + kAlign - 1) / kAlign * kAlign; }

// Values from one padded input row to the next, in a part's copy of the rows under a window.
int64_t padded_pitch(const Conv& conv, Shape in) {
  const Pad pad = conv.window().padding();
  // A depth-wise one's kernels pad by themselves, by half of the kernel: another pad is written out, one window further on.
  const int columns = in.width + pad.left + pad.right + (conv.depthwise ? conv.stride + 1 : 0);
  return lines(int64_t{columns} * (conv.depthwise ? conv.in : conv.in / conv.groups) + 1);
}

// Whether its windows leave the map by as much on every side, as the depth-wise kernels take it.
bool has_plain_pad(const Conv& conv) {
  const Pad pad = conv.window().padding();
  const int half = (conv.kernel - 1) / 2;
  return pad.top == half && pad.left == half && pad.bottom <= half && pad.right <= half;
}

// Whether its windows are read where they lie.
bool reads_in_place(const Conv& conv) { return has_plain_pad(conv) && (conv.depthwise || (conv.kernel == 1 && conv.groups == 1)); }

int tiles_of(const Conv& conv) { return (conv.out / conv.groups + kDenseChannels - 1) / kDenseChannels; }  // of output channels, a group
int pairs_of(const Conv& conv) { return (conv.kernel * (conv.in / conv.groups) + 1) / 2; }
int64_t group_weights(const Conv& conv) { return int64_t{tiles_of(conv)} * conv.kernel * pairs_of(conv) * 2 * kDenseChannels; }

// Requantised output of the pixels of a tile, of one group's channels.
void dense_pixels(const Conv& conv, int group, const DenseTile& tile, int16_t* y) {
  alignas(64) int32_t acc[kConvPixels * kDenseChannels];
  const int64_t tile_size = int64_t{tile.rows} * tile.pairs * 2 * kDenseChannels;
  const int16_t* weight = conv.weight.data() + group * group_weights(conv);
  const int channels = conv.out / conv.groups, first = group * channels;
  for (int c = 0; c < channels; c += kDenseChannels, weight += tile_size) {
    kernels().dense_tile(tile, weight, acc);
    kernels().affine({conv.affine.multiplier.data() + first + c, conv.affine.bias.data() + first + c, conv.affine.shift, conv.relu}, acc, tile.pixels,
                     std::min(kDenseChannels, channels - c), y + first + c, conv.out);
  }
}

// `pixels` neighbours of which pixel p's first row lies at x + p * pixel_stride.
void dense_run(const Conv& conv, int group, const int16_t* x, int pixel_stride, int64_t row_pitch, int64_t pixels, int16_t* y) {
  for (int64_t p = 0; p < pixels; p += kConvPixels) {
    const auto count = static_cast<int>(std::min<int64_t>(kConvPixels, pixels - p));
    dense_pixels(conv, group, {x + p * pixel_stride, pixel_stride, static_cast<int>(row_pitch), conv.kernel, pairs_of(conv), count},
                 y + p * conv.out);
  }
}

void copy_values(const int16_t* from, int count, int16_t* to) { std::copy_n(from, count, to); }
void copy_values(const uint8_t* from, int count, int16_t* to) {
  for (int i = 0; i < count; ++i) to[i] = static_cast<int16_t>(2 * from[i] - 255);
}

// So few that their number is better known when this is compiled.
template <int kCount, class T>
void copy_few(const T* from, int width, int all, int16_t* to) {
  for (int j = 0; j < width; ++j, from += all, to += kCount) copy_values(from, kCount, to);
}

// `width` pixels, of each the channels [first, first + count) of `all`.
template <class T>
void copy_channels(const T* from, int width, int all, int first, int count, int16_t* to) {
  if (count == all) return copy_values(from, width * all, to);
  from += first;
  if (count == 1) return copy_few<1>(from, width, all, to);
  if (count == 2) return copy_few<2>(from, width, all, to);
  if (count == 4) return copy_few<4>(from, width, all, to);
  for (int j = 0; j < width; ++j) copy_values(from + int64_t{j} * all, count, to + int64_t{j} * count);
}

// Windows on rows that are copied beside their pads, a group after the other.
template <class T>
void dense_windows(const Conv& conv, Shape in, const T* x, int16_t* y, Scratch& scratch, Workers* workers) {
  const Shape out = conv_shape(conv, in);
  const Pad pad = conv.window().padding();
  const int64_t pitch = padded_pitch(conv, in);
  const int channels = conv.in / conv.groups;
  share(out.height, scratch.parts(), workers, [&](int part, int64_t begin, int64_t end) {
    int16_t* rows = scratch.rows(part);
    for (int group = 0; group < conv.groups; ++group) {
      std::fill_n(rows, conv.kernel * pitch, int16_t{0});
      for (int64_t i = begin; i < end; ++i) {
        const int kept = i == begin ? 0 : std::max(0, conv.kernel - conv.stride);  // rows that the last window saw too
        std::copy_n(rows + (conv.kernel - kept) * pitch, kept * pitch, rows);
        for (int a = kept; a < conv.kernel; ++a) {
          int16_t* to = rows + a * pitch + int64_t{pad.left} * channels;
          const int64_t row = i * conv.stride - pad.top + a;
          if (row >= 0 && row < in.height) {
            copy_channels(x + row * in.width * in.channels, in.width, in.channels, group * channels, channels, to);
          } else {
            std::fill_n(to, int64_t{in.width} * channels, int16_t{0});
          }
        }
        dense_run(conv, group, rows, conv.stride * channels, pitch, out.width, y + i * out.width * conv.out);
      }
    }
  });
}

void dense_1x1(const Conv& conv, Shape in, const int16_t* x, int16_t* y, Scratch& scratch, Workers* workers) {
  const Shape out = conv_shape(conv, in);
  if (conv.stride == 1) {  // any run of pixels
    share(out.pixels(), scratch.parts(), workers, [&](int, int64_t begin, int64_t end) {
      dense_run(conv, 0, x + begin * in.channels, in.channels, 0, end - begin, y + begin * conv.out);
    });
    return;
  }
  share(out.height, scratch.parts(), workers, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      dense_run(conv, 0, x + i * conv.stride * in.width * in.channels, conv.stride * in.channels, 0, out.width, y + i * out.width * conv.out);
    }
  });
}

void depthwise(const Conv& conv, Shape in, const int16_t* x, int16_t* y, Scratch& scratch, Workers* workers) {
  const Shape out = conv_shape(conv, in);
  const Affine& affine = conv.affine;
  const Pad pad = conv.window().padding();
  const bool plain = has_plain_pad(conv);
  const int64_t pitch = plain ? int64_t{in.width} * in.channels : padded_pitch(conv, in);
  // Written out, column c of the map is c + moved, and the first window is the kernel's second.
  const int moved = conv.stride - conv.kernel / 2 + pad.left, skipped = plain ? 0 : 1;
  const int width = plain ? in.width : static_cast<int>(pitch / in.channels);
  share(out.height, scratch.parts(), workers, [&](int part, int64_t begin, int64_t end) {
    alignas(64) int32_t acc[kConvPixels * kDenseChannels];
    int16_t* copies = plain ? nullptr : scratch.rows(part);
    if (!plain) std::fill_n(copies, conv.kernel * pitch, int16_t{0});
    for (int64_t i = begin; i < end; ++i) {
      DepthwiseTile tile{{}, width, in.channels, conv.kernel, conv.stride, 0, 0};
      for (int a = 0; a < conv.kernel; ++a) {
        const int64_t row = i * conv.stride - pad.top + a;
        if (row < 0 || row >= in.height) continue;
        tile.rows[a] = x + row * in.width * in.channels;
        if (plain) continue;
        int16_t* to = copies + a * pitch;
        std::copy_n(tile.rows[a], int64_t{in.width} * in.channels, to + int64_t{moved} * in.channels);
        tile.rows[a] = to;
      }
      const DepthwiseTile whole = tile;
      for (int c = 0; c < conv.out; c += kDenseChannels) {
        const int count = std::min(kDenseChannels, conv.out - c);
        for (int a = 0; a < conv.kernel; ++a) tile.rows[a] = whole.rows[a] == nullptr ? nullptr : whole.rows[a] + c;
        for (int j = 0; j < out.width; j += kConvPixels) {
          tile.first = j + skipped;
          tile.columns = std::min(kConvPixels, out.width - j);
          kernels().depthwise_tile(tile, conv.weight.data() + c, count, acc);
          kernels().affine({affine.multiplier.data() + c, affine.bias.data() + c, affine.shift, conv.relu}, acc, tile.columns, count,
                           y + (i * out.width + j) * conv.out + c, conv.out);
        }
      }
    }
  });
}

}  // namespace

int64_t space_of(Shape shape) { return lines(shape.size() + 1); }

void ScratchPlan::add_work(const Conv& conv, Shape in) {
  if (!reads_in_place(conv)) rows = std::max(rows, conv.kernel * padded_pitch(conv, in));
}

void ScratchPlan::add_bits(Shape in) { bits = std::max(bits, in.pixels() * words_for(in.channels)); }

void ScratchPlan::add_work(const Operation& operation, Shape in) {
  if (const auto* conv = std::get_if<Conv>(&operation)) return add_work(*conv, in);
  if (std::holds_alternative<Block>(operation) || std::holds_alternative<Down>(operation) || std::holds_alternative<Binary>(operation)) add_bits(in);
}

void ScratchPlan::add(const Conv& conv, Shape in, bool image) {
  stream = std::max(stream, (image ? 0 : space_of(in)) + space_of(conv_shape(conv, in)));
  add_work(conv, in);
}

void ScratchPlan::add(const Block&, Shape in) {
  add_map(in);
  add_bits(in);
}

void ScratchPlan::add(const Pool&, Shape in) { stream = std::max(stream, space_of(in) + space_of(pool_shape(in))); }

void ScratchPlan::add(const Down& down, Shape in) {
  stream = std::max(stream, space_of(pool_shape(in)) + std::max(space_of(in), space_of(down_shape(down, in))));
  add_bits(in);
}

void ScratchPlan::add_map(Shape map) { stream = std::max(stream, space_of(map)); }

void ScratchPlan::add_features(int channels) { rows = std::max(rows, lines(3 * int64_t{channels} + 1)); }

int64_t ScratchPlan::bytes(int parts) const { return 2 * lines(stream) + 8 * ((bits + 7) / 8 * 8) + 2 * parts * lines(rows); }

Scratch::Scratch(const ScratchPlan& plan, int parts)
    : stream_words_(lines(plan.stream) / 4),
      bits_words_((plan.bits + 7) / 8 * 8),
      rows_words_(lines(plan.rows) / 4),
      parts_(parts),
      memory_(static_cast<size_t>(plan.bytes(parts) / 8)) {}

int64_t bytes_of(const Conv& conv) {
  return bytes_of(conv.weight) + bytes_of(conv.affine);
}

int64_t bytes_of(const Affine& affine) { return bytes_of(affine.multiplier) + bytes_of(affine.bias); }

int64_t bytes_of(const Operation& operation, Layout layout) {
  if (const auto* conv = std::get_if<Conv>(&operation)) return bytes_of(*conv);
  if (const auto* block = std::get_if<Block>(&operation)) return bytes_of(*block, block->channels, layout);
  if (const auto* down = std::get_if<Down>(&operation)) return bytes_of(down->block, down->in, layout) + bytes_of(down->shortcut);
  if (const auto* binary = std::get_if<Binary>(&operation)) {
    return bytes_of(binary->block, binary->in / binary->groups, layout, binary->window.kernel * binary->window.kernel, binary->groups);
  }
  if (const auto* scale = std::get_if<Scale>(&operation)) return bytes_of(scale->affine);
  if (const auto* activate = std::get_if<Activate>(&operation)) return bytes_of(activate->block, 1, layout);
  return 0;  // nothing but numbers
}

Buffer<int16_t> conv_weight(const Conv& conv, std::span<const int8_t> canonical) {
  return conv_weight(conv, [&](size_t i) -> int16_t { return canonical[i]; });
}

Buffer<int16_t> conv_weight(const Conv& conv, FunctionRef<int16_t(size_t)> canonical) {
  const int taps = conv.kernel * conv.kernel;
  if (conv.depthwise) {
    Buffer<int16_t> weight(static_cast<size_t>(conv.out) * taps);
    for (int c = 0; c < conv.out; ++c) {
      for (int t = 0; t < taps; ++t) weight[static_cast<size_t>(t) * conv.out + c] = canonical(static_cast<size_t>(c) * taps + t);
    }
    return weight;
  }
  const int pairs = pairs_of(conv), run = conv.kernel * (conv.in / conv.groups), channels = conv.out / conv.groups;
  Buffer<int16_t> weight(static_cast<size_t>(group_weights(conv)) * static_cast<size_t>(conv.groups), 0);
  for (int c = 0; c < conv.out; ++c) {
    const int inside = c % channels;
    const int64_t tile = (int64_t{c / channels} * tiles_of(conv) + inside / kDenseChannels) * conv.kernel * pairs;
    for (int r = 0; r < conv.kernel; ++r) {
      for (int k = 0; k < run; ++k) {
        const int64_t to = ((tile + r * pairs + k / 2) * kDenseChannels + inside % kDenseChannels) * 2 + k % 2;
        weight[static_cast<size_t>(to)] = canonical((static_cast<size_t>(c) * conv.kernel + r) * run + k);
      }
    }
  }
  return weight;
}

int merged_groups(int out, int groups) {
  int most = 1;
  for (int some = 2; some <= groups && out / groups * some <= kDenseChannels; ++some) {
    if (groups % some == 0) most = some;
  }
  return most;
}

Shape conv_shape(const Conv& conv, Shape in) { return conv.window().over(in, conv.out); }

void conv_forward(const Conv& conv, Shape in, const int16_t* x, int16_t* y, Scratch& scratch, Workers* workers) {
  if (conv.depthwise) return depthwise(conv, in, x, y, scratch, workers);
  if (reads_in_place(conv)) return dense_1x1(conv, in, x, y, scratch, workers);
  dense_windows(conv, in, x, y, scratch, workers);
}

void conv_forward(const Conv& conv, Shape in, const uint8_t* image, int16_t* y, Scratch& scratch, Workers* workers) {
  dense_windows(conv, in, image, y, scratch, workers);
}

Shape pool_shape(Shape in) { return {in.height / 2, in.width / 2, in.channels}; }

void pool_forward(Shape in, const int16_t* x, int16_t* y, int parts, Workers* workers) {
  const int64_t row_size = int64_t{in.width} * in.channels;
  share(in.height / 2, parts, workers, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int16_t* rows[4];
      for (int a = 0; a < 4; ++a) {
        const int64_t row = 2 * i - 1 + a;
        rows[a] = row >= 0 && row < in.height ? x + row * row_size : nullptr;
      }
      kernels().pool_row(rows, in.width, in.channels, y + i * (in.width / 2) * in.channels);
    }
  });
}

void average_pool(Shape in, const int16_t* x, int16_t* y) {
  const int channels = in.channels;
  const int64_t row_size = int64_t{in.width} * channels;
  for (int i = 0; i < in.height / 2; ++i, x += row_size) {
    for (int j = 0; j < in.width / 2; ++j, x += 2 * channels, y += channels) {
      const int16_t* below = x + row_size;
      for (int c = 0; c < channels; ++c) {
        y[c] = static_cast<int16_t>((x[c] + x[channels + c] + below[c] + below[channels + c] + 2) >> 2);  // round_shift, in 32 bits
      }
    }
  }
}

int16_t apply(const Affine& affine, int channel, int64_t value) {
  return sat16(round_shift(value * affine.multiplier[channel] + affine.bias[channel], affine.shift));
}

}  // namespace bitreplay
