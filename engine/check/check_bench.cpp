// Times of the forward pass: the bare inner loop from L1, whole blocks, whole QuickNets; best of many, so that other work on the
// machine shows as little as it can.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>

#include "bits.h"
#include "check.h"
#include "network/forward.h"
#include "network/network.h"
#include "workers.h"

namespace bitreplay::check {
namespace {

// Seconds of the fastest call.
template <class F>
double best(double seconds, const F& call) {
  using Clock = std::chrono::steady_clock;
  double result = 1e9;
  for (const auto end = Clock::now() + std::chrono::duration<double>(seconds); Clock::now() < end;) {
    const auto begin = Clock::now();
    call();
    result = std::min(result, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return result;
}

std::vector<uint64_t> random_words(int64_t count, Source& random) {
  std::vector<uint64_t> words(static_cast<size_t>(count));
  for (auto& w : words) w = random();
  return words;
}

template <class T>
std::vector<T> random_values(int64_t count, int limit, Source& random) {
  std::vector<T> values(static_cast<size_t>(count));
  for (auto& v : values) v = static_cast<T>(random.in(-limit, limit));
  return values;
}

void bench_loop(const Kernels& table) {
  Source random{1};
  BinaryTile tile{64, 1, 3, 1, 2, 16, nullptr, nullptr};
  const auto window = random_words(tile.window_rows() * tile.window_columns() + 3, random);
  const auto canonical = random_words(64 * 9, random);
  const auto weight = exact<uint64_t>(table.binary_weight_words(64, 64, 3));
  for (int c = 0; c < 64; ++c) table.set_binary_channel(weight.get(), 64, 3, c, canonical.data() + c * 9);
  alignas(64) static unsigned char expanded[kExpandedBytes];
  alignas(64) static int16_t z[kTilePixels * kTileChannels];
  tile.window = window.data();
  tile.expanded = expanded;
  table.binary_expand(tile);
  const double seconds = best(0.5, [&] {
    for (int i = 0; i < 20; ++i) table.binary_tile(tile, weight.get(), 0, 64, z);
  });
  std::printf("%-7s inner loop, 32 pixels of 64 channels from L1: %.3f T MAC/s\n", table.isa, 20 * 32 * 64 * 576.0 / seconds / 1e12);
}

// ---- with the table in force

void bench_block(Shape shape, int variant) {
  Source random{static_cast<uint64_t>(shape.channels)};
  const int channels = shape.channels;
  Block block;
  block.channels = channels;
  block.shift = 12;
  set_block_weight(block, random_words(int64_t{channels} * 9 * words_for(channels), random));
  for (int c = 0; c < channels; ++c) {
    block.mean.push_back(static_cast<int16_t>(random.in(0, channels / 4)));
    block.multiplier.push_back(static_cast<int16_t>(random.in(-16383, 16383)));
    block.bias.push_back(random.in(-(1 << 22), 1 << 22));
    if (variant == 0) continue;
    block.threshold.push_back(static_cast<int16_t>(random.in(-100, 100)));
    for (auto* values : {&block.alpha, &block.beta, &block.high, &block.low}) values->push_back(static_cast<int16_t>(random.in(-9000, 9000)));
  }
  ScratchPlan plan;
  plan.add(block, shape);
  Scratch scratch(plan, 1);
  auto x = random_values<int16_t>(shape.size(), 2000, random);
  std::vector<int16_t> z(x.size());
  const double all = best(0.4, [&] { block_forward(block, shape, x.data(), scratch); });
  const double bits = best(0.1, [&] { block_bits(block, shape, x.data(), scratch.bits()); });
  const double apply = best(0.1, [&] { block_apply(block, shape, z.data(), x.data()); });
  std::printf("%-7s block %2dx%2dx%3d%s: %.4f ms, %.3f T MAC/s (signs %.4f, epilogue %.4f ms)\n", kernels().isa, shape.height, shape.width,
              channels, variant ? " with threshold and activation" : "", 1e3 * all, 9.0 * channels * static_cast<double>(shape.size()) / all / 1e12,
              1e3 * bits, 1e3 * apply);
}

void bench_down(Shape shape, int out) {
  Source random{static_cast<uint64_t>(out)};
  Down down{shape.channels, out, {}, {shape.channels, out, 1, 1, false, false, {}, {}}};
  down.block.channels = out;
  down.block.shift = 12;
  down.shortcut.affine.shift = 14;
  set_down_weight(down, random_words(int64_t{out} * 9 * words_for(shape.channels), random), random_words(int64_t{out} * words_for(shape.channels), random));
  for (int c = 0; c < out; ++c) {
    down.block.mean.push_back(static_cast<int16_t>(random.in(-shape.channels, shape.channels)));
    down.block.multiplier.push_back(static_cast<int16_t>(random.in(-16383, 16383)));
    down.block.bias.push_back(random.in(-(1 << 22), 1 << 22));
    down.shortcut.affine.multiplier.push_back(static_cast<int16_t>(random.in(-2000, 2000)));
    down.shortcut.affine.bias.push_back(random.in(-(1 << 22), 1 << 22));
  }
  ScratchPlan plan;
  plan.add(down, shape);
  Scratch scratch(plan, 1);
  const auto x = random_values<int16_t>(shape.size(), 2000, random);
  std::copy(x.begin(), x.end(), scratch.stream());
  int16_t* pooled = scratch.opposite(scratch.stream(), pool_shape(shape));
  const double all = best(0.4, [&] { down_forward(down, shape, scratch.stream(), scratch); });
  const double bits = best(0.1, [&] { block_bits(down.block, shape, scratch.stream(), scratch.bits()); });
  const double pool = best(0.1, [&] { average_pool(shape, scratch.stream(), pooled); });
  const double conv = best(0.2, [&] { conv_forward(down.shortcut, pool_shape(shape), pooled, scratch.stream(), scratch); });
  std::printf("%-7s down %2dx%2dx%3d to %3d: %.4f ms (signs %.4f, average pool %.4f, shortcut %.4f ms)\n", kernels().isa, shape.height, shape.width,
              shape.channels, out, 1e3 * all, 1e3 * bits, 1e3 * pool, 1e3 * conv);
}

struct Plan {
  const char* name;
  int widths[4], blocks[4];
};

void add_conv(Network& network, int in, int out, int kernel, int stride, bool depthwise, bool relu, Source& random) {
  const int length = kernel * kernel * (depthwise ? 1 : in);
  const auto weight = random_values<int8_t>(int64_t{out} * length, std::min(127, 65535 / length), random);
  const auto multiplier = random_values<int16_t>(out, 16383, random);
  const auto bias = random_values<int64_t>(out, 1 << 30, random);
  network.add_conv(in, out, kernel, stride, depthwise, relu, 20, weight, multiplier, bias);
}

// Random values, the shapes of larq zoo's QuickNets, cut before the last block.
Network make_quicknet(const Plan& plan) {
  Source random{5};
  Network network(224);
  const int stem = plan.widths[0] / 4;
  add_conv(network, 3, stem, 3, 2, false, true, random);
  add_conv(network, stem, stem, 3, 2, true, false, random);
  add_conv(network, stem, plan.widths[0], 1, 1, false, false, random);
  for (int stage = 0; stage < 4; ++stage) {
    const int channels = plan.widths[stage];
    if (stage > 0) {
      network.add_pool();
      add_conv(network, plan.widths[stage - 1], channels, 1, 1, false, false, random);
    }
    for (int b = 0; b < plan.blocks[stage]; ++b) {
      if (stage == 3 && b == plan.blocks[3] - 1) {
        const std::vector<int32_t> threshold(static_cast<size_t>(channels), 0);
        const std::vector<uint8_t> direction(static_cast<size_t>(channels), 0);
        const std::vector<int16_t> alpha(static_cast<size_t>(channels), 1000);
        network.set_cut(threshold, direction, alpha);
      }
      auto weight = random_words(int64_t{channels} * 9 * words_for(channels), random);
      for (size_t i = words_for(channels) - 1; i < weight.size(); i += words_for(channels)) weight[i] &= last_word_mask(channels);
      network.add_block(channels, 12, weight, random_values<int16_t>(channels, channels, random), random_values<int16_t>(channels, 16383, random),
                        random_values<int32_t>(channels, 1 << 22, random));
    }
  }
  const int channels = plan.widths[3];
  network.set_features(20, 20, 6, std::vector<int32_t>(static_cast<size_t>(channels), 20000),
                       random_values<int8_t>(int64_t{channels} * channels, 65535 / channels, random), random_values<int16_t>(channels, 16383, random),
                       random_values<int64_t>(channels, 1 << 30, random));
  return network;
}

}  // namespace

void bench_forward(const Kernels& table) { bench_loop(table); }

void bench_network() {
  for (const Shape shape : {Shape{56, 56, 64}, Shape{28, 28, 128}, Shape{14, 14, 256}, Shape{7, 7, 512}, Shape{4, 4, 512}, Shape{56, 56, 32}}) {
    bench_block(shape, 0);
  }
  bench_block({56, 56, 64}, 1);
  for (const Shape shape : {Shape{32, 32, 64}, Shape{16, 16, 128}, Shape{8, 8, 256}}) bench_down(shape, 2 * shape.channels);
  for (const Plan& plan : {Plan{"QuickNetSmall", {32, 64, 256, 512}, {4, 4, 4, 4}}, Plan{"QuickNet", {64, 128, 256, 512}, {4, 4, 4, 4}},
                           Plan{"QuickNetLarge", {64, 128, 256, 512}, {6, 8, 12, 6}}}) {
    const Network network = make_quicknet(plan);
    Source random{9};
    std::vector<uint8_t> image(network.image_bytes());
    for (auto& v : image) v = static_cast<uint8_t>(random());
    std::vector<uint64_t> row(network.latent_words());
    std::vector<int8_t> features(static_cast<size_t>(network.feature_count()));
    double times[2];
    for (int threads = 1; threads <= 2; ++threads) {
      Workers workers(threads);
      Scratch scratch = network.make_scratch(threads);
      times[threads - 1] = best(1.5, [&] {
        network.latent(image.data(), row.data(), scratch, &workers);
        network.features(row.data(), features.data(), scratch, &workers);
      });
    }
    std::printf("%-7s %s 224x224x3: %.3f ms, two threads %.3f ms (%.2f times), scratch %lld bytes\n", kernels().isa, plan.name, 1e3 * times[0],
                1e3 * times[1], times[0] / times[1], static_cast<long long>(network.scratch_bytes()));
  }
}

}  // namespace bitreplay::check
