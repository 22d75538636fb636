// Forward kernels of one table against the scalar ones: sizes around the vector width, adversarial values, exact buffers.
#include <algorithm>

#include "bits.h"
#include "check.h"
#include "kernels/kernels.h"

namespace bitreplay::checks {
namespace {

constexpr int kChannels[] = {1, 3, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128, 200};

// run(table, to) from the same content must end in the same.
template <class T, class F>
Exact<T> both(const Kernels& fast, const char* name, std::initializer_list<int64_t> parameters, const Exact<T>& from, F&& run) {
  Exact<T> expected = from, got = from;
  run(kernels_scalar(), expected.data());
  run(fast, got.data());
  expect(expected == got, text(std::string(fast.isa) + ' ' + name, parameters));
  return expected;
}

void check_bits(const Kernels& fast) {
  for (const int channels : kChannels) {
    for (const Pattern pattern : kPatterns) {
      for (int with_threshold = 0; with_threshold < 2; ++with_threshold) {
        Source random{static_cast<uint64_t>(channels * 16 + pattern * 2 + with_threshold)};
        const int pixels = 5;
        const auto x = words16(int64_t{pixels} * channels, pattern, random), threshold = words16(channels, any_pattern(random), random);
        auto alpha = words16(channels, any_pattern(random), random);
        for (int16_t& a : alpha) a = std::max<int16_t>(a, -INT16_MAX);
        const auto bits = both(fast, "sign_bits", {channels, pattern, with_threshold}, Exact<uint64_t>(pixels * words_for(channels)),
                               [&](const Kernels& table, uint64_t* to) {
                                 table.sign_bits(x.data(), with_threshold ? threshold.data() : nullptr, pixels, channels, to);
                               });
        both(fast, "expand_bits", {channels, pattern}, Exact<int16_t>(x.size()),
             [&](const Kernels& table, int16_t* to) { table.expand_bits(bits.data(), alpha.data(), pixels, channels, to); });
      }
    }
  }
}

// All output channels of a tile, in the table's own layout.
void tile_of(const Kernels& table, BinaryTile tile, int out, const uint64_t* canonical, int16_t* result) {
  const int taps = tile.kernel * tile.kernel;
  Exact<uint64_t> weight(table.binary_weight_words(tile.in, out, tile.kernel));
  // Set twice: from other content to the one that is wanted.
  for (int round = 0; round < 2; ++round) {
    for (int c = 0; c < out; ++c) {
      table.set_binary_channel(weight.data(), tile.in, tile.kernel, c, canonical + int64_t{round == 0 ? out - 1 - c : c} * taps * tile.words);
    }
  }
  Exact<uint8_t> expanded(kExpandedBytes);
  tile.expanded = expanded.data();
  table.binary_expand(tile);
  Exact<int16_t> z(int64_t{tile.rows} * tile.columns * kTileChannels);
  for (int c = 0; c < out; c += kTileChannels) {
    const int count = std::min(kTileChannels, out - c);
    table.binary_tile(tile, weight.data(), c, count, z.data());
    for (int p = 0; p < tile.rows * tile.columns; ++p) result = std::copy_n(z.data() + p * kTileChannels, count, result);
  }
}

void check_binary(const Kernels& fast) {
  struct Size {
    int in, out, rows, columns;
  };
  std::vector<Size> sizes = {{64, 64, 1, kTilePixels}, {512, 64, 2, 7}, {1024, 70, 1, 9}};
  for (const int in : {1, 3, 31, 32, 33, 63, 64, 65, 128, 192, 200, 256}) sizes.push_back({in, 33, 2, 5});
  for (const int out : {1, 31, 32, 33, 64, 65, 96, 128, 160}) sizes.push_back({65, out, 1, 4});
  for (int columns = 1; columns <= 18; ++columns) sizes.push_back({70, 40, 2, columns});
  for (int rows = 1; rows <= 9; ++rows) sizes.push_back({64, 64, rows, 3});
  for (const Size& size : sizes) {
    for (int variant = 0; variant < 4; ++variant) {
      const int kernel = variant & 1 ? 3 : 1, stride = variant & 2 ? 2 : 1;
      BinaryTile tile{size.in, words_for(size.in), kernel, stride, size.rows, size.columns, nullptr, nullptr};
      const int pixels = tile.window_rows() * tile.window_columns();
      if (pixels * tile.words > kWindowWords) continue;
      for (const Pattern of_window : kExtremes) {
        for (const Pattern of_weight : kExtremes) {
          Source random{static_cast<uint64_t>(size.in * 1000003 + size.out * 10007 + size.rows * 211 + size.columns * 17 + of_window * 4 + of_weight)};
          const auto window = packed(pixels, size.in, of_window, random, 2 * tile.words + 1);
          const auto weight = packed(int64_t{size.out} * kernel * kernel, size.in, of_weight, random);
          tile.window = window.data();
          both(fast, "binary_tile", {size.in, size.out, size.rows, size.columns, kernel, stride, of_window, of_weight},
               Exact<int16_t>(int64_t{size.rows} * size.columns * size.out),
               [&](const Kernels& table, int16_t* to) { tile_of(table, tile, size.out, weight.data(), to); });
        }
      }
    }
  }
}

void check_block(const Kernels& fast) {
  for (const int channels : kChannels) {
    for (int variant = 0; variant < 20; ++variant) {
      const bool relu = variant & 1, activation = variant & 2;
      Source random{static_cast<uint64_t>(channels * 100 + variant) + 500000};
      const int pixels = 7, z_stride = channels + 3;
      const auto x = words16(int64_t{pixels} * channels, kPatterns[variant / 4], random);
      const auto z = values<int16_t>(int64_t{pixels - 1} * z_stride + channels, -9216, 9216, any_pattern(random), random);
      const auto mean = values<int16_t>(channels, -9216, 9216, variant % 3 ? kRandom : kLow, random);
      const auto bias = values<int32_t>(channels, -(1 << 29), 1 << 29, variant % 3 ? kRandom : kHigh, random);
      Exact<int16_t> of[5];  // multiplier, alpha, beta, high, low
      for (auto& value : of) value = words16(channels, any_pattern(random), random);
      for (const int shift : {0, 1, 13, 14, 30}) {
        BlockParameters block{mean.data(), of[0].data(), bias.data(), shift, relu, nullptr, nullptr, nullptr, nullptr};
        if (activation) block.alpha = of[1].data(), block.beta = of[2].data(), block.high = of[3].data(), block.low = of[4].data();
        both(fast, "block_apply", {channels, variant, shift}, x,
             [&](const Kernels& table, int16_t* to) { table.block_apply(block, z.data(), z_stride, to, channels, pixels, channels); });
      }
    }
  }
}

// Weights whose magnitudes sum to at most 65535.
Exact<int16_t> bounded_weights(int64_t count, Pattern pattern, Source& random) {
  const int64_t largest = std::min<int64_t>(127, 65535 / std::max<int64_t>(count, 1));
  return values<int16_t>(count, -largest, largest, pattern, random);
}

void check_dense(const Kernels& fast) {
  for (const int pairs : {1, 2, 5, 32, 130}) {
    for (const int rows : {1, 3}) {
      for (int pixels = 1; pixels <= 19; pixels += 3) {
        for (const Pattern pattern : kPatterns) {
          Source random{static_cast<uint64_t>(pairs * 1000 + rows * 100 + pixels * 5 + pattern) + 700000};
          const int length = rows * pairs * 2, stride = 3, pitch = pixels * stride + 2 * pairs;
          const auto x = words16(int64_t{rows - 1} * pitch + (pixels - 1) * stride + 2 * pairs, pattern, random);
          Exact<int16_t> weight(int64_t{length} * kDenseChannels);
          for (int c = 0; c < kDenseChannels; ++c) {
            const auto column = bounded_weights(length, kPatterns[c % 5], random);
            for (int k = 0; k < length; ++k) weight[(k / 2 * kDenseChannels + c) * 2 + k % 2] = column[k];
          }
          const DenseTile tile{x.data(), stride, pitch, rows, pairs, pixels};
          both(fast, "dense_tile", {pairs, rows, pixels, pattern}, Exact<int32_t>(pixels * kDenseChannels),
               [&](const Kernels& table, int32_t* to) { table.dense_tile(tile, weight.data(), to); });
        }
      }
    }
  }
}

void check_depthwise(const Kernels& fast) {
  for (const int channels : {1, 7, 8, 9, 16, 24}) {
    for (const int width : {1, 2, 3, 8, 9}) {
      for (int variant = 0; variant < 32; ++variant) {
        const int kernel = variant & 1 ? 3 : 1, stride = variant & 2 ? 2 : 1, taps = kernel * kernel;
        Source random{static_cast<uint64_t>(channels * 1000 + width * 50 + variant) + 800000};
        const int first_channel = channels > 16 ? 16 : 0, count = std::min(kDenseChannels, channels - first_channel);
        DepthwiseTile tile{{}, width, channels, kernel, stride, 0, (width - 1) / stride + 1};
        tile.first = tile.columns > 2 ? 1 : 0;
        tile.columns -= tile.first;
        Exact<int16_t> rows[3], weight(int64_t{taps} * channels);
        for (int a = 0; a < kernel; ++a) {
          rows[a] = words16(int64_t{width} * channels, any_pattern(random), random);
          tile.rows[a] = kernel == 3 && a == (variant >> 3) ? nullptr : rows[a].data() + first_channel;
        }
        for (int c = 0; c < channels; ++c) {
          const auto column = bounded_weights(taps, kPatterns[(variant + c) % 5], random);
          for (int t = 0; t < taps; ++t) weight[t * channels + c] = column[t];
        }
        both(fast, "depthwise_tile", {channels, width, variant}, Exact<int32_t>(tile.columns * kDenseChannels),
             [&](const Kernels& table, int32_t* to) { table.depthwise_tile(tile, weight.data() + first_channel, count, to); });
      }
    }
  }
}

void check_affine(const Kernels& fast) {
  for (int count = 1; count <= kDenseChannels; ++count) {
    for (const int shift : {0, 1, 2, 17, 31, 32, 45, 46}) {
      for (int variant = 0; variant < 10; ++variant) {
        Source random{static_cast<uint64_t>(count * 1000 + shift * 20 + variant) + 900000};
        const int pixels = 5, stride = count + 2;
        const auto multiplier = values<int32_t>(count, -(1 << 30), 1 << 30, kPatterns[variant / 2], random);
        Exact<int32_t> acc(pixels * kDenseChannels);
        Exact<int64_t> bias(count);
        for (int i = 0; i < pixels * kDenseChannels; ++i) {
          acc[i] = i % 7 == 0 ? INT32_MIN : i % 7 == 1 ? INT32_MAX : static_cast<int32_t>(random() >> (32 + i % 32));
        }
        for (int c = 0; c < count; ++c) {
          const int64_t most = (int64_t{1} << 61) - 1;
          bias[c] = c % 5 == 0 ? most : c % 5 == 1 ? -most : static_cast<int64_t>(random()) >> random.in(3, 63);
          if (c % 5 == 2) bias[c] = random.in(-2, 2) * (int64_t{1} << (15 + shift)) + random.in(-2, 2);  // around the saturation
          bias[c] = std::clamp(bias[c], -most, most);
        }
        const AffineParameters parameters{multiplier.data(), bias.data(), shift, variant % 2 == 1};
        both(fast, "affine", {count, shift, variant}, Exact<int16_t>(int64_t{pixels - 1} * stride + count),
             [&](const Kernels& table, int16_t* to) { table.affine(parameters, acc.data(), pixels, count, to, stride); });
      }
    }
  }
}

void check_pools(const Kernels& fast) {
  for (const int channels : kChannels) {
    for (const int width : {2, 4, 6, 10}) {
      for (int variant = 0; variant < 20; ++variant) {
        Source random{static_cast<uint64_t>(channels * 1000 + width * 50 + variant) + 1000000};
        Exact<int16_t> x[4];
        const int16_t* rows[4];
        for (int a = 0; a < 4; ++a) {
          x[a] = words16(int64_t{width} * channels, kPatterns[variant / 4], random);
          rows[a] = (a == 0 && variant & 1) || (a == 3 && variant & 2) ? nullptr : x[a].data();
        }
        both(fast, "pool_row", {channels, width, variant}, Exact<int16_t>(width / 2 * channels),
             [&](const Kernels& table, int16_t* to) { table.pool_row(rows, width, channels, to); });
        for (const bool relu : {true, false}) {
          both(fast, "channel_sums", {channels, width, variant, relu}, Exact<int32_t>(channels),
               [&](const Kernels& table, int32_t* to) { table.channel_sums(x[1].data(), width, channels, relu, to); });
        }
      }
    }
  }
  // The largest sums: they just fit 32 bits.
  for (const Pattern pattern : {kLow, kHigh}) {
    constexpr int kMap = 65536, kWide = 9;  // eight channels at once, and one by itself
    Source random{0};
    const auto most = words16(int64_t{kMap} * kWide, pattern, random);
    const auto sums = both(fast, "channel_sums of 65536 pixels", {pattern}, Exact<int32_t>(kWide),
                           [&](const Kernels& table, int32_t* to) { table.channel_sums(most.data(), kMap, kWide, false, to); });
    for (const int32_t sum : sums) expect(sum == int64_t{kMap} * most[0], "channel_sums of 65536 pixels");
  }
}

void check_dots(const Kernels& fast) {
  for (const int count : {0, 1, 2, 15, 16, 17, 27, 31, 32, 33, 64, 100, 255, 384, 516, 2047}) {
    for (const Pattern pattern : kPatterns) {
      Source random{static_cast<uint64_t>(count * 8 + pattern) + 100000};
      const auto x = words16(count, pattern, random), w = bounded_weights(count, pattern, random);
      both(fast, "dot_i16", {count, pattern}, Exact<int32_t>(1),
           [&](const Kernels& table, int32_t* to) { *to = table.dot_i16(x.data(), w.data(), count); });
    }
  }
  for (const int words : {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 96, 123, 124, 125, 127, 128, 600}) {
    Source random{static_cast<uint64_t>(words) + 200000};
    const auto a = packed(words, kWordBits, kRandom, random), other = packed(words, kWordBits, kRandom, random);
    for (const bool opposite : {false, true}) {
      auto b = other;
      for (int i = 0; opposite && i < words; ++i) b[i] = ~a[i];
      const auto count = both(fast, "differing_bits", {words, opposite}, Exact<int64_t>(1),
                              [&](const Kernels& table, int64_t* to) { *to = table.differing_bits(a.data(), b.data(), words); });
      expect(!opposite || count[0] == 64 * words, text("differing_bits", {words}));
    }
  }
}

}  // namespace

void check_forward(const Kernels& fast) {
  check_bits(fast);
  check_binary(fast);
  check_block(fast);
  check_dense(fast);
  check_depthwise(fast);
  check_affine(fast);
  check_pools(fast);
  check_dots(fast);
}

}  // namespace bitreplay::checks
