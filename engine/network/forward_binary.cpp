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
  int in, out;  // channels of a group
  Window window;
  int groups = 1;
  const int16_t* tap_sums = nullptr;  // with a pad of nothing: (taps, groups * out)
};

Shape shape_of(const Geometry& g, Shape in) { return g.window.over(in, g.out * g.groups); }

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
  // bits: of the map, of all groups; weight: of this one.
  Tiler(const Geometry& geometry, Shape in, const uint64_t* bits, const uint64_t* weight, int group = 0)
      : geometry_(geometry), in_(in), out_(shape_of(geometry, in)), pad_(geometry.window.padding()), group_(group), bits_(bits), weight_(weight) {
    tile_.in = geometry.in;
    tile_.words = words_for(geometry.in);
    tile_.kernel = geometry.window.kernel;
    tile_.stride = geometry.window.stride;
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
          if (geometry_.tap_sums != nullptr) take_out_pad(i, j, c, count);
          emit(tile_, i, j, c, count, z_);
        }
      }
    }
  }

 private:
  void fill_window(int i, int j) {
    const int words = tile_.words;
    const int width = tile_.window_columns();
    const int all = words * geometry_.groups;
    const int top = i * tile_.stride - pad_.top, left = j * tile_.stride - pad_.left;
    const int begin = std::max(0, -left), end = std::min(width, in_.width - left);
    uint64_t* to = window_;
    for (int a = 0; a < tile_.window_rows(); ++a, to += width * words) {
      const int row = top + a;
      if (row < 0 || row >= in_.height) {
        std::fill_n(to, width * words, uint64_t{0});
        continue;
      }
      const uint64_t* from = bits_ + (int64_t{row} * in_.width + left + begin) * all + group_ * words;
      std::fill(to, to + begin * words, uint64_t{0});
      if (all == words) {
        std::copy(from, from + (end - begin) * words, to + begin * words);
      } else {
        for (int b = begin; b < end; ++b, from += all) std::copy_n(from, words, to + b * words);
      }
      std::fill(to + end * words, to + width * words, uint64_t{0});
    }
  }

  // The kernels count +1 where there is nothing.
  void take_out_pad(int i, int j, int c, int count) {
    const int channels = geometry_.out * geometry_.groups;
    const int16_t* sums = geometry_.tap_sums + group_ * geometry_.out + c;
    int16_t* z = z_;
    for (int a = 0; a < tile_.rows; ++a) {
      for (int b = 0; b < tile_.columns; ++b, z += kTileChannels) {
        const int top = (i + a) * tile_.stride - pad_.top, left = (j + b) * tile_.stride - pad_.left;
        if (top >= 0 && left >= 0 && top + tile_.kernel <= in_.height && left + tile_.kernel <= in_.width) continue;
        for (int t = 0; t < tile_.kernel * tile_.kernel; ++t) {
          const int row = top + t / tile_.kernel, column = left + t % tile_.kernel;
          if (row >= 0 && row < in_.height && column >= 0 && column < in_.width) continue;
          for (int k = 0; k < count; ++k) z[k] = static_cast<int16_t>(z[k] - sums[t * channels + k]);
        }
      }
    }
  }

  const Geometry geometry_;
  const Shape in_, out_;
  const Pad pad_;
  const int group_;
  const uint64_t *bits_, *weight_;
  BinaryTile tile_;
  alignas(64) uint64_t window_[kWindowWords + kWindowSlack];
  alignas(64) unsigned char expanded_[kExpandedBytes];
  alignas(64) int16_t z_[kTilePixels * kTileChannels];
};

const int16_t* sums_of(const Block& block) { return block.tap_sums.empty() ? nullptr : block.tap_sums.data(); }
Geometry geometry_of(const Block& block) { return {block.channels, block.channels, {3, 1, {}}, 1, sums_of(block)}; }
Geometry geometry_of(const Down& down) { return {down.in, down.out, {3, 2, {}}}; }
Geometry geometry_of(const Binary& binary) {
  return {binary.in / binary.groups, binary.block.channels / binary.groups, binary.window, binary.groups, sums_of(binary.block)};
}

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

// Words of one group's weights in the kernels' layout.
int64_t group_words(const Geometry& g) { return kernels().binary_weight_words(g.in, g.out, g.window.kernel); }

