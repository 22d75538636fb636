// Forward kernels of one table against the scalar ones: sizes around the vector width, adversarial values, exact buffers.
#include <algorithm>
#include <cstring>

#include "bits.h"
#include "check.h"
#include "kernels/kernels.h"

namespace bitreplay::check {
namespace {

constexpr int kChannels[] = {1, 3, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128, 200};

std::string text(std::initializer_list<int> numbers) {
  std::string result;
  for (const int n : numbers) {
    result += ' ';
    result += std::to_string(n);
  }
  return result;
}

// Canonical packed rows of `channels` bits.
std::unique_ptr<uint64_t[]> packed(int64_t rows, int channels, int pattern, Source& random, int64_t slack = 0) {
  const int words = words_for(channels);
  auto result = exact<uint64_t>(rows * words + slack);
  for (int64_t i = 0; i < rows * words; ++i) {
    result[i] = pattern_word(pattern, random) & (i % words == words - 1 ? last_word_mask(channels) : ~uint64_t{0});
  }
  return result;
}

std::unique_ptr<int16_t[]> values(int64_t count, int pattern, Source& random) {
  auto result = exact<int16_t>(count);
  for (int64_t i = 0; i < count; ++i) result[i] = pattern_value(pattern, random);
  return result;
}

template <class T>
bool equal(const T* a, const T* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(T)) == 0;
}

void check_bits(const Kernels& fast) {
  const Kernels& plain = kernels_scalar();
  for (const int channels : kChannels) {
    for (int pattern = 0; pattern < kPatterns; ++pattern) {
      for (int with_threshold = 0; with_threshold < 2; ++with_threshold) {
        Source random{static_cast<uint64_t>(channels * 16 + pattern * 2 + with_threshold)};
        const int pixels = 5, words = words_for(channels);
        const auto x = values(int64_t{pixels} * channels, pattern, random);
        const auto threshold = values(channels, random.in(0, kPatterns - 1), random);
        auto expected = exact<uint64_t>(pixels * words), got = exact<uint64_t>(pixels * words);
        plain.sign_bits(x.get(), with_threshold ? threshold.get() : nullptr, pixels, channels, expected.get());
        fast.sign_bits(x.get(), with_threshold ? threshold.get() : nullptr, pixels, channels, got.get());
        expect(equal(expected.get(), got.get(), pixels * words), std::string(fast.isa) + " sign_bits" + text({channels, pattern, with_threshold}));
        auto alpha = values(channels, random.in(0, kPatterns - 1), random);
        for (int c = 0; c < channels; ++c) alpha[c] = std::max<int16_t>(alpha[c], -INT16_MAX);
        auto y = exact<int16_t>(int64_t{pixels} * channels), z = exact<int16_t>(int64_t{pixels} * channels);
        plain.expand_bits(expected.get(), alpha.get(), pixels, channels, y.get());
        fast.expand_bits(expected.get(), alpha.get(), pixels, channels, z.get());
        expect(equal(y.get(), z.get(), int64_t{pixels} * channels), std::string(fast.isa) + " expand_bits" + text({channels, pattern}));
      }
    }
  }
}

// All output channels of a tile, in the table's own layout.
std::vector<int16_t> tile_of(const Kernels& table, BinaryTile tile, int in, int out, const uint64_t* canonical) {
  const int taps = tile.kernel * tile.kernel;
  const auto weight = exact<uint64_t>(table.binary_weight_words(in, out, tile.kernel));
  // Set twice: from other content to the one that is wanted.
  for (int round = 0; round < 2; ++round) {
    for (int c = 0; c < out; ++c) {
      table.set_binary_channel(weight.get(), in, tile.kernel, c, canonical + int64_t{round == 0 ? out - 1 - c : c} * taps * tile.words);
    }
  }
  alignas(64) static unsigned char expanded[kExpandedBytes];
  tile.expanded = expanded;
  table.binary_expand(tile);
  std::vector<int16_t> result;
  const auto z = exact<int16_t>(int64_t{tile.rows} * tile.columns * kTileChannels);
  for (int c = 0; c < out; c += kTileChannels) {
    const int count = std::min(kTileChannels, out - c);
    table.binary_tile(tile, weight.get(), c, count, z.get());
    for (int p = 0; p < tile.rows * tile.columns; ++p) {
      result.insert(result.end(), z.get() + p * kTileChannels, z.get() + p * kTileChannels + count);
    }
  }
  return result;
}

void check_binary(const Kernels& fast) {
  struct Size {
    int in, out, rows, columns;
  };
  std::vector<Size> sizes;
  for (const int in : {1, 3, 31, 32, 33, 63, 64, 65, 128, 192, 200, 256}) sizes.push_back({in, 33, 2, 5});
  for (const int out : {1, 31, 32, 33, 64, 65, 96, 128, 160}) sizes.push_back({65, out, 1, 4});
  for (int columns = 1; columns <= 18; ++columns) sizes.push_back({70, 40, 2, columns});
  for (int rows = 1; rows <= 9; ++rows) sizes.push_back({64, 64, rows, 3});
  sizes.push_back({64, 64, 1, kTilePixels});
  sizes.push_back({512, 64, 2, 7});
  sizes.push_back({1024, 70, 1, 9});
  for (const Size& size : sizes) {
    for (const int kernel : {1, 3}) {
      for (const int stride : {1, 2}) {
        BinaryTile tile{size.in, words_for(size.in), kernel, stride, size.rows, size.columns, nullptr, nullptr};
        const int pixels = tile.window_rows() * tile.window_columns();
        if (pixels * tile.words > kWindowWords) continue;
        for (int pattern = 0; pattern < 16; ++pattern) {
          Source random{static_cast<uint64_t>(size.in * 1000003 + size.out * 10007 + size.rows * 211 + size.columns * 17 + pattern)};
          const auto window = packed(pixels, size.in, pattern / 4, random, 2 * tile.words + 1);
          const auto weight = packed(int64_t{size.out} * kernel * kernel, size.in, pattern % 4, random);
          tile.window = window.get();
          expect(tile_of(kernels_scalar(), tile, size.in, size.out, weight.get()) == tile_of(fast, tile, size.in, size.out, weight.get()),
                 std::string(fast.isa) + " binary_tile" + text({size.in, size.out, size.rows, size.columns, kernel, stride, pattern}));
        }
      }
    }
  }
}

void check_block(const Kernels& fast) {
  for (const int channels : kChannels) {
    for (int pattern = 0; pattern < 4 * kPatterns; ++pattern) {
      const bool relu = pattern & 1, activation = pattern & 2;
      Source random{static_cast<uint64_t>(channels * 100 + pattern) + 500000};
      const int pixels = 7, z_stride = channels + 3;
      const int64_t last = int64_t{pixels - 1} * channels + channels;
      auto z = exact<int16_t>(int64_t{pixels - 1} * z_stride + channels);
      const auto x = values(last, pattern / 4, random);
      auto mean = exact<int16_t>(channels);
      auto bias = exact<int32_t>(channels);
      for (int i = 0; i < (pixels - 1) * z_stride + channels; ++i) z[i] = static_cast<int16_t>(random.in(0, 3) ? random.in(-9216, 9216) : 9216);
      for (int c = 0; c < channels; ++c) {
        mean[c] = static_cast<int16_t>(pattern % 3 ? random.in(-9216, 9216) : -9216);
        bias[c] = pattern % 3 ? random.in(-(1 << 29), 1 << 29) : 1 << 29;
      }
      const auto multiplier = values(channels, random.in(0, kPatterns - 1), random);
      const auto alpha = values(channels, random.in(0, kPatterns - 1), random), beta = values(channels, random.in(0, kPatterns - 1), random);
      const auto high = values(channels, random.in(0, kPatterns - 1), random), low = values(channels, random.in(0, kPatterns - 1), random);
      for (const int shift : {0, 1, 13, 14, 30}) {
        BlockParameters block{mean.get(), multiplier.get(), bias.get(), shift, relu, nullptr, nullptr, nullptr, nullptr};
        if (activation) block = {mean.get(), multiplier.get(), bias.get(), shift, relu, alpha.get(), beta.get(), high.get(), low.get()};
        auto expected = exact<int16_t>(last), got = exact<int16_t>(last);
        std::copy_n(x.get(), last, expected.get());
        std::copy_n(x.get(), last, got.get());
        kernels_scalar().block_apply(block, z.get(), z_stride, expected.get(), channels, pixels, channels);
        fast.block_apply(block, z.get(), z_stride, got.get(), channels, pixels, channels);
        expect(equal(expected.get(), got.get(), last), std::string(fast.isa) + " block_apply" + text({channels, pattern, shift}));
      }
    }
  }
}

// Weights whose magnitudes sum to at most 65535, times `step` apart in memory.
void bounded_weights(int16_t* w, int64_t count, int64_t step, int pattern, Source& random) {
  const int largest = std::min<int>(127, static_cast<int>(65535 / std::max<int64_t>(count, 1)));
  for (int64_t i = 0; i < count; ++i) {
    w[i * step] = static_cast<int16_t>(pattern == 0 ? -largest : pattern == 1 ? largest : random.in(-largest, largest));
  }
}

void check_dense(const Kernels& fast) {
  for (const int pairs : {1, 2, 5, 32, 130}) {
    for (const int rows : {1, 3}) {
      for (int pixels = 1; pixels <= 19; pixels += 3) {
        for (int pattern = 0; pattern < kPatterns; ++pattern) {
          Source random{static_cast<uint64_t>(pairs * 1000 + rows * 100 + pixels * 5 + pattern) + 700000};
          const int steps = rows * pairs, stride = 3;
          const int pitch = pixels * stride + 2 * pairs;
          const auto x = values(int64_t{rows - 1} * pitch + (pixels - 1) * stride + 2 * pairs, pattern, random);
          auto weight = exact<int16_t>(int64_t{steps} * 2 * kDenseChannels);
          for (int c = 0; c < kDenseChannels; ++c) {
            auto column = exact<int16_t>(steps * 2);
            bounded_weights(column.get(), steps * 2, 1, c % kPatterns, random);
            for (int k = 0; k < steps * 2; ++k) weight[(k / 2 * kDenseChannels + c) * 2 + k % 2] = column[k];
          }
          const DenseTile tile{x.get(), stride, pitch, rows, pairs, pixels};
          auto expected = exact<int32_t>(pixels * kDenseChannels), got = exact<int32_t>(pixels * kDenseChannels);
          kernels_scalar().dense_tile(tile, weight.get(), expected.get());
          fast.dense_tile(tile, weight.get(), got.get());
          expect(equal(expected.get(), got.get(), pixels * kDenseChannels), std::string(fast.isa) + " dense_tile" + text({pairs, rows, pixels, pattern}));
        }
      }
    }
  }
}

void check_depthwise(const Kernels& fast) {
  for (const int channels : {1, 7, 8, 9, 16, 24}) {
    for (const int width : {1, 2, 3, 8, 9}) {
      for (int variant = 0; variant < 32; ++variant) {
        const int kernel = variant & 1 ? 3 : 1, stride = variant & 2 ? 2 : 1;
        Source random{static_cast<uint64_t>(channels * 1000 + width * 50 + variant) + 800000};
        const int first_channel = channels > 16 ? 16 : 0, count = std::min(kDenseChannels, channels - first_channel);
        std::unique_ptr<int16_t[]> rows[3];
        DepthwiseTile tile{{}, width, channels, kernel, stride, 0, (width - 1) / stride + 1};
        tile.first = tile.columns > 2 ? 1 : 0;
        tile.columns -= tile.first;
        for (int a = 0; a < kernel; ++a) {
          rows[a] = values(int64_t{width} * channels, random.in(0, kPatterns - 1), random);
          tile.rows[a] = kernel == 3 && a == (variant >> 3) ? nullptr : rows[a].get() + first_channel;
        }
        const auto weight = exact<int16_t>(kernel * kernel * channels);
        for (int c = 0; c < channels; ++c) bounded_weights(weight.get() + c, kernel * kernel, channels, (variant + c) % kPatterns, random);
        auto expected = exact<int32_t>(tile.columns * kDenseChannels), got = exact<int32_t>(tile.columns * kDenseChannels);
        kernels_scalar().depthwise_tile(tile, weight.get() + first_channel, count, expected.get());
        fast.depthwise_tile(tile, weight.get() + first_channel, count, got.get());
        expect(equal(expected.get(), got.get(), tile.columns * kDenseChannels),
               std::string(fast.isa) + " depthwise_tile" + text({channels, width, variant}));
      }
    }
  }
}

void check_affine(const Kernels& fast) {
  for (int count = 1; count <= kDenseChannels; ++count) {
    for (const int shift : {0, 1, 2, 17, 31, 32, 45, 46}) {
      for (int pattern = 0; pattern < 2 * kPatterns; ++pattern) {
        Source random{static_cast<uint64_t>(count * 1000 + shift * 20 + pattern) + 900000};
        const int pixels = 5, stride = count + 2;
        auto acc = exact<int32_t>(pixels * kDenseChannels);
        auto bias = exact<int64_t>(count);
        auto multiplier = exact<int32_t>(count);
        for (int c = 0; c < count; ++c) multiplier[c] = pattern_value(pattern / 2, random) << (c % 3 == 0 ? 15 : 0);  // up to 2^30
        for (int i = 0; i < pixels * kDenseChannels; ++i) {
          acc[i] = i % 7 == 0 ? INT32_MIN : i % 7 == 1 ? INT32_MAX : static_cast<int32_t>(random() >> (32 + i % 32));
        }
        for (int c = 0; c < count; ++c) {
          const int64_t most = (int64_t{1} << 61) - 1;
          bias[c] = c % 5 == 0 ? most : c % 5 == 1 ? -most : static_cast<int64_t>(random()) >> random.in(3, 63);
          if (c % 5 == 2) bias[c] = (int64_t{random.in(-2, 2)} << (15 + shift)) + random.in(-2, 2);  // around the saturation
        }
        const int64_t size = int64_t{pixels - 1} * stride + count;
        auto expected = exact<int16_t>(size), got = exact<int16_t>(size);
        const AffineParameters parameters{multiplier.get(), bias.get(), shift, pattern % 2 == 1};
        kernels_scalar().affine(parameters, acc.get(), pixels, count, expected.get(), stride);
        fast.affine(parameters, acc.get(), pixels, count, got.get(), stride);
        expect(equal(expected.get(), got.get(), size), std::string(fast.isa) + " affine" + text({count, shift, pattern}));
      }
    }
  }
}

void check_pools(const Kernels& fast) {
  for (const int channels : kChannels) {
    for (const int width : {2, 4, 6, 10}) {
      for (int variant = 0; variant < 4 * kPatterns; ++variant) {
        Source random{static_cast<uint64_t>(channels * 1000 + width * 50 + variant) + 1000000};
        const int64_t size = int64_t{width} * channels;
        std::unique_ptr<int16_t[]> x[4];
        const int16_t* rows[4];
        for (int a = 0; a < 4; ++a) {
          x[a] = values(size, variant / 4, random);
          rows[a] = (a == 0 && variant & 1) || (a == 3 && variant & 2) ? nullptr : x[a].get();
        }
        auto expected = exact<int16_t>(size / 2), got = exact<int16_t>(size / 2);
        kernels_scalar().pool_row(rows, width, channels, expected.get());
        fast.pool_row(rows, width, channels, got.get());
        expect(equal(expected.get(), got.get(), size / 2), std::string(fast.isa) + " pool_row" + text({channels, width, variant}));
        for (const bool relu : {true, false}) {
          auto sums = exact<int32_t>(channels), faster = exact<int32_t>(channels);
          kernels_scalar().channel_sums(x[1].get(), width, channels, relu, sums.get());
          fast.channel_sums(x[1].get(), width, channels, relu, faster.get());
          expect(equal(sums.get(), faster.get(), channels), std::string(fast.isa) + " channel_sums" + text({channels, width, variant, relu}));
        }
      }
    }
  }
  // The largest sums: they just fit 32 bits.
  for (const int pattern : {0, 1}) {
    constexpr int kMap = 65536, kWide = 9;  // eight channels at once, and one by itself
    const auto most = values(int64_t{kMap} * kWide, pattern, *std::make_unique<Source>());
    for (const Kernels* table : {&kernels_scalar(), &fast}) {
      int32_t sums[kWide];
      table->channel_sums(most.get(), kMap, kWide, false, sums);
      for (const int32_t sum : sums) {
        expect(sum == int64_t{kMap} * (pattern == 0 ? INT16_MIN : INT16_MAX), std::string(table->isa) + " channel_sums of 65536 pixels");
      }
    }
  }
}

void check_dot(const Kernels& fast) {
  for (const int count : {0, 1, 2, 15, 16, 17, 27, 31, 32, 33, 64, 100, 255, 384, 516, 2047}) {
    for (int pattern = 0; pattern < kPatterns; ++pattern) {
      Source random{static_cast<uint64_t>(count * 8 + pattern) + 100000};
      const auto x = values(count, pattern, random);
      const auto w = exact<int16_t>(count);
      bounded_weights(w.get(), count, 1, pattern, random);
      expect(kernels_scalar().dot_i16(x.get(), w.get(), count) == fast.dot_i16(x.get(), w.get(), count),
             std::string(fast.isa) + " dot_i16" + text({count, pattern}));
    }
  }
}

void check_differing_bits(const Kernels& fast) {
  for (const int words : {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 96, 123, 124, 125, 127, 128, 600}) {
    Source random{static_cast<uint64_t>(words) + 200000};
    const auto a = exact<uint64_t>(words), b = exact<uint64_t>(words);
    for (const bool opposite : {false, true}) {
      for (int i = 0; i < words; ++i) {
        a[i] = random();
        b[i] = opposite ? ~a[i] : random();
      }
      const int64_t count = fast.differing_bits(a.get(), b.get(), words);
      expect(count == kernels_scalar().differing_bits(a.get(), b.get(), words) && (!opposite || count == 64 * words),
             std::string(fast.isa) + " differing_bits" + text({words, opposite}));
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
  check_differing_bits(fast);
  check_dot(fast);
}

}  // namespace bitreplay::check
