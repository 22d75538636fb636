#include "network.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "bits.h"
#include "error.h"
#include "fixed_point.h"
#include "kernels/kernels.h"

namespace bitreplay {

int64_t Network::bytes(Layout layout) const {
  int64_t total = bytes_of(threshold_) + bytes_of(direction_) + bytes_of(alpha_) + bytes_of(pool_multiplier_) + bytes_of(whitening_) +
                  bytes_of(whitening_affine_.multiplier) + bytes_of(whitening_affine_.bias);
  for (const Node& node : prefix_) total += bytes_of(node.operation, layout);
  for (const Block& block : tail_) total += bytes_of(block, block.channels, layout);
  return total;
}

void Network::plan_prefix() {
  const auto count = static_cast<int>(prefix_.size());
  const auto input = [&](int value) { return value == 0 ? 0 : prefix_[static_cast<size_t>(value) - 1].piece; };
  // What the image becomes is a piece of its own, of no size where the first operation, and no other, reads the image as it comes.
  const Conv* first = prefix_.empty() ? nullptr : std::get_if<Conv>(&prefix_[0].operation);
  reads_image_ = first != nullptr ? !first->depthwise && first->kernel > 1 : !prefix_.empty() && std::holds_alternative<Scale>(prefix_[0].operation);
  for (int i = 1; i < count; ++i) {
    for (int k = 0; k < prefix_[static_cast<size_t>(i)].from.count; ++k) reads_image_ &= prefix_[static_cast<size_t>(i)].from.values[k] != 0;
  }
  pieces_.clear();
  pieces_.push_back({reads_image_ ? 0 : space_of(shape_of(0)), 0, 0});
  const auto last_reader = [&](int value) {
    for (int i = count - 1; i >= 0; --i) {
      const Inputs& from = prefix_[static_cast<size_t>(i)].from;
      if (std::find(from.values, from.values + from.count, value) != from.values + from.count) return i;
    }
    return -1;
  };
  for (int i = 0; i < count; ++i) {
    Node& node = prefix_[static_cast<size_t>(i)];
    require(i == count - 1 || last_reader(i + 1) >= 0, "network: operation {} of the prefix is read by none", {i});
    const int before = 2 * i + 2, now = before + 1;  // moments: an input that is used up, an output
    const bool down = std::holds_alternative<Down>(node.operation);
    for (int k = 0; k < node.from.count; ++k) {
      Piece& read = pieces_[static_cast<size_t>(input(node.from.values[k]))];
      read.last = std::max(read.last, down ? before : now);
    }
    const int source = input(node.from.values[0]);
    int beside = source;
    if (down) {
      node.mean = static_cast<int>(pieces_.size());
      pieces_.push_back({space_of(pool_shape(node.in)), before, now, source});
      beside = node.mean;
    }
    const bool in_place = std::holds_alternative<Block>(node.operation) || std::holds_alternative<Activate>(node.operation) ||
                          std::holds_alternative<Scale>(node.operation) || std::holds_alternative<Add>(node.operation);
    const bool twice = node.from.count == 2 && node.from.values[0] == node.from.values[1];
    if (in_place && !twice && last_reader(node.from.values[0]) == i && pieces_[static_cast<size_t>(source)].size > 0) {
      node.piece = source;
    } else {
      node.piece = static_cast<int>(pieces_.size());
      pieces_.push_back({space_of(node.out), now, now, beside});
    }
  }
  if (count > 0) pieces_[static_cast<size_t>(prefix_.back().piece)].last = 2 * count + 2;
  plan_.stream = std::max(plan_.stream, place({pieces_.data(), pieces_.size()}));
}

void Network::run(const Node& node, const uint8_t* image, Scratch& scratch, Workers* workers) const {
  const auto stream = [&](int piece) { return scratch.stream() + pieces_[static_cast<size_t>(piece)].place; };
  const auto value = [&](int k) {
    const int number = node.from.values[k];
    return stream(number == 0 ? 0 : prefix_[static_cast<size_t>(number) - 1].piece);
  };
  const int16_t* x = value(0);
  int16_t* y = stream(node.piece);
  const int parts = scratch.parts();
  const auto moved = [&] {  // for what works in place
    if (x != y) std::copy_n(x, node.in.size(), y);
  };
  std::visit(
      [&]<class T>(const T& operation) {
        if constexpr (std::is_same_v<T, Conv>) {
          if (reads_image_ && node.from.values[0] == 0) return conv_forward(operation, node.in, image, y, scratch, workers);
          conv_forward(operation, node.in, x, y, scratch, workers);
        } else if constexpr (std::is_same_v<T, Block>) {
          moved();
          block_forward(operation, node.in, y, scratch, workers);
        } else if constexpr (std::is_same_v<T, Pool>) {
          pool_forward(node.in, x, y, parts, workers);
        } else if constexpr (std::is_same_v<T, Down>) {
          down_forward(operation, node.in, x, stream(node.mean), y, scratch, workers);
        } else if constexpr (std::is_same_v<T, Binary>) {
          binary_forward(operation, node.in, x, y, scratch, workers);
        } else if constexpr (std::is_same_v<T, Scale>) {
          if (reads_image_ && node.from.values[0] == 0) return scale_forward(operation, node.in, image, y, parts, workers);
          scale_forward(operation, node.in, x, y, parts, workers);
        } else if constexpr (std::is_same_v<T, Activate>) {
          moved();
          activate_forward(operation, node.in, y, parts, workers);
        } else if constexpr (std::is_same_v<T, Add>) {
          add_forward(operation, node.in, x, value(1), y, parts, workers);
        } else if constexpr (std::is_same_v<T, Concat>) {
          for (int k = 0, at = 0; k < node.from.count; ++k) {
            const Shape shape = shape_of(node.from.values[k]);
            concat_forward(shape, value(k), y, at, node.out.channels);
            at += shape.channels;
          }
        } else if constexpr (std::is_same_v<T, ChannelGate>) {
          gate_forward(node.in, x, value(1), y, parts, workers);
        } else if constexpr (std::is_same_v<T, MaxPool>) {
          max_pool_forward(operation, node.in, x, y, parts, workers);
        } else {
          average_pool_forward(operation, node.in, x, y, parts, workers);
        }
      },
      node.operation);
}

const int16_t* Network::last_value(const uint8_t* image, Scratch& scratch, Workers* workers) const {
  if (!reads_image_) {
    int16_t* x = scratch.stream() + pieces_[0].place;
    for (size_t i = 0; i < image_bytes(); ++i) x[i] = static_cast<int16_t>(2 * image[i] - 255);
  }
  for (const Node& node : prefix_) run(node, image, scratch, workers);
  return scratch.stream() + pieces_[prefix_.empty() ? 0 : static_cast<size_t>(prefix_.back().piece)].place;
}

void Network::latent(const uint8_t* image, uint64_t* row, Scratch& scratch, Workers* workers) const {
  const int16_t* x = last_value(image, scratch, workers);
  if (!has_cut_) {
    row[latent_words_ - 1] = 0;
    return pool_features(x, reinterpret_cast<int8_t*>(row), scratch);
  }
  kernels().sign_bits(x, threshold_.data(), cut_shape_.pixels(), cut_shape_.channels, row);
  for (size_t w = 0; w < latent_words_; ++w) row[w] ^= direction_[w % direction_.size()];
}

void Network::features(const uint64_t* row, int8_t* features, Scratch& scratch, Workers* workers) const {
  if (!has_cut_) {
    std::memcpy(features, row, static_cast<size_t>(feature_count()));
    return;
  }
  int16_t* x = tail_stream(scratch);
  expand(row, x);
  for (const Block& block : tail_) block_forward(block, cut_shape_, x, scratch, workers);
  pool_features(x, features, scratch);
}

int16_t* Network::tail_stream(Scratch& scratch) const { return scratch.stream(); }

void Network::expand(const uint64_t* row, int16_t* x) const {
  kernels().expand_bits(row, alpha_.data(), cut_shape_.pixels(), cut_shape_.channels, x);
}

void Network::pool_features(const int16_t* x, int8_t* features, Scratch& scratch) const {
  const int channels = cut_shape_.channels;
  const Kernels& kernel = kernels();
  int16_t* pooled = scratch.rows(0);
  auto* sums = reinterpret_cast<int32_t*>(pooled + channels + channels % 2);
  kernel.channel_sums(x, cut_shape_.pixels(), channels, pool_relu_, sums);
  for (int c = 0; c < channels; ++c) pooled[c] = sat16(round_shift(int64_t{sums[c]} * pool_multiplier_[c], pool_shift_));
  for (int c = 0; c < channels; ++c) {
    const int32_t sum = kernel.dot_i16(pooled, whitening_.data() + static_cast<size_t>(c) * channels, channels);
    features[c] = static_cast<int8_t>(std::clamp<int>(apply(whitening_affine_, c, sum), -127, 127));
  }
}

}  // namespace bitreplay
