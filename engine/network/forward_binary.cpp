// Binary convolutions, blocks and downs: cuts maps into tiles, pads them, and hands them to the kernels.  Uses 72 KiB of stack.
#include <algorithm>
#include <bit>

#include "bits.h"
#include "forward.h"
#include "kernels/kernels.h"
#include "workers.h"

namespace bitreplay {
namespace {

constexpr int kWindowSlack = 2 * 16 + 1;  // words that kernels.h allows to be read behind a window of at most 1024 channels

struct Geometry {
  int in, out, kernel, stride;
};

Shape shape_of(const Geometry& g, Shape in) { return {(in.height - 1) / g.stride + 1, (in.width - 1) / g.stride + 1, g.out}; }

// Part of the output: rows and channels; channels from a multiple of kTileChannels on.
struct Part {
  int row_begin, row_end, channel_begin, channel_end;
};

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The largest share of `total`, cut into nearly equal ones of at most `most`.
int even_share(int total, int most) { return ceil_div(total, ceil_div(total, most)); }

// One tile and the memory it is computed in; `emit` gets (tile, first row, first column, first channel, channels, z).
class Tiler {
 public:
  Tiler(const Geometry& geometry, Shape in, const uint64_t* bits, const uint64_t* weight)
      : geometry_(geometry), in_(in), out_(shape_of(geometry, in)), bits_(bits), weight_(weight) {
    tile_.in = geometry.in;
    tile_.words = words_for(geometry.in);
    tile_.kernel = geometry.kernel;
    tile_.stride = geometry.stride;
    tile_.window = window_;
    tile_.expanded = expanded_;
    std::fill_n(window_ + kWindowWords, kWindowSlack, uint64_t{0});
  }

  template <class Emit>
  void run(const Part& part, const Emit& emit) {
    const int most = (kWindowWords / (tile_.words * tile_.kernel) - tile_.kernel) / tile_.stride + 1;
    const int columns = even_share(out_.width, std::min(most, kTilePixels));
    tile_.columns = columns;
    const int window_rows = kWindowWords / (tile_.words * tile_.window_columns());
    const int rows = std::min((window_rows - tile_.kernel) / tile_.stride + 1, kTilePixels / columns);
    const int share = even_share(part.row_end - part.row_begin, rows);
    for (int i = part.row_begin; i < part.row_end; i += share) {
      for (int j = 0; j < out_.width; j += columns) {
        tile_.rows = std::min(share, part.row_end - i);
        tile_.columns = std::min(columns, out_.width - j);
        fill_window(i, j);
        kernels().binary_expand(tile_);
        for (int c = part.channel_begin; c < part.channel_end; c += kTileChannels) {
          const int count = std::min(kTileChannels, part.channel_end - c);
          kernels().binary_tile(tile_, weight_, c, count, z_);
          emit(tile_, i, j, c, count, z_);
        }
      }
    }
  }

 private:
  void fill_window(int i, int j) {
    const int words = tile_.words;
    const int width = tile_.window_columns();
    const int top = i * geometry_.stride - geometry_.kernel / 2, left = j * geometry_.stride - geometry_.kernel / 2;
    const int begin = std::max(0, -left), end = std::min(width, in_.width - left);
    uint64_t* to = window_;
    for (int a = 0; a < tile_.window_rows(); ++a, to += width * words) {
      const int row = top + a;
      if (row < 0 || row >= in_.height) {
        std::fill_n(to, width * words, uint64_t{0});
        continue;
      }
      const uint64_t* from = bits_ + (int64_t{row} * in_.width + left + begin) * words;
      std::fill(to, to + begin * words, uint64_t{0});
      std::copy(from, from + (end - begin) * words, to + begin * words);
      std::fill(to + end * words, to + width * words, uint64_t{0});
    }
  }