Buffer<uint64_t> packed_weight(const Geometry& g, const uint64_t* canonical) {
  const Kernels& kernel = kernels();
  const int64_t words = group_words(g);
  Buffer<uint64_t> weight(static_cast<size_t>(words * g.groups), 0);
  const int length = g.window.kernel * g.window.kernel * words_for(g.in);
  for (int c = 0; c < g.out * g.groups; ++c) {
    kernel.set_binary_channel(weight.data() + c / g.out * words, g.in, g.window.kernel, c % g.out, canonical + int64_t{c} * length);
  }
  return weight;
}

// Dot products of every tap's weights with +1: (taps, channels).
Buffer<int16_t> tap_sums(const Geometry& g, const uint64_t* canonical) {
  const int taps = g.window.kernel * g.window.kernel, words = words_for(g.in), channels = g.out * g.groups;
  Buffer<int16_t> sums(static_cast<size_t>(taps) * channels);
  for (int c = 0; c < channels; ++c) {
    for (int t = 0; t < taps; ++t, canonical += words) {
      int negative = 0;
      for (int w = 0; w < words; ++w) negative += std::popcount(canonical[w]);
      sums[static_cast<size_t>(t) * channels + c] = static_cast<int16_t>(g.in - 2 * negative);
    }
  }
  return sums;
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

// bits of the input map -> y of a part, in place of x (the output map); the part's channels are of one group.
void forward_part(const Geometry& geometry, const Block& block, Shape in, const uint64_t* bits, int group, const Part& part, int16_t* x) {
  const int channels = block.channels, width = shape_of(geometry, in).width, first = group * geometry.out;
  const BlockParameters parameters = from_channel(parameters_of(block), first);
  Tiler(geometry, in, bits, block.weight.data() + group * group_words(geometry), group)
      .run(part, [&](const BinaryTile& tile, int i, int j, int c, int count, const int16_t* z) {
        const bool whole = tile.columns == width;  // all rows in one go
        const int runs = whole ? 1 : tile.rows;
        const int pixels = whole ? tile.rows * tile.columns : tile.columns;
        for (int a = 0; a < runs; ++a) {
          int16_t* to = x + (int64_t{i + a} * width + j) * channels + first + c;
          kernels().block_apply(from_channel(parameters, c), z + int64_t{a} * pixels * kTileChannels, kTileChannels, to, channels, pixels, count);
        }
      });
}

// All parts.  A small map with many channels is cut between channels, where parts come out equal; otherwise between rows.
void forward_parts(const Geometry& geometry, const Block& block, Shape in, const uint64_t* bits, int16_t* x, int parts, Workers* workers) {
  const int height = shape_of(geometry, in).height;
  const int tiles = ceil_div(geometry.out, kTileChannels);
  const bool by_channel = tiles % parts == 0 && height % parts != 0;
  run_parts(parts, workers, [&](int part) {
    const int total = by_channel ? tiles : height;
    const int begin = total * part / parts, end = total * (part + 1) / parts;
    const Part share = by_channel ? Part{0, height, begin * kTileChannels, std::min(geometry.out, end * kTileChannels)}
                                  : Part{begin, end, 0, geometry.out};
    for (int group = 0; group < geometry.groups && begin < end; ++group) forward_part(geometry, block, in, bits, group, share, x);
  });
}

// Signs of the map, shared among the parts.
void sign_map(const Block& block, Shape shape, const int16_t* x, uint64_t* bits, int parts, Workers* workers) {
  run_parts(parts, workers, [&](int part) {
    const int begin = shape.height * part / parts, end = shape.height * (part + 1) / parts;
    const int64_t first = int64_t{begin} * shape.width;
    block_bits(block, {end - begin, shape.width, shape.channels}, x + first * shape.channels, bits + first * words_for(shape.channels));
  });
}

}  // namespace

int64_t bytes_of(const Block& block, int in, Layout layout, int taps, int groups) {
  // At most: channels in groups of 32, a byte for four of their bits (kernels_avx2.cpp).
  const int64_t most = int64_t{groups} * ceil_div(block.channels / groups, 32) * 32 * taps * words_for(in) * 2 * int64_t{sizeof(uint64_t)};
  int64_t total = (layout == Layout::here || block.weight.empty() ? bytes_of(block.weight) : most) + bytes_of(block.bias) + bytes_of(block.tap_sums);
  for (const auto* values : {&block.mean, &block.multiplier, &block.threshold, &block.alpha, &block.beta, &block.high, &block.low}) {
    total += bytes_of(*values);
  }
  return total;
}

