// ConvTrainer on exactly sized buffers: against the plain sums where they are few, and one thread against three everywhere.
#include <cmath>
#include <tuple>

#include "check.h"
#include "learn/conv_trainer.h"

namespace bitreplay::checks {
namespace {

constexpr float kClip = 1.25f;

struct Tensors {
  Batch batch;
  Exact<float> x, g, weight, z, dx, dw;
  Exact<uint64_t> bits, gate;

  Tensors(const Batch& b, Source& random)
      : batch(b), x(b.size()), g(b.size()), weight(int64_t{b.channels} * kTaps * b.channels), z(b.size()), dx(b.size()), dw(weight.size()),
        bits(b.pixels() * b.words()), gate(bits.size()) {
    const auto drawn = [&] { return static_cast<float>(random.in(-2000, 2000)) / 1000.0f; };
    for (float& value : x) value = random.in(0, 9) == 0 ? (random.in(0, 1) == 0 ? kClip : -0.0f) : drawn();
    for (float& value : g) value = drawn();
    for (float& value : weight) value = drawn();
  }

  void run(int threads, int gradient_bits) {
    ConvTrainer trainer(threads);
    trainer.forward(batch, x.data(), weight.data(), kClip, bits.data(), gate.data(), z.data());
    trainer.backward(batch, g.data(), bits.data(), gate.data(), weight.data(), gradient_bits, dx.data(), dw.data());
  }
};

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
      Tensors one({rows, height, width, channels}, random), three = one;
      const std::string what = text("training", {channels, rows});
      for (const int bits : {8, 16}) {
        one.run(1, bits);
        three.run(3, bits);
        expect(one.z == three.z && one.dx == three.dx && one.dw == three.dw, what + ": threads");
        for (int64_t i = 0; i < one.batch.size(); ++i) expect(std::fabs(one.x[i]) <= kClip || one.dx[i] == 0.0f, what + ": gate");
      }
      for (int64_t row = 0; row < rows; ++row) {
        for (int o = 0; o < channels; o += 1 + channels / 5) {
          const int y = static_cast<int>(random.in(0, height - 1)), x = static_cast<int>(random.in(0, width - 1));
          expect(one.z[((row * height + y) * width + x) * channels + o] == plain(one, row, y, x, o), what + ": forward");
        }
      }
    }
  }
}

}  // namespace bitreplay::checks