  const Geometry geometry_;
  const Shape in_, out_;
  const uint64_t *bits_, *weight_;
  BinaryTile tile_;
  alignas(64) uint64_t window_[kWindowWords + kWindowSlack];
  alignas(64) unsigned char expanded_[kExpandedBytes];
  alignas(64) int16_t z_[kTilePixels * kTileChannels];
};

Geometry geometry_of(const Block& block) { return {block.channels, block.channels, 3, 1}; }
Geometry geometry_of(const Down& down) { return {down.in, down.out, 3, 2}; }

int parts_of(const Scratch& scratch, const Workers* workers) {
  return workers == nullptr ? 1 : std::min(workers->count(), scratch.parts());
}

template <class F>
void run_parts(int parts, Workers* workers, const F& f) {
  if (parts == 1) return f(0);
  workers->run(parts, f);
}

BlockParameters parameters_of(const Block& block) {
  BlockParameters p{block.mean.data(), block.multiplier.data(), block.bias.data(), block.shift, block.relu, nullptr, nullptr, nullptr, nullptr};
  if (!block.alpha.empty()) {
    p.alpha = block.alpha.data();
    p.beta = block.beta.data();
    p.high = block.high.data();
    p.low = block.low.data();
  }
  return p;
}

Buffer<uint64_t> packed_weight(const Geometry& g, const uint64_t* canonical) {
  const Kernels& kernel = kernels();
  Buffer<uint64_t> weight(static_cast<size_t>(kernel.binary_weight_words(g.in, g.out, g.kernel)), 0);
  const int length = g.kernel * g.kernel * words_for(g.in);
  for (int c = 0; c < g.out; ++c) kernel.set_binary_channel(weight.data(), g.in, g.kernel, c, canonical + int64_t{c} * length);
  return weight;
}

// z (out.height, out.width, out.channels) of a part.
void dots(const Geometry& g, Shape in, const uint64_t* bits, const uint64_t* weight, const Part& part, int16_t* z) {
  const Shape out = shape_of(g, in);
  Tiler(g, in, bits, weight).run(part, [&](const BinaryTile& tile, int i, int j, int c, int count, const int16_t* from) {
    for (int a = 0; a < tile.rows; ++a) {
      int16_t* to = z + (int64_t{i + a} * out.width + j) * out.channels + c;
      for (int b = 0; b < tile.columns; ++b, from += kTileChannels, to += out.channels) std::copy_n(from, count, to);
    }
  });
}

// bits of the input map -> y of a part, in place of x (the output map).
void forward_part(const Geometry& geometry, const Block& block, Shape in, const uint64_t* bits, const Part& part, int16_t* x) {
  const BlockParameters parameters = parameters_of(block);
  const int channels = block.channels, width = shape_of(geometry, in).width;
  Tiler(geometry, in, bits, block.weight.data())
      .run(part, [&](const BinaryTile& tile, int i, int j, int c, int count, const int16_t* z) {
        const bool whole = tile.columns == width;  // all rows in one go
        const int runs = whole ? 1 : tile.rows;
        const int pixels = whole ? tile.rows * tile.columns : tile.columns;
        for (int a = 0; a < runs; ++a) {
          int16_t* to = x + (int64_t{i + a} * width + j) * channels + c;
          kernels().block_apply(from_channel(parameters, c), z + int64_t{a} * pixels * kTileChannels, kTileChannels, to, channels, pixels, count);
        }
      });
}

// All parts.  A small map with many channels is cut between channels, where parts come out equal; otherwise between rows.
void forward_parts(const Geometry& geometry, const Block& block, Shape in, const uint64_t* bits, int16_t* x, int parts, Workers* workers) {
  const int height = shape_of(geometry, in).height;
  const int groups = ceil_div(block.channels, kTileChannels);
  const bool by_channel = groups % parts == 0 && height % parts != 0;
  run_parts(parts, workers, [&](int part) {
    const int total = by_channel ? groups : height;
    const int begin = total * part / parts, end = total * (part + 1) / parts;
    const Part share = by_channel ? Part{0, height, begin * kTileChannels, std::min(block.channels, end * kTileChannels)}
                                  : Part{begin, end, 0, block.channels};
    if (begin < end) forward_part(geometry, block, in, bits, share, x);
  });
}

}  // namespace

int64_t bytes_of(const Block& block, int in, Layout layout) {
  // At most: channels in groups of 32, a byte for four of their bits (kernels_avx2.cpp).
  const int64_t most = int64_t{ceil_div(block.channels, 32)} * 32 * kTaps * words_for(in) * 2 * int64_t{sizeof(uint64_t)};
  int64_t total = (layout == Layout::here ? bytes_of(block.weight) : most) + bytes_of(block.bias);
  for (const auto* values : {&block.mean, &block.multiplier, &block.threshold, &block.alpha, &block.beta, &block.high, &block.low}) {
    total += bytes_of(*values);
  }
  return total;
}

void set_block_weight(Block& block, std::span<const uint64_t> canonical) {
  block.weight = packed_weight(geometry_of(block), canonical.data());
}

void set_block_channel(Block& block, int channel, const uint64_t* canonical) {
  kernels().set_binary_channel(block.weight.data(), block.channels, 3, channel, canonical);
}

void block_bits(const Block& block, Shape shape, const int16_t* x, uint64_t* bits) {
  kernels().sign_bits(x, block.threshold.empty() ? nullptr : block.threshold.data(), shape.pixels(), shape.channels, bits);
}

void block_dots(const Block& block, Shape shape, const uint64_t* bits, int16_t* z) {
  dots(geometry_of(block), shape, bits, block.weight.data(), {0, shape.height, 0, block.channels}, z);
}

void block_apply(const Block& block, Shape shape, const int16_t* z, int16_t* x) {
  kernels().block_apply(parameters_of(block), z, block.channels, x, block.channels, shape.pixels(), block.channels);
}

void block_forward(const Block& block, Shape shape, int16_t* x, Scratch& scratch, Workers* workers) {
  uint64_t* bits = scratch.bits();
  const int words = words_for(block.channels), parts = parts_of(scratch, workers);
  run_parts(parts, workers, [&](int part) {
    const int begin = shape.height * part / parts, end = shape.height * (part + 1) / parts;
    const int64_t first = int64_t{begin} * shape.width;
    block_bits(block, {end - begin, shape.width, shape.channels}, x + first * shape.channels, bits + first * words);
  });
  forward_parts(geometry_of(block), block, shape, bits, x, parts, workers);
}

void set_down_weight(Down& down, std::span<const uint64_t> canonical, std::span<const uint64_t> shortcut) {
  down.block.weight = packed_weight(geometry_of(down), canonical.data());
  down.shortcut.weight = conv_weight(down.shortcut, [&](size_t i) -> int8_t {
    const size_t in = static_cast<size_t>(down.in);
    return bit_at(shortcut.data() + i / in * static_cast<size_t>(words_for(down.in)), static_cast<int>(i % in)) ? -1 : 1;
  });
}

Shape down_shape(const Down& down, Shape in) { return {in.height / 2, in.width / 2, down.out}; }

int16_t* down_forward(const Down& down, Shape in, const int16_t* x, Scratch& scratch, Workers* workers) {
  const Shape pooled = pool_shape(in);
  uint64_t* bits = scratch.bits();
  int16_t* mean = scratch.opposite(x, pooled);
  const int parts = parts_of(scratch, workers);
  run_parts(parts, workers, [&](int part) {
    const int begin = pooled.height * part / parts, end = pooled.height * (part + 1) / parts;
    const Shape rows{2 * (end - begin), in.width, in.channels};
    const int64_t first = int64_t{2} * begin * in.width;
    block_bits(down.block, rows, x + first * in.channels, bits + first * words_for(in.channels));
    average_pool(rows, x + first * in.channels, mean + int64_t{begin} * pooled.width * in.channels);
  });
  int16_t* y = scratch.opposite(mean, down_shape(down, in));
  conv_forward(down.shortcut, pooled, mean, y, scratch, workers);
  forward_parts(geometry_of(down), down.block, in, bits, y, parts, workers);
  return y;
}

void set_binary_weight(BinaryConv& conv, std::span<const uint64_t> canonical) {
  const int taps = conv.kernel * conv.kernel;
  const int words = words_for(conv.in);
  conv.weight = packed_weight({conv.in, conv.out, conv.kernel, conv.stride}, canonical.data());
  conv.tap_sums.assign(conv.zero_pad ? static_cast<size_t>(taps) * conv.out : 0, 0);
  if (!conv.zero_pad) return;
  for (int c = 0; c < conv.out; ++c) {
    for (int t = 0; t < taps; ++t) {
      int negative = 0;
      for (int w = 0; w < words; ++w) negative += std::popcount(canonical[(static_cast<size_t>(c) * taps + t) * words + w]);
      conv.tap_sums[static_cast<size_t>(t) * conv.out + c] = static_cast<int16_t>(conv.in - 2 * negative);
    }
  }
}

Shape binary_shape(const BinaryConv& conv, Shape in) { return shape_of({conv.in, conv.out, conv.kernel, conv.stride}, in); }

void binary_dots(const BinaryConv& conv, Shape in, const uint64_t* bits, int16_t* z) {
  const Shape out = binary_shape(conv, in);
  dots({conv.in, conv.out, conv.kernel, conv.stride}, in, bits, conv.weight.data(), {0, out.height, 0, conv.out}, z);
  if (!conv.zero_pad) return;
  // The kernels have counted +1 where there is nothing.
  for (int i = 0; i < out.height; ++i) {
    for (int j = 0; j < out.width; ++j, z += conv.out) {
      for (int t = 0; t < conv.kernel * conv.kernel; ++t) {
        const int row = i * conv.stride + t / conv.kernel - conv.kernel / 2, column = j * conv.stride + t % conv.kernel - conv.kernel / 2;
        if (row >= 0 && row < in.height && column >= 0 && column < in.width) continue;
        const int16_t* sum = conv.tap_sums.data() + static_cast<size_t>(t) * conv.out;
        for (int c = 0; c < conv.out; ++c) z[c] = static_cast<int16_t>(z[c] - sum[c]);
      }
    }
  }
}

}  // namespace bitreplay
