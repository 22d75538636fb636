// Operations on whole maps in the table in force against loops that follow docs/method.md 3 literally; and that the number of
// workers cannot be seen.
#include <algorithm>

#include "bits.h"
#include "check.h"
#include "fixed_point.h"
#include "network/forward.h"
#include "workers.h"

namespace bitreplay::checks {
namespace {

int sign_at(const uint64_t* bits, int channel) { return bit_at(bits, channel) ? -1 : 1; }

// Dot product of signs; x null: all +1.
int dot(const uint64_t* w, const uint64_t* x, int channels) {
  int sum = 0;
  for (int k = 0; k < channels; ++k) sum += sign_at(w, k) * (x ? sign_at(x, k) : 1);
  return sum;
}

// f(tap, pixel) for what an output pixel's window sees of a map; pixel -1: outside.
template <class F>
void each_tap(int kernel, int stride, Shape map, int i, int j, F&& f) {
  for (int tap = 0; tap < kernel * kernel; ++tap) {
    const int row = i * stride + tap / kernel - kernel / 2, column = j * stride + tap % kernel - kernel / 2;
    const bool inside = row >= 0 && row < map.height && column >= 0 && column < map.width;
    f(tap, inside ? int64_t{row} * map.width + column : -1);
  }
}

int16_t any_value(Source& random) { return static_cast<int16_t>(random()); }
int16_t small_value(Source& random) { return static_cast<int16_t>(random.in(-300, 300)); }
int16_t some_value(Source& random) { return random.in(0, 1) ? small_value(random) : any_value(random); }

std::vector<uint64_t> random_rows(int64_t rows, int channels, Source& random) {
  const auto bits = packed(rows, channels, kRandom, random);
  return {bits.begin(), bits.end()};
}

void check_binary_conv() {
  struct Size {
    int in, out, height, width;
  };
  for (const Size& s : {Size{1, 1, 1, 1}, Size{64, 64, 4, 4}, Size{65, 130, 7, 7}, Size{33, 20, 5, 1}, Size{3, 40, 1, 9}, Size{16, 32, 3, 150},
                        Size{128, 70, 17, 30}, Size{1024, 33, 5, 40}}) {
    for (int variant = 0; variant < 8; ++variant) {
      BinaryConv conv{s.in, s.out, variant & 1 ? 3 : 1, variant & 2 ? 2 : 1, (variant & 4) != 0, {}, {}};
      Source random{static_cast<uint64_t>(s.in * 8 + variant)};
      const int taps = conv.kernel * conv.kernel, words = words_for(s.in);
      const Shape in{s.height, s.width, s.in};
      const auto weight = random_rows(int64_t{s.out} * taps, s.in, random), bits = random_rows(int64_t{s.height} * s.width, s.in, random);
      set_binary_weight(conv, weight);
      const Shape out = binary_shape(conv, in);
      auto z = Exact<int16_t>(out.size());
      binary_dots(conv, in, bits.data(), z.data());
      for (int i = 0; i < out.height; ++i) {
        for (int j = 0; j < out.width; ++j) {
          for (int c = random.in(0, 6); c < s.out; c += 7) {
            int sum = 0;
            each_tap(conv.kernel, conv.stride, in, i, j, [&](int tap, int64_t pixel) {
              if (pixel < 0 && conv.zero_pad) return;
              sum += dot(weight.data() + (int64_t{c} * taps + tap) * words, pixel < 0 ? nullptr : bits.data() + pixel * words, s.in);
            });
            expect(z[(int64_t{i} * out.width + j) * s.out + c] == sum,
                   "binary_dots " + std::to_string(s.in) + " to " + std::to_string(s.out) + ", variant " + std::to_string(variant));
          }
        }
      }
    }
  }
}

Block random_block(int channels, int variant, Source& random) {
  Block block;
  block.channels = channels;
  block.shift = 10;
  block.relu = variant & 1;
  set_block_weight(block, random_rows(int64_t{channels} * 9, channels, random));
  for (int c = 0; c < channels; ++c) {
    block.mean.push_back(static_cast<int16_t>(random.in(-3 * channels, 3 * channels)));
    block.multiplier.push_back(static_cast<int16_t>(random.in(-16383, 16383)));
    block.bias.push_back(random.in(-(1 << 22), 1 << 22));
    if (variant & 2) block.threshold.push_back(static_cast<int16_t>(random.in(-500, 500)));
    if (variant & 4) {
      for (auto* values : {&block.alpha, &block.beta, &block.high, &block.low}) values->push_back(static_cast<int16_t>(random.in(-9000, 9000)));
    }
  }
  return block;
}

// Fused == bits, dots, apply; one worker == three; a channel set again == set at once.
void check_block_forward() {
  Workers workers(3);
  for (const Shape shape : {Shape{1, 1, 1}, Shape{4, 4, 512}, Shape{7, 7, 192}, Shape{6, 57, 64}, Shape{9, 13, 40}, Shape{2, 35, 1024}}) {
    for (int variant = 0; variant < 8; ++variant) {
      Source random{static_cast<uint64_t>(shape.size() * 8 + variant)};
      Block block = random_block(shape.channels, variant, random);
      const int words = words_for(shape.channels);
      const auto channel = random_rows(9, shape.channels, random);
      const int changed = static_cast<int>(random.in(0, shape.channels - 1));
      ScratchPlan plan;
      plan.add(block, shape);
      Scratch scratch(plan, 3);
      auto x = Exact<int16_t>(shape.size()), y = Exact<int16_t>(shape.size()), threaded = Exact<int16_t>(shape.size());
      for (int64_t i = 0; i < shape.size(); ++i) x[i] = y[i] = threaded[i] = i % 5 == 0 ? any_value(random) : small_value(random);
      set_block_channel(block, changed, channel.data());
      block_forward(block, shape, y.data(), scratch);
      block_forward(block, shape, threaded.data(), scratch, &workers);
      auto bits = Exact<uint64_t>(shape.pixels() * words);
      auto z = Exact<int16_t>(shape.size());
      block_bits(block, shape, x.data(), bits.data());
      block_dots(block, shape, bits.data(), z.data());
      block_apply(block, shape, z.data(), x.data());
      const std::string where = "block of " + std::to_string(shape.channels) + " channels, variant " + std::to_string(variant);
      expect(std::equal(x.data(), x.data() + shape.size(), y.data()), where + ": fused differs");
      expect(std::equal(x.data(), x.data() + shape.size(), threaded.data()), where + ": workers can be seen");
      // z of the changed channel at one pixel, from its own words.
      const int i = random.in(0, shape.height - 1), j = random.in(0, shape.width - 1);
      int sum = 0;
      each_tap(3, 1, shape, i, j, [&](int tap, int64_t pixel) {
        sum += dot(channel.data() + tap * words, pixel < 0 ? nullptr : bits.data() + pixel * words, shape.channels);
      });
      expect(z[(int64_t{i} * shape.width + j) * shape.channels + changed] == sum, where + ": set_block_channel");
    }
  }
}

void check_conv() {
  Workers workers(3);
  for (const Shape shape : {Shape{1, 1, 3}, Shape{5, 7, 3}, Shape{8, 6, 17}, Shape{3, 70, 16}}) {
    for (int variant = 0; variant < 16; ++variant) {
      Source random{static_cast<uint64_t>(shape.size() * 16 + variant) + 77};
      Conv conv;
      conv.in = shape.channels;
      conv.kernel = variant & 1 ? 3 : 1;
      conv.stride = variant & 2 ? 2 : 1;
      conv.depthwise = variant & 4;
      conv.relu = variant & 8;
      conv.out = conv.depthwise ? shape.channels : random.in(1, 40);
      const int taps = conv.kernel * conv.kernel, length = taps * (conv.depthwise ? 1 : conv.in);
      std::vector<int8_t> weight(static_cast<size_t>(conv.out) * length);
      for (auto& w : weight) w = static_cast<int8_t>(random.in(-127, 127));
      conv.weight = conv_weight(conv, weight);
      conv.affine.shift = 14;
      for (int c = 0; c < conv.out; ++c) {
        conv.affine.multiplier.push_back(static_cast<int16_t>(random.in(-2000, 2000)));
        conv.affine.bias.push_back(random.in(-1000000, 1000000));
      }
      ScratchPlan plan;
      plan.add(conv, shape);
      Scratch scratch(plan, 3);
      const Shape out = conv_shape(conv, shape);
      auto image = Exact<uint8_t>(shape.size());
      auto x = Exact<int16_t>(shape.size() + 1);  // one value behind may be read
      for (int64_t i = 0; i < shape.size(); ++i) {
        image[i] = static_cast<uint8_t>(random());
        x[i] = static_cast<int16_t>(2 * image[i] - 255);
      }
      auto y = Exact<int16_t>(out.size()), threaded = Exact<int16_t>(out.size()), direct = Exact<int16_t>(out.size());
      conv_forward(conv, shape, x.data(), y.data(), scratch);
      conv_forward(conv, shape, x.data(), threaded.data(), scratch, &workers);
      const std::string where = "conv of " + std::to_string(shape.channels) + " channels, variant " + std::to_string(variant);
      expect(std::equal(y.data(), y.data() + out.size(), threaded.data()), where + ": workers can be seen");
      if (conv.kernel == 3 && !conv.depthwise) {
        conv_forward(conv, shape, image.data(), direct.data(), scratch, &workers);
        expect(std::equal(y.data(), y.data() + out.size(), direct.data()), where + ": from the image");
      }
      for (int64_t p = 0; p < out.size(); ++p) {
        const int c = static_cast<int>(p % out.channels), j = static_cast<int>(p / out.channels % out.width), i = static_cast<int>(p / out.channels / out.width);
        int64_t sum = 0;
        each_tap(conv.kernel, conv.stride, shape, i, j, [&](int tap, int64_t pixel) {
          if (pixel < 0) return;
          const int16_t* at = x.data() + pixel * shape.channels;
          const int8_t* w = weight.data() + (int64_t{c} * taps + tap) * (conv.depthwise ? 1 : conv.in);
          for (int k = 0; k < (conv.depthwise ? 1 : conv.in); ++k) sum += at[conv.depthwise ? c : k] * w[k];
        });
        const int16_t value = apply(conv.affine, c, sum);
        expect(y[p] == (conv.relu ? std::max<int16_t>(value, 0) : value), where);
      }
    }
  }
}

// 3.7, value by value.
int16_t down_value(const Down& down, Shape in, const int16_t* x, const uint64_t* weight, const uint64_t* shortcut, int i, int j, int c) {
  const Block& block = down.block;
  const int words = words_for(down.in);
  int64_t z = 0, acc = 0;
  for (int k = 0; k < down.in; ++k) {
    const int t = block.threshold.empty() ? 0 : block.threshold[static_cast<size_t>(k)];
    int64_t square = 0;
    each_tap(3, 2, in, i, j, [&](int tap, int64_t pixel) {
      const int value = pixel < 0 ? 0 : x[pixel * down.in + k];
      z += sign_at(weight + (int64_t{c} * kTaps + tap) * words, k) * (pixel >= 0 && value + t < 0 ? -1 : 1);
      if (tap / 3 > 0 && tap % 3 > 0) square += value;
    });
    acc += sign_at(shortcut + int64_t{c} * words, k) * round_shift(square, 2);
  }
  const auto at = static_cast<size_t>(c);
  const int64_t r = block.relu ? std::max<int64_t>(z, 0) : z;
  const int16_t v = sat16(round_shift((r - block.mean[at]) * block.multiplier[at] + block.bias[at], block.shift));
  const int16_t u = sat16(int64_t{apply(down.shortcut.affine, c, acc)} + v);
  if (block.alpha.empty()) return u;
  const int16_t w = sat16(u - block.alpha[at]);
  return sat16(sat16(round_shift(w * (w >= 0 ? block.high[at] : block.low[at]), 13)) - block.beta[at]);
}

void check_down() {
  Workers workers(3);
  struct Size {
    int in, out, height, width;
  };
  for (const Size& s : {Size{1, 1, 2, 2}, Size{3, 7, 2, 6}, Size{64, 128, 8, 8}, Size{65, 33, 4, 10}, Size{63, 65, 12, 2}, Size{16, 200, 6, 70},
                        Size{256, 512, 4, 4}, Size{1024, 192, 2, 2}}) {
    for (int variant = 0; variant < 40; ++variant) {
      Source random{static_cast<uint64_t>((s.in * 1024 + s.out) * 64 + variant) + 4000000};
      const Shape in{s.height, s.width, s.in};
      Down down{s.in, s.out, random_block(s.out, variant & 5, random), {}};
      if (variant & 2) {
        for (int k = 0; k < s.in; ++k) down.block.threshold.push_back(some_value(random));
      }
      down.shortcut = {s.in, s.out, 1, 1, false, false, {}, {}};
      // With 0 everything but a channel's middle saturates; else sums of small values come through.
      down.shortcut.affine.shift = random.in(0, 3) ? 14 : 0;
      for (int c = 0; c < s.out; ++c) {
        down.shortcut.affine.multiplier.push_back(some_value(random));
        down.shortcut.affine.bias.push_back(random.in(-(1 << 25), 1 << 25));
      }
      const auto weight = random_rows(int64_t{s.out} * kTaps, s.in, random), shortcut = random_rows(s.out, s.in, random);
      set_down_weight(down, weight, shortcut);
      const Shape out = down_shape(down, in);
      const auto x = words16(in.size(), kPatterns[variant / 8], random);
      ScratchPlan plan;
      plan.add(down, in);
      const std::string where = "down of " + std::to_string(s.in) + " to " + std::to_string(s.out) + " channels, variant " + std::to_string(variant);
      std::vector<int16_t> first;
      for (const bool in_place : {false, true}) {
        for (Workers* team : {static_cast<Workers*>(nullptr), &workers}) {
          Scratch scratch(plan, team ? 3 : 1);
          std::vector<int16_t> from(x.data(), x.data() + in.size()), apart(static_cast<size_t>(out.size()));
          from.resize(static_cast<size_t>(std::max(in.size(), out.size()) + 1));
          std::vector<int16_t> mean(static_cast<size_t>(pool_shape(in).size()) + 1);
          int16_t* y = in_place ? from.data() : apart.data();
          const int64_t held = MemoryMeter::current.load();
          MemoryMeter::peak.store(held);
          down_forward(down, in, from.data(), mean.data(), y, scratch, team);
          expect(MemoryMeter::peak.load() == held, where + ": memory was allocated");
          if (first.empty()) first.assign(y, y + out.size());
          expect(std::equal(first.begin(), first.end(), y), where + ": workers or the place of the output can be seen");
        }
      }
      for (int64_t p = random.in(0, 4); p < out.size(); p += 1 + random.in(0, static_cast<int>(out.size() / 60))) {
        const int c = static_cast<int>(p % out.channels), j = static_cast<int>(p / out.channels % out.width), i = static_cast<int>(p / out.channels / out.width);
        expect(first[static_cast<size_t>(p)] == down_value(down, in, x.data(), weight.data(), shortcut.data(), i, j, c), where);
      }
    }
  }
}

void check_workers() {
  for (const int threads : {1, 2, 3, 5}) {
    Workers workers(threads);
    std::vector<long> parts(7, 0);
    for (int round = 0; round < 2000; ++round) {
      const int count = round % 8;
      workers.run(count, [&](int part) { parts[static_cast<size_t>(part)] += round; });
    }
    for (int part = 0; part < 7; ++part) {
      long sum = 0;
      for (int round = 0; round < 2000; ++round) sum += part < round % 8 ? round : 0;
      expect(parts[static_cast<size_t>(part)] == sum, "workers: a part was missed or run twice");
    }
  }
}

}  // namespace

void check_operations() {
  check_binary_conv();
  check_block_forward();
  check_conv();
  check_down();
  check_workers();
}

}  // namespace bitreplay::checks