void set_block_weight(Block& block, std::span<const uint64_t> canonical, bool zero_pad) {
  block.weight = packed_weight(geometry_of(block), canonical.data());
  if (zero_pad) block.tap_sums = tap_sums(geometry_of(block), canonical.data());
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
  const int parts = parts_of(scratch, workers);
  sign_map(block, shape, x, scratch.bits(), parts, workers);
  forward_parts(geometry_of(block), block, shape, scratch.bits(), x, parts, workers);
}

void set_weight(Binary& binary, std::span<const uint64_t> canonical, bool zero_pad) {
  const Geometry geometry = geometry_of(binary);
  binary.block.weight = packed_weight(geometry, canonical.data());
  if (zero_pad) binary.block.tap_sums = tap_sums(geometry, canonical.data());
}

void binary_forward(const Binary& binary, Shape in, const int16_t* x, int16_t* y, Scratch& scratch, Workers* workers) {
  const Shape out = binary.window.over(in, binary.block.channels);
  const int parts = parts_of(scratch, workers);
  sign_map(binary.block, in, x, scratch.bits(), parts, workers);
  std::fill_n(y, out.size(), int16_t{0});  // there is no stream that it is added to
  forward_parts(geometry_of(binary), binary.block, in, scratch.bits(), y, parts, workers);
}

void set_down_weight(Down& down, std::span<const uint64_t> canonical, std::span<const uint64_t> shortcut) {
  down.block.weight = packed_weight(geometry_of(down), canonical.data());
  down.shortcut.weight = conv_weight(down.shortcut, [&](size_t i) -> int16_t {
    const size_t in = static_cast<size_t>(down.in);
    return bit_at(shortcut.data() + i / in * static_cast<size_t>(words_for(down.in)), static_cast<int>(i % in)) ? -1 : 1;
  });
}

Shape down_shape(const Down& down, Shape in) { return {in.height / 2, in.width / 2, down.out}; }

void down_forward(const Down& down, Shape in, const int16_t* x, int16_t* mean, int16_t* y, Scratch& scratch, Workers* workers) {
  const Shape pooled = pool_shape(in);
  uint64_t* bits = scratch.bits();
  const int parts = parts_of(scratch, workers);
  run_parts(parts, workers, [&](int part) {
    const int begin = pooled.height * part / parts, end = pooled.height * (part + 1) / parts;
    const Shape rows{2 * (end - begin), in.width, in.channels};
    const int64_t first = int64_t{2} * begin * in.width;
    block_bits(down.block, rows, x + first * in.channels, bits + first * words_for(in.channels));
    average_pool(rows, x + first * in.channels, mean + int64_t{begin} * pooled.width * in.channels);
  });
  conv_forward(down.shortcut, pooled, mean, y, scratch, workers);
  forward_parts(geometry_of(down), down.block, in, bits, y, parts, workers);
}

void activate_forward(const Activate& activate, Shape in, int16_t* x, int parts, Workers* workers) {
  // A dot product of 0 everywhere, of which a multiplier of 0 makes nothing to be added.
  static constexpr int16_t kNothing[kMostChannels] = {};
  share(in.pixels(), parts, workers, [&](int, int64_t begin, int64_t end) {
    kernels().block_apply(parameters_of(activate.block), kNothing, 0, x + begin * in.channels, in.channels, end - begin, in.channels);
  });
}

void set_binary_weight(BinaryConv& conv, std::span<const uint64_t> canonical) {
  const Geometry geometry{conv.in, conv.out, {conv.kernel, conv.stride, {}}};
  conv.weight = packed_weight(geometry, canonical.data());
  conv.tap_sums = conv.zero_pad ? tap_sums(geometry, canonical.data()) : Buffer<int16_t>();
}

Shape binary_shape(const BinaryConv& conv, Shape in) { return Window{conv.kernel, conv.stride, {}}.over(in, conv.out); }

void binary_dots(const BinaryConv& conv, Shape in, const uint64_t* bits, int16_t* z) {
  const Geometry geometry{conv.in, conv.out, {conv.kernel, conv.stride, {}}, 1, conv.zero_pad ? conv.tap_sums.data() : nullptr};
  dots(geometry, in, bits, conv.weight.data(), {0, binary_shape(conv, in).height, 0, conv.out}, z);
}

}  // namespace bitreplay
