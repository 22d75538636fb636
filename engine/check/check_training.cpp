// ConvTrainer on exactly sized buffers: against the plain sums where they are few, and one thread against three everywhere.
#include <cmath>
#include <cstring>
#include <tuple>
#include <string>

#include "check.h"
#include "learn/conv_trainer.h"

namespace bitreplay::check {
namespace {

constexpr float kClip = 1.25f;

struct Tensors {
  Batch batch;
  std::unique_ptr<float[]> x, weight, g, z, dx, dw;
  std::unique_ptr<uint64_t[]> bits, gate;

  explicit Tensors(const Batch& b) : batch(b) {
    const int64_t weights = int64_t{b.channels} * 9 * b.channels, words = b.pixels() * b.words();
    for (auto* buffer : {&x, &g, &z, &dx}) *buffer = exact<float>(b.size());
    for (auto* buffer : {&weight, &dw}) *buffer = exact<float>(weights);
    for (auto* buffer : {&bits, &gate}) *buffer = exact<uint64_t>(words);
  }
  int64_t weights() const { return int64_t{batch.channels} * 9 * batch.channels; }

  void run(int threads, int gradient_bits) {
    ConvTrainer trainer(threads);
    trainer.forward(batch, x.get(), weight.get(), kClip, bits.get(), gate.get(), z.get());
    trainer.backward(batch, g.get(), bits.get(), gate.get(), weight.get(), gradient_bits, dx.get(), dw.get());
  }
};

float drawn(Source& random) { return static_cast<float>(random.in(-2000, 2000)) / 1000.0f; }

float sign(float value) { return value < 0 ? -1.0f : 1.0f; }

// The dot product at one place, taps outside the map counting as +1.
float plain(const Tensors& t, int64_t row, int y, int x, int out) {
  const Batch& b = t.batch;
  float sum = 0;
  for (int tap = 0; tap < 9; ++tap) {
    const int i = y + tap / 3 - 1, j = x + tap % 3 - 1;
    const bool inside = i >= 0 && i < b.height && j >= 0 && j < b.width;
    for (int c = 0; c < b.channels; ++c) {
      const float value = inside ? t.x[((row * b.height + i) * b.width + j) * b.channels + c] : 1.0f;
      sum += sign(value) * sign(t.weight[(int64_t{out} * 9 + tap) * b.channels + c]);
    }
  }
  return sum;
}

}  // namespace

void check_training() {
  uint64_t step = 9000;
  for (const int channels : {1, 3, 63, 64, 65, 192, 384, 1024}) {
    for (const auto& [rows, height, width] : {std::tuple{1, 1, 1}, std::tuple{3, 4, 4}, std::tuple{5, 3, 7}}) {
      if (channels > 400 && rows > 1) continue;
      Source random{step++};
      Tensors one({rows, height, width, channels});
      for (int64_t i = 0; i < one.batch.size(); ++i) {
        one.x[i] = random.in(0, 9) == 0 ? (random.in(0, 1) == 0 ? kClip : -0.0f) : drawn(random);
        one.g[i] = drawn(random);
      }
      for (int64_t i = 0; i < one.weights(); ++i) one.weight[i] = drawn(random);
      Tensors three({rows, height, width, channels});
      std::memcpy(three.x.get(), one.x.get(), sizeof(float) * static_cast<size_t>(one.batch.size()));
      std::memcpy(three.g.get(), one.g.get(), sizeof(float) * static_cast<size_t>(one.batch.size()));
      std::memcpy(three.weight.get(), one.weight.get(), sizeof(float) * static_cast<size_t>(one.weights()));
      const std::string what = "training, channels " + std::to_string(channels) + ", rows " + std::to_string(rows);
      for (const int bits : {8, 16}) {
        one.run(1, bits);
        three.run(3, bits);
        const auto same = [&](const auto& a, const auto& b, int64_t count) {
          return std::memcmp(a.get(), b.get(), sizeof(a[0]) * static_cast<size_t>(count)) == 0;
        };
        expect(same(one.z, three.z, one.batch.size()) && same(one.dx, three.dx, one.batch.size()) && same(one.dw, three.dw, one.weights()),
               what + ": threads");
        for (int64_t i = 0; i < one.batch.size(); ++i) expect(std::fabs(one.x[i]) <= kClip || one.dx[i] == 0.0f, what + ": gate");
      }
      for (int64_t row = 0; row < rows; ++row) {
        for (int o = 0; o < channels; o += 1 + channels / 5) {
          const int y = static_cast<int>(random() % static_cast<uint64_t>(height)), x = static_cast<int>(random() % static_cast<uint64_t>(width));
          expect(one.z[((row * height + y) * width + x) * channels + o] == plain(one, row, y, x, o), what + ": forward");
        }
      }
    }
  }
}

}  // namespace bitreplay::check
