// From a model file to the core's network: the description's JSON, the tensors it asks for, the rules of docs/formats.md.
#pragma once

#include <span>

#include "network/network.h"
#include "learn/tail.h"
#include "file.h"

namespace bitreplay {

inline constexpr size_t kMaxTail = 256;  // operations

// Bytes of regions, each of which begins at a multiple of the alignment.
class Room {
 public:
  void add(uint64_t count, uint64_t bytes = 1) { total_ += (count * bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment; }
  uint64_t total() const { return total_; }

 private:
  uint64_t total_ = 0;
};

// What the rest needs to know of a network before it is built.
struct NetworkSize {
  int image_size = 0, features = 0;
  size_t prefix = 0, tail = 0;  // operations
  uint64_t latent_words = 0;
};

// Adds what `read_network`, and a tail with so many trained blocks, will allocate.
NetworkSize measure_network(const File& file, size_t trained, int weight_bits, Room& room);

// Side of the images that the network reads, which it is made for.
int image_size_of(const File& file);

// Builds the network.  last: filled for the last blocks of the tail, whose values stay in the file; returns how many these are.
size_t read_network(File& file, Network& network, std::span<TailSource> last);

}  // namespace bitreplay
