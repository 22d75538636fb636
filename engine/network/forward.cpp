#include "forward.h"

#include <algorithm>

#include "bits.h"
#include "fixed_point.h"
#include "kernels/kernels.h"
#include "workers.h"

namespace bitreplay {
namespace {

constexpr int kAlign = 32;        // int16 values of a cache line
constexpr int kConvPixels = 64;   // of a tile

int64_t lines(int64_t values) { return (values + kAlign - 1) / kAlign * kAlign; }
// One value behind a map may be read.
int64_t space(Shape shape) { return lines(shape.size() + 1); }

// Values from one padded input row to the next, in a part's copy of the rows under a window.
int64_t padded_pitch(Shape in) { return lines((int64_t{in.width} + 2) * in.channels + 1); }

int groups_of(const Conv& conv) { return (conv.out + kDenseChannels - 1) / kDenseChannels; }
int pairs_of(const Conv& conv) { return (conv.kernel * conv.in + 1) / 2; }

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

// Requantised output of the pixels of a tile.
void dense_pixels(const Conv& conv, const DenseTile& tile, int16_t* y) {
  alignas(64) int32_t acc[kConvPixels * kDenseChannels];
  const int64_t group_size = int64_t{tile.rows} * tile.pairs * 2 * kDenseChannels;
  for (int g = 0; g < groups_of(conv); ++g) {
    const int c = g * kDenseChannels;
    kernels().dense_tile(tile, conv.weight.data() + g * group_size, acc);
    kernels().affine({conv.affine.multiplier.data() + c, conv.affine.bias.data() + c, conv.affine.shift, conv.relu}, acc, tile.pixels,
                     std::min(kDenseChannels, conv.out - c), y + c, conv.out);
  }
}

// `pixels` neighbours of which pixel p's first row lies at x + p * pixel_stride.
void dense_run(const Conv& conv, const int16_t* x, int pixel_stride, int64_t row_pitch, int64_t pixels, int16_t* y) {
  for (int64_t p = 0; p < pixels; p += kConvPixels) {
    const auto count = static_cast<int>(std::min<int64_t>(kConvPixels, pixels - p));
    dense_pixels(conv, {x + p * pixel_stride, pixel_stride, static_cast<int>(row_pitch), conv.kernel, pairs_of(conv), count}, y + p * conv.out);
  }
}

void copy_values(const int16_t* from, int count, int16_t* to) { std::copy_n(from, count, to); }
void copy_values(const uint8_t* from, int count, int16_t* to) {
  for (int i = 0; i < count; ++i) to[i] = static_cast<int16_t>(2 * from[i] - 255);
}

template <class T>
void dense_3x3(const Conv& conv, Shape in, const T* x, int16_t* y, Scratch& scratch, Workers* workers) {
  const Shape out = conv_shape(conv, in);
  const int64_t pitch = padded_pitch(in);
  const int row_size = in.width * in.channels;
  share(out.height, scratch.parts(), workers, [&](int part, int64_t begin, int64_t end) {
    int16_t* rows = scratch.rows(part);
    std::fill_n(rows, 3 * pitch, int16_t{0});
    for (int64_t i = begin; i < end; ++i) {
      const int kept = i == begin ? 0 : 3 - conv.stride;  // rows that the last window saw too
      std::copy_n(rows + (3 - kept) * pitch, kept * pitch, rows);
      for (int a = kept; a < 3; ++a) {
        int16_t* to = rows + a * pitch + in.channels;
        const int64_t row = i * conv.stride - 1 + a;
        if (row >= 0 && row < in.height) {
          copy_values(x + row * row_size, row_size, to);
        } else {
          std::fill_n(to, row_size, int16_t{0});
        }
      }
      dense_run(conv, rows, conv.stride * in.channels, pitch, out.width, y + i * out.width * conv.out);
    }
  });
}

void dense_1x1(const Conv& conv, Shape in, const int16_t* x, int16_t* y, Scratch& scratch, Workers* workers) {
  const Shape out = conv_shape(conv, in);
  if (conv.stride == 1) {  // any run of pixels
    share(out.pixels(), scratch.parts(), workers, [&](int, int64_t begin, int64_t end) {
      dense_run(conv, x + begin * in.channels, in.channels, 0, end - begin, y + begin * conv.out);
    });
    return;
  }
  share(out.height, scratch.parts(), workers, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      dense_run(conv, x + i * conv.stride * in.width * in.channels, conv.stride * in.channels, 0, out.width, y + i * out.width * conv.out);
    }
  });
}

