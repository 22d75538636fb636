#include "tail.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "bits.h"
#include "error.h"
#include "fixed_point.h"
#include "kernels/kernels.h"
#include "random.h"

namespace bitreplay {
namespace {

constexpr int kStreamBits = 16;
constexpr int kFeatureBits = 8;

void require_range(int value, int low, int high, const char* what) {
  require(value >= low && value <= high, "{}: expected {} to {}, got {}", {what, low, high, value});
}

// x rounded to `bits` of `all` bits (7.2).
template <class T>
void round_to(T* x, int64_t count, int bits, int all) {
  if (bits >= all) return;
  const int shift = all - bits;
  const int64_t limit = (1 << (bits - 1)) - 1;
  for (int64_t i = 0; i < count; ++i) {
    x[i] = static_cast<T>(std::clamp<int64_t>(round_shift(x[i], shift), -limit, limit) * (1 << shift));
  }
}

template <class T>
void pack_signs(std::span<const T> shadow, int channels, Buffer<uint64_t>& bits) {
  const int words = words_for(channels);
  std::fill(bits.begin(), bits.end(), 0);
  for (int64_t row = 0; row < int64_t{channels} * kTaps; ++row) {
    const T* w = shadow.data() + row * channels;
    for (int i = 0; i < channels; ++i) {
      bits[row * words + i / kWordBits] |= static_cast<uint64_t>(w[i] < 0) << (i % kWordBits);
    }
  }
}

}  // namespace

void TailBlock::refresh() {
  each_master(*this, []<class T>(const Master& what, Buffer<int32_t>& master, Buffer<T>& copy) {
    std::transform(master.begin(), master.end(), copy.begin(), [&](int32_t v) { return static_cast<T>(v >> what.shift); });
  });
  const size_t row = static_cast<size_t>(kTaps) * words_for(forward.channels);
  for (int c = 0; c < forward.channels; ++c) set_block_channel(forward, c, bits.data() + static_cast<size_t>(c) * row);
}

void TailBlock::restored() {
  if (!shadow8.empty()) pack_signs<int8_t>(shadow8, forward.channels, bits);
  if (!shadow16.empty()) pack_signs<int16_t>(shadow16, forward.channels, bits);
  refresh();
}

int64_t TailBlock::bytes(Layout layout) const {
  int64_t total = bytes_of(forward, forward.channels, layout) + bytes_of(bits) + bytes_of(shadow8) + bytes_of(shadow16);
  each_master(*this, [&](const Master&, const Buffer<int32_t>& master, const auto&) { total += bytes_of(master); });
  return total;
}

Tail::Tail(const Network& network, const Settings& settings, std::span<const TailSource> sources) : settings_(settings) {
  const std::span<const Block> frozen = network.tail();
  require(static_cast<size_t>(settings.train_blocks) <= frozen.size(), "train_blocks: expected at most {}, the blocks behind the cut of the model, got {}",
          {frozen.size(), settings.train_blocks});
  require(sources.size() == static_cast<size_t>(settings.train_blocks), "train_blocks: expected shadow weights for each trained block");
  blocks_.reserve(sources.size());
  for (size_t i = 0; i < sources.size(); ++i) {
    const Block& block = frozen[frozen.size() - sources.size() + i];
    const TailSource& source = sources[i];
    const int channels = block.channels;
    require(source.shadow.size() == static_cast<size_t>(channels) * kTaps * channels,
            "shadow: expected {} values", {int64_t{channels} * kTaps * channels});
    require_range(source.traits.exponent, source.traits.approx ? 0 : -16, 30, "exponent");
    TailBlock trained;
    trained.forward = block;
    trained.traits = source.traits;
    trained.bits = Buffer<uint64_t>(static_cast<size_t>(channels) * kTaps * words_for(channels), 0);
    pack_signs(source.shadow, channels, trained.bits);
    const auto fill = [&]<class T>(Buffer<T>& shadow, int scale) {
      shadow = Buffer<T>(source.shadow.size());
      std::transform(source.shadow.begin(), source.shadow.end(), shadow.begin(),
                     [&](int8_t s) { return static_cast<T>(std::max<int>(s, -127) * scale); });
    };
    if (settings.weight_bits == 16) fill(trained.shadow16, 256);
    if (settings.weight_bits == 8) fill(trained.shadow8, 1);
    TailBlock::each_master(trained, [](const Master& what, Buffer<int32_t>& master, const auto& copy) {
      master = Buffer<int32_t>(copy.size());
      std::transform(copy.begin(), copy.end(), master.begin(), [&](int32_t v) { return std::max(v * (1 << what.shift), -what.most); });
    });
    blocks_.push_back(std::move(trained));
    blocks_.back().refresh();
  }
}

int64_t Tail::bytes(Layout layout) const {
  int64_t total = 0;
  for (const TailBlock& block : blocks_) total += block.bytes(layout);
  return total;
}

int64_t Tail::weights() const {
  int64_t total = 0;
  for (const TailBlock& block : blocks_) total += int64_t{block.forward.channels} * kTaps * block.forward.channels;
  return total;
}

int64_t Tail::differing_weights(const Tail& other) const {
  int64_t total = 0;
  for (size_t l = 0; l < blocks_.size(); ++l) {
    for (size_t i = 0; i < blocks_[l].bits.size(); ++i) total += std::popcount(blocks_[l].bits[i] ^ other.blocks_[l].bits[i]);
  }
  return total;
}

void Tail::round_stream(int16_t* x, int64_t count) const { round_to(x, count, settings_.forward_bits, kStreamBits); }

void Tail::enter(const Network& network, const uint64_t* row, int16_t* x, Scratch& scratch, Workers* workers) const {
  const Shape shape = network.cut_shape();
  network.expand(row, x);
  round_stream(x, shape.size());
  const std::span<const Block> frozen = network.tail();
  for (const Block& block : frozen.first(frozen.size() - blocks_.size())) {
    block_forward(block, shape, x, scratch, workers);
    round_stream(x, shape.size());
  }
}

void Tail::leave(const Network& network, const int16_t* x, int8_t* features, Scratch& scratch) const {
  network.pool_features(x, features, scratch);
  round_to(features, network.feature_count(), settings_.forward_bits, kFeatureBits);
}

void Tail::features(const Network& network, const uint64_t* row, int8_t* features, Scratch& scratch, Workers* workers) const {
  const Shape shape = network.cut_shape();
  int16_t* x = network.tail_stream(scratch);
  enter(network, row, x, scratch, workers);
  for (const TailBlock& block : blocks_) {
    block_forward(block.forward, shape, x, scratch, workers);
    round_stream(x, shape.size());
  }
  leave(network, x, features, scratch);
}

}  // namespace bitreplay
