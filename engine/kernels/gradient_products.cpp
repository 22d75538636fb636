// The two sums of products of a backward pass, da and dW.  s = +1 or -1 is 1 - 2b with a bit b, so that sum g s = sum g - 2 sum g b: tiles
// sum g b only.  A step is kSources terms of every sum of a tile:
//   da: sources are output channels, a tile's rows so many images at one pixel, so that a tap is inside the map or not for the
//       whole tile, and those outside are skipped.
//   dW: sources are images at one pixel (likewise), rows are output channels; a group of output channels is summed, stepped and
//       packed while it is in the cache, so there is no tensor dW.
// Where a table has no products, plain loops that take next to no scratch; they are the plain meaning.
#include <algorithm>
#include <atomic>

#include "bits.h"
#include "training_tables.h"
#include "workers.h"

namespace bitreplay {
namespace {

constexpr int kByteBits = 8;      // gradients of so many bits are multiplied as bytes
constexpr int kMostRows = 12;
constexpr int kMostGroup = 12;
constexpr int kMostSums = 384;    // of a tile

int64_t count_of(int64_t v, int64_t unit) { return (v + unit - 1) / unit; }
int64_t pixels_of(const Batch& batch) { return int64_t{batch.height} * batch.width; }

// f(item) for the items of 0 .. count - 1 that belong to a part.
template <class F>
void for_share(int64_t count, int part, int parts, F&& f) {
  for (int64_t item = count * part / parts; item < count * (part + 1) / parts; ++item) f(item);
}

// ---- plain loops

// +1 and -1 of `channels` bits.
void expand(const uint64_t* words, int channels, int16_t* signs) {
  for (int i = 0; i < channels; ++i) signs[i] = bit_at(words, i) ? -1 : 1;
}

void add_scaled(int32_t factor, const int16_t* signs, int channels, int32_t* sums) {
  for (int i = 0; i < channels; ++i) sums[i] += factor * signs[i];
}

void plain_input_gradient(const Batch& batch, const int16_t* gz, const uint64_t* weight, int32_t* da, int16_t* signs) {
  const int channels = batch.channels, height = batch.height, width = batch.width;
  std::fill_n(da, batch.size(), 0);
  for (int o = 0; o < channels; ++o) {
    for (int tap = 0; tap < kTaps; ++tap) {
      expand(weight + (int64_t{o} * kTaps + tap) * batch.words(), channels, signs);
      const int dy = tap / 3 - 1, dx = tap % 3 - 1;
      for (int row = 0; row < batch.rows; ++row) {
        for (int y = std::max(0, dy); y < std::min(height, height + dy); ++y) {
          for (int x = std::max(0, dx); x < std::min(width, width + dx); ++x) {
            const int64_t to = (int64_t{row} * height + y) * width + x, from = to - dy * width - dx;
            if (const int32_t g = gz[from * channels + o]) add_scaled(g, signs, channels, da + to * channels);
          }
        }
      }
    }
  }
}

// dW of output channel o: (9, channels).
void plain_channel_gradient(const Batch& batch, const int16_t* gz, const uint64_t* bits, int o, int16_t* signs, int32_t* dw) {
  const int channels = batch.channels, height = batch.height, width = batch.width;
  std::fill_n(dw, kTaps * channels, 0);
  int32_t outside[kTaps] = {};  // sums of g where the tap sees the border, which is +1 in every channel
  for (int64_t pixel = 0; pixel < batch.pixels(); ++pixel) {
    const int y = static_cast<int>(pixel / width % height), x = static_cast<int>(pixel % width);
    expand(bits + pixel * batch.words(), channels, signs);
    for (int tap = 0; tap < kTaps; ++tap) {
      // The window around (y - dy, x - dx) sees this pixel by tap (dy, dx).
      const int dy = tap / 3 - 1, dx = tap % 3 - 1;
      if (y - dy >= 0 && y - dy < height && x - dx >= 0 && x - dx < width) {
        if (const int32_t g = gz[(pixel - dy * width - dx) * channels + o]) add_scaled(g, signs, channels, dw + tap * channels);
      }
      if (y + dy < 0 || y + dy >= height || x + dx < 0 || x + dx >= width) outside[tap] += gz[pixel * channels + o];
    }
  }
  for (int tap = 0; tap < kTaps; ++tap) {
    for (int i = 0; i < channels; ++i) dw[tap * channels + i] += outside[tap];
  }
}

// ---- tiles

// Gives out 64-aligned pieces of the scratch; with nullptr, counts.
class Pieces {
 public:
  explicit Pieces(void* base) : base_(static_cast<uint8_t*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    uint8_t* piece = base_ ? base_ + used_ : nullptr;
    used_ += count_of(count * static_cast<int64_t>(sizeof(T)), 64) * 64;
    return reinterpret_cast<T*>(piece);
  }
  int64_t used() const { return used_; }