void depthwise(const Conv& conv, Shape in, const int16_t* x, int16_t* y, int parts, Workers* workers) {
  const Shape out = conv_shape(conv, in);
  const Affine& affine = conv.affine;
  share(out.height, parts, workers, [&](int, int64_t begin, int64_t end) {
    alignas(64) int32_t acc[kConvPixels * kDenseChannels];
    for (int64_t i = begin; i < end; ++i) {
      for (int c = 0; c < conv.out; c += kDenseChannels) {
        const int count = std::min(kDenseChannels, conv.out - c);
        DepthwiseTile tile{{}, in.width, in.channels, conv.kernel, conv.stride, 0, 0};
        for (int a = 0; a < conv.kernel; ++a) {
          const int64_t row = i * conv.stride - conv.kernel / 2 + a;
          if (row >= 0 && row < in.height) tile.rows[a] = x + row * in.width * in.channels + c;
        }
        for (int j = 0; j < out.width; j += kConvPixels) {
          tile.first = j;
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

void ScratchPlan::add(const Conv& conv, Shape in, bool image) {
  stream = std::max(stream, (image ? 0 : space(in)) + space(conv_shape(conv, in)));
  if (!conv.depthwise && conv.kernel == 3) rows = std::max(rows, 3 * padded_pitch(in));
}

void ScratchPlan::add(const Block& block, Shape in) {
  add_map(in);
  bits = std::max(bits, in.pixels() * words_for(block.channels));
}

void ScratchPlan::add(const Pool&, Shape in) { stream = std::max(stream, space(in) + space(pool_shape(in))); }

void ScratchPlan::add(const Down& down, Shape in) {
  // The pooled map lies opposite of the input, and the output, which takes the input's place, opposite of that.
  stream = std::max(stream, space(pool_shape(in)) + std::max(space(in), space(down_shape(down, in))));
  bits = std::max(bits, in.pixels() * words_for(down.in));
}

void ScratchPlan::add_map(Shape map) { stream = std::max(stream, space(map)); }

void ScratchPlan::add_features(int channels) { rows = std::max(rows, lines(3 * int64_t{channels} + 1)); }

int64_t ScratchPlan::bytes(int parts) const { return 2 * lines(stream) + 8 * ((bits + 7) / 8 * 8) + 2 * parts * lines(rows); }

Scratch::Scratch(const ScratchPlan& plan, int parts)
    : stream_words_(lines(plan.stream) / 4),
      bits_words_((plan.bits + 7) / 8 * 8),
      rows_words_(lines(plan.rows) / 4),
      parts_(parts),
      memory_(static_cast<size_t>(plan.bytes(parts) / 8)) {}

int16_t* Scratch::opposite(const int16_t* other, Shape shape) {
  return other == stream() ? values(stream_words_) - space(shape) : stream();
}

int64_t bytes_of(const Conv& conv) {
  return bytes_of(conv.weight) + bytes_of(conv.affine.multiplier) + bytes_of(conv.affine.bias);
}

Buffer<int16_t> conv_weight(const Conv& conv, std::span<const int8_t> canonical) {
  return conv_weight(conv, [&](size_t i) { return canonical[i]; });
}

Buffer<int16_t> conv_weight(const Conv& conv, FunctionRef<int8_t(size_t)> canonical) {
  const int taps = conv.kernel * conv.kernel;
  if (conv.depthwise) {
    Buffer<int16_t> weight(static_cast<size_t>(conv.out) * taps);
    for (int c = 0; c < conv.out; ++c) {
      for (int t = 0; t < taps; ++t) weight[static_cast<size_t>(t) * conv.out + c] = canonical(static_cast<size_t>(c) * taps + t);
    }
    return weight;
  }
  const int pairs = pairs_of(conv), run = conv.kernel * conv.in;
  Buffer<int16_t> weight(static_cast<size_t>(groups_of(conv)) * conv.kernel * pairs * 2 * kDenseChannels, 0);
  for (int c = 0; c < conv.out; ++c) {
    const int64_t group = int64_t{c / kDenseChannels} * conv.kernel * pairs;
    for (int r = 0; r < conv.kernel; ++r) {
      for (int k = 0; k < run; ++k) {
        const int64_t to = ((group + r * pairs + k / 2) * kDenseChannels + c % kDenseChannels) * 2 + k % 2;
        weight[static_cast<size_t>(to)] = canonical((static_cast<size_t>(c) * conv.kernel + r) * run + k);
      }
    }
  }
  return weight;
}

Shape conv_shape(const Conv& conv, Shape in) {
  return {(in.height - 1) / conv.stride + 1, (in.width - 1) / conv.stride + 1, conv.out};
}

void conv_forward(const Conv& conv, Shape in, const int16_t* x, int16_t* y, Scratch& scratch, Workers* workers) {
  if (conv.depthwise) return depthwise(conv, in, x, y, scratch.parts(), workers);
  if (conv.kernel == 1) return dense_1x1(conv, in, x, y, scratch, workers);
  dense_3x3(conv, in, x, y, scratch, workers);
}

void conv_forward(const Conv& conv, Shape in, const uint8_t* image, int16_t* y, Scratch& scratch, Workers* workers) {
  dense_3x3(conv, in, image, y, scratch, workers);
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
