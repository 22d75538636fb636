// SHA-256 (FIPS 180-4), piece by piece.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitreplay {

class Sha256 {
 public:
  void add(const void* bytes, size_t size);
  void hex(char out[64]);  // once, at the end: lower-case digits

 private:
  void block(const uint8_t* bytes);

  uint32_t h_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t rest_[64];
  uint64_t size_ = 0;
};

}  // namespace bitreplay