 private:
  uint8_t* base_;
  int64_t used_ = 0;
};

// What da and dW have in common: the shapes of the product, and the bits of all slices of `columns` channels, laid out by all workers.
struct Product {
  const Batch& batch;
  const ProductTable& table;
  bool wide;
  int64_t pixels, slices, g_bytes, quads;  // quads: steps that the sources take

  Product(const Batch& b, const ProductTable& t, int bits, int64_t sources)
      : batch(b), table(t), wide(bits > kByteBits), pixels(pixels_of(b)), slices(count_of(b.channels, t.columns)), g_bytes(t.g_step[wide]),
        quads(count_of(sources, kSources)) {}

  int64_t bits_bytes(int64_t places) const { return slices * places * quads * table.b_step; }
  const uint8_t* bits_at(const uint8_t* bits, int64_t unit) const { return bits + unit * quads * table.b_step; }
  int columns_of(int64_t slice) const { return static_cast<int>(std::min<int64_t>(table.columns, batch.channels - slice * table.columns)); }
  int tile_sums() const { return table.rows * table.columns; }

  // bits (slices, places, quads) from words (sources, places, words of a pixel).
  void put_bits(const uint64_t* words, int64_t places, int64_t sources, uint8_t* bits, Workers& workers) const {
    const int parts = workers.count();
    workers.run(parts, [&](int part) {
      for_share(slices * places, part, parts, [&](int64_t unit) {
        const int64_t column = unit / places * table.columns, place = unit % places;
        table.put_bits(words + place * batch.words() + column / kWordBits, places * batch.words(), sources, static_cast<int>(column % kWordBits),
                       wide, bits + unit * quads * table.b_step);
      });
    });
  }
  // Steps to take at a time when all runs of one take `bytes`.
  int64_t chunk(int64_t bytes) const { return std::min(quads, std::max<int64_t>(8, table.chunk_bytes / bytes / 8 * 8)); }

  void add(const Run* runs, int count, int64_t steps, int32_t* sums) const {
    if (count > 0) table.add[wide](runs, count, static_cast<int>(steps), sums);
  }
};

// Of a worker, for one tile of images.
struct InputPieces {
  uint8_t* g;       // (pixels, quads) steps
  int32_t* totals;  // (pixels, rows): sums over the output channels
  int32_t* sums;    // (pixels, rows, columns)
  int64_t bytes;

