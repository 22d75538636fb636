#include "conv_trainer.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "network/forward.h"
#include "kernels/kernels.h"
#include "kernels/wide.h"

#ifdef BITREPLAY_HAVE_AVX2
#include <immintrin.h>
#endif

namespace bitreplay {
namespace {

constexpr int kParts = 64;  // of a tensor's values among the threads
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds |v| < 2^22 to the nearest whole number

inline int32_t magnitude(float value) { return std::bit_cast<int32_t>(value) & 0x7fffffff; }

BITREPLAY_WIDE float largest_of(const float* v, int64_t count) {
  // Of the bits: magnitudes are ordered as their bits are, and NaN lies above infinity.  Independent lanes, for vectors.
  int32_t lanes[16] = {};
  const int64_t whole = count / 16;
  for (int64_t i = 0; i < whole; ++i, v += 16) {
    for (int k = 0; k < 16; ++k) lanes[k] = std::max(lanes[k], magnitude(v[k]));
  }
  for (int k = 0; k < static_cast<int>(count - 16 * whole); ++k) lanes[k] = std::max(lanes[k], magnitude(v[k]));
  return std::bit_cast<float>(*std::max_element(lanes, lanes + 16));
}

BITREPLAY_WIDE void round_values(const float* v, float scale, int64_t count, int16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<int16_t>(static_cast<int32_t>((v[i] * scale + kRounder) - kRounder));
}

BITREPLAY_WIDE void widen(const int16_t* v, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(v[i]);
}

BITREPLAY_WIDE void put_scaled(const int32_t* v, float scale, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(v[i]) * scale;
}

BITREPLAY_WIDE void add_scaled(const int32_t* v, float scale, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] += static_cast<float>(v[i]) * scale;
}

// One word: of 64 values or fewer.
void pack_word(const float* x, int count, float clip, uint64_t* bits, uint64_t* gate) {
  uint64_t negative = 0, open = 0;
  for (int i = 0; i < count; ++i) {
    negative |= static_cast<uint64_t>(x[i] < 0.0f) << i;
    open |= static_cast<uint64_t>(std::fabs(x[i]) <= clip) << i;
  }
  *bits = negative;
  if (gate != nullptr) *gate = open;
}

void open_word(const int32_t* v, float scale, uint64_t gate, int count, float* out) {
  for (int i = 0; i < count; ++i) out[i] = gate >> i & 1 ? static_cast<float>(v[i]) * scale : 0.0f;
}

#ifdef BITREPLAY_HAVE_AVX2
__attribute__((target("avx512f"))) void pack_word_512(const float* x, float clip, uint64_t* bits, uint64_t* gate) {
  uint64_t negative = 0, open = 0;
  for (int k = 0; k < 4; ++k) {
    const __m512 v = _mm512_loadu_ps(x + 16 * k);
    negative |= static_cast<uint64_t>(_mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_LT_OQ)) << (16 * k);
    const __m512 size = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)));
    open |= static_cast<uint64_t>(_mm512_cmp_ps_mask(size, _mm512_set1_ps(clip), _CMP_LE_OQ)) << (16 * k);
  }
  *bits = negative;
  if (gate != nullptr) *gate = open;
}

__attribute__((target("avx512f"))) void open_word_512(const int32_t* v, float scale, uint64_t gate, float* out) {
  for (int k = 0; k < 4; ++k) {
    const auto mask = static_cast<__mmask16>(gate >> (16 * k));
    const __m512 value = _mm512_maskz_cvtepi32_ps(mask, _mm512_loadu_si512(v + 16 * k));
    _mm512_storeu_ps(out + 16 * k, _mm512_mul_ps(value, _mm512_set1_ps(scale)));
  }
}

__attribute__((target("avx2"))) void pack_word_256(const float* x, float clip, uint64_t* bits, uint64_t* gate) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  uint64_t negative = 0, open = 0;
  for (int k = 0; k < 8; ++k) {
    const __m256 v = _mm256_loadu_ps(x + 8 * k);
    const int a = _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_LT_OQ));
    const int b = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_and_ps(v, magnitude), _mm256_set1_ps(clip), _CMP_LE_OQ));
    negative |= static_cast<uint64_t>(a) << (8 * k);
    open |= static_cast<uint64_t>(b) << (8 * k);
  }
  *bits = negative;
  if (gate != nullptr) *gate = open;
}
#endif

enum class Width { plain, avx2, avx512 };

Width width_in_force() {
#ifdef BITREPLAY_HAVE_AVX2
  const char isa = kernels().isa[0] == 'a' ? kernels().isa[3] : ' ';  // "avx2", "avx512"
  return isa == '5' ? Width::avx512 : isa == '2' ? Width::avx2 : Width::plain;
#else
  return Width::plain;
#endif
}

// Signs, and which values lie within the clip, of a row of channels.
void pack_row(Width width, const float* x, int channels, float clip, uint64_t* bits, uint64_t* gate) {
  for (int w = 0, left = channels; left > 0; ++w, left -= kWordBits, x += kWordBits) {
    uint64_t* open = gate == nullptr ? nullptr : gate + w;
#ifdef BITREPLAY_HAVE_AVX2
    if (left >= kWordBits && width == Width::avx512) {
      pack_word_512(x, clip, bits + w, open);
      continue;
    }
    if (left >= kWordBits && width == Width::avx2) {
      pack_word_256(x, clip, bits + w, open);
      continue;
    }
#endif
    pack_word(x, std::min(left, kWordBits), clip, bits + w, open);
  }
  static_cast<void>(width);
}

