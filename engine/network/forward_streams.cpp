// Operations on streams that are no convolutions: scaling, activation, addition, concatenation, gates and pooling (docs/method.md, 3.9 and 3.10).
#include <algorithm>

#include "fixed_point.h"
#include "forward.h"
#include "kernels/kernels.h"

namespace bitreplay {
namespace {

constexpr int kScalePixels = 64;

// f(begin, end) of the map's values, a share each.
template <class F>
void share_values(Shape in, int parts, Workers* workers, const F& f) {
  share(in.pixels(), parts, workers, [&](int, int64_t begin, int64_t end) { f(begin * in.channels, end * in.channels); });
}

// The taps of a window that lie inside the map.
struct Inside {
  int row_begin, row_end, column_begin, column_end;
};

Inside inside(const Window& window, Shape in, int64_t i, int64_t j) {
  const Pad pad = window.padding();
  const int top = static_cast<int>(i) * window.stride - pad.top, left = static_cast<int>(j) * window.stride - pad.left;
  return {std::max(top, 0), std::min(top + window.kernel, in.height), std::max(left, 0), std::min(left + window.kernel, in.width)};
}

}  // namespace

void scale_forward(const Scale& scale, Shape in, const int16_t* x, int16_t* y, int parts, Workers* workers) {
  const Affine& affine = scale.affine;
  share(in.pixels(), parts, workers, [&](int, int64_t begin, int64_t end) {
    alignas(64) int32_t acc[kScalePixels * kDenseChannels];
    for (int64_t p = begin; p < end; p += kScalePixels) {
      const int64_t count = std::min<int64_t>(kScalePixels, end - p);
      for (int c = 0; c < in.channels; c += kDenseChannels) {
        const int channels = std::min(kDenseChannels, in.channels - c);
        for (int64_t k = 0; k < count; ++k) std::copy_n(x + (p + k) * in.channels + c, channels, acc + k * kDenseChannels);
        kernels().affine({affine.multiplier.data() + c, affine.bias.data() + c, affine.shift, scale.relu}, acc, count, channels,
                         y + p * in.channels + c, in.channels);
      }
    }
  });
}

void scale_forward(const Scale& scale, Shape in, const uint8_t* image, int16_t* y, int parts, Workers* workers) {
  int16_t table[256][3];
  for (int value = 0; value < 256; ++value) {
    for (int c = 0; c < 3; ++c) {
      const int16_t made = apply(scale.affine, c, 2 * value - 255);
      table[value][c] = scale.relu ? std::max<int16_t>(made, 0) : made;
    }
  }
  share(in.pixels(), parts, workers, [&](int, int64_t begin, int64_t end) {
    for (int64_t p = 3 * begin; p < 3 * end; p += 3) {
      for (int c = 0; c < 3; ++c) y[p + c] = table[image[p + c]][c];
    }
  });
}

void add_forward(const Add& add, Shape in, const int16_t* a, const int16_t* b, int16_t* y, int parts, Workers* workers) {
  const int64_t half = add.shift > 0 ? int64_t{1} << (add.shift - 1) : 0;
  share_values(in, parts, workers, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sum = int64_t{a[i]} * add.multipliers[0] + int64_t{b[i]} * add.multipliers[1];
      const int16_t value = sat16((sum + half) >> add.shift);
      y[i] = add.relu ? std::max<int16_t>(value, 0) : value;
    }
  });
}

void gate_forward(Shape in, const int16_t* x, const int16_t* gates, int16_t* y, int parts, Workers* workers) {
  share(in.pixels(), parts, workers, [&](int, int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      for (int c = 0; c < in.channels; ++c) y[p * in.channels + c] = sat16(round_shift(int64_t{x[p * in.channels + c]} * gates[c], 13));
    }
  });
}

void concat_forward(Shape in, const int16_t* x, int16_t* y, int first, int all) {
  for (int64_t p = 0; p < in.pixels(); ++p) std::copy_n(x + p * in.channels, in.channels, y + p * all + first);
}

void max_pool_forward(const MaxPool& pool, Shape in, const int16_t* x, int16_t* y, int parts, Workers* workers) {
  const Shape out = pool.window.over(in, in.channels);
  const int16_t least = pool.relu ? int16_t{0} : INT16_MIN;
  share(out.height, parts, workers, [&](int, int64_t begin, int64_t end) {
    int16_t* to = y + begin * out.width * out.channels;
    for (int64_t i = begin; i < end; ++i) {
      for (int j = 0; j < out.width; ++j, to += out.channels) {
        std::fill_n(to, out.channels, least);
        const Inside taps = inside(pool.window, in, i, j);
        for (int row = taps.row_begin; row < taps.row_end; ++row) {
          for (int column = taps.column_begin; column < taps.column_end; ++column) {
            const int16_t* from = x + (int64_t{row} * in.width + column) * in.channels;
            for (int c = 0; c < in.channels; ++c) to[c] = std::max(to[c], from[c]);
          }
        }
      }
    }
  });
}

void average_pool_forward(const AveragePool& pool, Shape in, const int16_t* x, int16_t* y, int parts, Workers* workers) {
  const Shape out = pool.window.over(in, in.channels);
  share(out.height, parts, workers, [&](int, int64_t begin, int64_t end) {
    int64_t sums[kMostChannels];
    int16_t* to = y + begin * out.width * out.channels;
    for (int64_t i = begin; i < end; ++i) {
      for (int j = 0; j < out.width; ++j, to += out.channels) {
        std::fill_n(sums, in.channels, int64_t{0});
        const Inside taps = inside(pool.window, in, i, j);
        for (int row = taps.row_begin; row < taps.row_end; ++row) {
          for (int column = taps.column_begin; column < taps.column_end; ++column) {
            const int16_t* from = x + (int64_t{row} * in.width + column) * in.channels;
            for (int c = 0; c < in.channels; ++c) sums[c] += from[c];
          }
        }
        const int64_t count = int64_t{taps.row_end - taps.row_begin} * (taps.column_end - taps.column_begin);
        for (int c = 0; c < in.channels; ++c) to[c] = static_cast<int16_t>(divide_round(sums[c], count));
      }
    }
  });
}

}  // namespace bitreplay