  InputPieces(const Product& product, void* base) {
    Pieces pieces(base);
    g = pieces.take<uint8_t>(product.pixels * product.quads * product.g_bytes);
    totals = pieces.take<int32_t>(product.pixels * product.table.rows);
    sums = pieces.take<int32_t>(product.pixels * product.tile_sums());
    bytes = pieces.used();
  }
};

void tile_input_gradient(const Product& product, const InputPieces& own, const uint8_t* bits, int64_t slice, int images, int32_t* da) {
  const Batch& batch = product.batch;
  const ProductTable& table = product.table;
  const int64_t pixels = product.pixels, quads = product.quads;
  const int64_t chunk = product.chunk(kTaps * table.b_step + pixels * product.g_bytes);
  const uint8_t* panel = product.bits_at(bits, slice * kTaps);
  std::fill_n(own.sums, pixels * product.tile_sums(), 0);
  for (int64_t first = 0; first < quads; first += chunk) {
    const bool last = first + chunk >= quads;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const int y = static_cast<int>(pixel / batch.width), x = static_cast<int>(pixel % batch.width);
      Run runs[kTaps];
      int count = 0;
      int32_t totals[kMostRows] = {};
      for (int tap = 0; tap < kTaps; ++tap) {
        const int from_y = y - (tap / 3 - 1), from_x = x - (tap % 3 - 1);
        if (from_y < 0 || from_y >= batch.height || from_x < 0 || from_x >= batch.width) continue;
        const int64_t from = from_y * batch.width + from_x;
        runs[count++] = {panel + (tap * quads + first) * table.b_step, own.g + (from * quads + first) * product.g_bytes};
        for (int r = 0; last && r < table.rows; ++r) totals[r] += own.totals[from * table.rows + r];
      }
      int32_t* sums = own.sums + pixel * product.tile_sums();
      product.add(runs, count, std::min(chunk, quads - first), sums);
      if (!last) continue;
      table.put_sums(sums, totals, images, product.columns_of(slice), pixels * batch.channels,
                     da + pixel * batch.channels + slice * table.columns);
    }
  }
}

void tiled_input_gradient(const Product& product, const int16_t* gz, const uint64_t* weight, int32_t* da, void* scratch, Workers& workers) {
  const Batch& batch = product.batch;
  const ProductTable& table = product.table;
  const int64_t pixels = product.pixels, channels = batch.channels;
  Pieces pieces(scratch);
  auto* bits = pieces.take<uint8_t>(product.bits_bytes(kTaps));
  product.put_bits(weight, kTaps, channels, bits, workers);
  const int parts = workers.count();
  workers.run(parts, [&](int part) {
    const InputPieces own(product, static_cast<uint8_t*>(scratch) + pieces.used() + part * InputPieces(product, nullptr).bytes);
    for_share(count_of(batch.rows, table.rows), part, parts, [&](int64_t tile) {
      const int64_t start = tile * table.rows * pixels * channels;
      const int images = static_cast<int>(std::min<int64_t>(table.rows, batch.rows - tile * table.rows));
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        table.put_images(gz + start + pixel * channels, pixels * channels, images, batch.channels, product.wide,
                         own.g + pixel * product.quads * product.g_bytes, own.totals + pixel * table.rows);
      }
      for (int64_t slice = 0; slice < product.slices; ++slice) tile_input_gradient(product, own, bits, slice, images, da + start);
    });
  });
}

// Of a worker, for one group of output channels.
struct WeightPieces {
  uint8_t* g;   // (group / rows, pixels, quads) steps
  Run* runs;    // (pixels)
  int32_t* dw;  // (group, 9, channels)
  int64_t bytes;

  WeightPieces(const Product& product, void* base) {
    Pieces pieces(base);
    g = pieces.take<uint8_t>(product.table.group / product.table.rows * product.pixels * product.quads * product.g_bytes);
    runs = pieces.take<Run>(product.pixels);
    dw = pieces.take<int32_t>(int64_t{product.table.group} * kTaps * product.batch.channels);
    bytes = pieces.used();
  }
};

// dW of one tile of output channels in one slice of input channels.
void tile_weight_gradient(const Product& product, const uint8_t* bits, const uint8_t* g, Run* runs, const int32_t* totals, int64_t slice,
                          int rows, int32_t* dw) {
  const ProductTable& table = product.table;
  const int64_t pixels = product.pixels, quads = product.quads, chunk = product.chunk(pixels * (table.b_step + product.g_bytes));
  const int height = product.batch.height, width = product.batch.width, channels = product.batch.channels;
  alignas(64) int32_t sums[kTaps][kMostSums];
  for (auto& of_tap : sums) std::fill_n(of_tap, product.tile_sums(), 0);
  for (int64_t first = 0; first < quads; first += chunk) {
    for (int tap = 0; tap < kTaps; ++tap) {
      const int dy = tap / 3 - 1, dx = tap % 3 - 1;
      int count = 0;
      for (int y = std::max(0, -dy); y < std::min(height, height - dy); ++y) {
        for (int x = std::max(0, -dx); x < std::min(width, width - dx); ++x) {
          const int64_t pixel = y * width + x, seen = (y + dy) * width + x + dx;
          runs[count++] = {product.bits_at(bits, slice * pixels + seen) + first * table.b_step, g + (pixel * quads + first) * product.g_bytes};
        }
      }
      product.add(runs, count, std::min(chunk, quads - first), sums[tap]);
    }
  }
  for (int tap = 0; tap < kTaps; ++tap) {
    table.put_sums(sums[tap], totals, rows, product.columns_of(slice), int64_t{kTaps} * channels, dw + tap * channels + slice * table.columns);
  }
}