template <class T>
T* room(Buffer<T>& buffer, int64_t count) {
  if (static_cast<int64_t>(buffer.size()) < count) buffer = Buffer<T>(static_cast<size_t>(count));
  return buffer.data();
}

int64_t share(int64_t count, int part) { return count * part / kParts; }

}  // namespace

void ConvTrainer::pack_weight(const Batch& batch, const float* weight) {
  uint64_t* words = room(weight_, int64_t{batch.channels} * kTaps * batch.words());
  const Width width = width_in_force();
  workers_.run(batch.channels, [&](int o) {
    for (int tap = 0; tap < kTaps; ++tap) {
      const int64_t row = int64_t{o} * kTaps + tap;
      pack_row(width, weight + row * batch.channels, batch.channels, 0.0f, words + row * batch.words(), nullptr);
    }
  });
}

void ConvTrainer::forward(const Batch& batch, const float* x, const float* weight, float clip, uint64_t* bits, uint64_t* gate, float* z) {
  pack_weight(batch, weight);
  BinaryConv conv{batch.channels, batch.channels, 3, 1, false, {}, {}};
  set_binary_weight(conv, {weight_.data(), static_cast<size_t>(batch.channels) * kTaps * static_cast<size_t>(batch.words())});
  const Shape map{batch.height, batch.width, batch.channels};
  const Width width = width_in_force();
  int16_t* dots = room(rounded_, batch.size());
  workers_.run(batch.rows, [&](int row) {
    const int64_t first = row * map.pixels();
    for (int64_t p = first; p < first + map.pixels(); ++p) {
      pack_row(width, x + p * batch.channels, batch.channels, clip, bits + p * batch.words(), gate + p * batch.words());
    }
    binary_dots(conv, map, bits + first * batch.words(), dots + row * map.size());
    widen(dots + row * map.size(), map.size(), z + row * map.size());
  });
}

void ConvTrainer::backward(const Batch& batch, const float* g, const uint64_t* bits, const uint64_t* gate, const float* weight,
                           int gradient_bits, float* dx, float* dw) {
  const int64_t channels = batch.channels, pixels = int64_t{batch.height} * batch.width, weights = channels * kTaps * channels;
  float largest[kParts];
  workers_.run(kParts, [&](int part) {
    largest[part] = largest_of(g + share(batch.size(), part), share(batch.size(), part + 1) - share(batch.size(), part));
  });
  const float top = largest_of(largest, kParts);
  const float scale = static_cast<float>((1 << (gradient_bits - 1)) - 1) / top, unit = 1.0f / scale;
  if (!std::isfinite(top) || !std::isfinite(scale)) {  // what is not finite must be seen; what is too small to scale counts for nothing
    const float all = std::isfinite(top) ? 0.0f : top;
    std::fill_n(dx, batch.size(), all);
    std::fill_n(dw, weights, all);
    return;
  }
  pack_weight(batch, weight);
  const int64_t most = std::max<int64_t>(1, INT32_MAX / (int64_t{1} << (gradient_bits - 1)) / pixels);  // rows whose sums of dW fit
  for (int64_t from = 0; from < batch.rows; from += most) {
    Batch part = batch;
    part.rows = static_cast<int>(std::min<int64_t>(most, batch.rows - from));
    const int64_t start = from * pixels, size = part.size();
    int16_t* rounded = room(rounded_, size);
    int32_t* sums = room(sums_, std::max(size, weights));
    const int64_t bytes = std::max(input_gradient_scratch(part, gradient_bits, workers_.count()),
                                   step_weights_scratch(part, gradient_bits, workers_.count()));
    void* scratch = room(scratch_, bytes / 8 + 1);
    workers_.run(kParts, [&](int p) {
      const int64_t first = share(size, p);
      round_values(g + start * channels + first, scale, share(size, p + 1) - first, rounded + first);
    });
    input_gradient(part, gradient_bits, rounded, weight_.data(), sums, scratch, workers_);
    const Width width = width_in_force();
    workers_.run(kParts, [&](int p) {
      for (int64_t pixel = share(part.pixels(), p); pixel < share(part.pixels(), p + 1); ++pixel) {
        const uint64_t* open = gate + (start + pixel) * batch.words();
        const int32_t* v = sums + pixel * channels;
        float* out = dx + (start + pixel) * channels;
        for (int w = 0, left = batch.channels; left > 0; ++w, left -= kWordBits, v += kWordBits, out += kWordBits) {
#ifdef BITREPLAY_HAVE_AVX2
          if (left >= kWordBits && width == Width::avx512) {
            open_word_512(v, unit, open[w], out);
            continue;
          }
#endif
          open_word(v, unit, open[w], std::min(left, kWordBits), out);
        }
      }
    });
    static_cast<void>(width);
    weight_gradient(part, gradient_bits, rounded, bits + start * batch.words(), sums, scratch, workers_);
    workers_.run(kParts, [&](int p) {
      const int64_t first = share(weights, p), count = share(weights, p + 1) - first;
      (from == 0 ? put_scaled : add_scaled)(sums + first, unit, count, dw + first);
    });
  }
}

}  // namespace bitreplay