// Calls f(begin, count, dw) for every group of output channels.
template <class F>
void for_groups(const Product& product, const int16_t* gz, const uint64_t* signs, void* scratch, Workers& workers, F&& f) {
  const Batch& batch = product.batch;
  const ProductTable& table = product.table;
  const int64_t pixels = product.pixels, channels = batch.channels, tile_stride = pixels * product.quads * product.g_bytes;
  Pieces pieces(scratch);
  auto* bits = pieces.take<uint8_t>(product.bits_bytes(pixels));
  product.put_bits(signs, pixels, batch.rows, bits, workers);
  const int parts = workers.count();
  workers.run(parts, [&](int part) {
    const WeightPieces own(product, static_cast<uint8_t*>(scratch) + pieces.used() + part * WeightPieces(product, nullptr).bytes);
    for_share(count_of(channels, table.group), part, parts, [&](int64_t group) {
      const int begin = static_cast<int>(group) * table.group, count = std::min(table.group, batch.channels - begin);
      int32_t totals[kMostGroup] = {};
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        table.put_channels(gz + pixel * channels + begin, pixels * channels, batch.rows, count, product.wide,
                           own.g + pixel * product.quads * product.g_bytes, tile_stride, totals);
      }
      for (int64_t slice = 0; slice < product.slices; ++slice) {
        for (int row = 0; row < count; row += table.rows) {
          tile_weight_gradient(product, bits, own.g + row / table.rows * tile_stride, own.runs, totals + row, slice,
                               std::min(table.rows, count - row), own.dw + int64_t{row} * kTaps * channels);
        }
      }
      f(begin, count, own.dw);
    });
  });
}

// The same, by plain loops where there are no others.
template <class F>
void for_channels(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* signs, void* scratch, Workers& workers,
                  const GradientTable& table, F&& f) {
  if (table.product) return for_groups(Product(batch, *table.product, gradient_bits, batch.rows), gz, signs, scratch, workers, f);
  auto* dw = static_cast<int32_t*>(scratch);
  for (int o = 0; o < batch.channels; ++o) {
    plain_channel_gradient(batch, gz, signs, o, reinterpret_cast<int16_t*>(dw + kTaps * batch.channels), dw);
    f(o, 1, dw);
  }
}

}  // namespace

void input_gradient(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* weight, int32_t* da, void* scratch,
                    Workers& workers, const GradientTable& table) {
  if (!table.product) return plain_input_gradient(batch, gz, weight, da, static_cast<int16_t*>(scratch));
  tiled_input_gradient(Product(batch, *table.product, gradient_bits, batch.channels), gz, weight, da, scratch, workers);
}

int64_t input_gradient_scratch(const Batch& batch, int gradient_bits, int threads, const GradientTable& table) {
  if (!table.product) return batch.channels * int64_t{sizeof(int16_t)};
  const Product product(batch, *table.product, gradient_bits, batch.channels);
  return count_of(product.bits_bytes(kTaps), 64) * 64 + threads * InputPieces(product, nullptr).bytes;
}

int64_t step_weights(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* bits, const Step& step, void* shadow,
                     uint64_t* weight, void* scratch, Workers& workers, const GradientTable& table) {
  std::atomic<int64_t> flipped = 0;
  for_channels(batch, gradient_bits, gz, bits, scratch, workers, table, [&](int begin, int count, const int32_t* dw) {
    int64_t turned = 0;
    for (int o = begin; o < begin + count; ++o, dw += kTaps * batch.channels) turned += step_channel(batch, dw, step, o, shadow, weight, table);
    flipped += turned;
  });
  return flipped;
}

int64_t step_weights_scratch(const Batch& batch, int gradient_bits, int threads, const GradientTable& table) {
  if (!table.product) return batch.channels * (kTaps * int64_t{sizeof(int32_t)} + int64_t{sizeof(int16_t)});
  const Product product(batch, *table.product, gradient_bits, batch.rows);
  return count_of(product.bits_bytes(product.pixels), 64) * 64 + threads * WeightPieces(product, nullptr).bytes;
}

void weight_gradient(const Batch& batch, int gradient_bits, const int16_t* gz, const uint64_t* bits, int32_t* dw, void* scratch,
                     Workers& workers, const GradientTable& table) {
  const int64_t channel = int64_t{kTaps} * batch.channels;
  for_channels(batch, gradient_bits, gz, bits, scratch, workers, table,
               [&](int begin, int count, const int32_t* tile) { std::copy_n(tile, count * channel, dw + begin * channel); });
}

}  // namespace bitreplay
