// The memory of a call: a region that the caller of the C API gave.  Blocks lie one behind the other; what is given back at the top is
// free at once, what is given back below it as soon as all above it is.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitreplay {

class Arena {
 public:
  // Whose memory the core takes: set for the time of one call of the C API.
  static inline Arena* current = nullptr;

  Arena() = default;
  Arena(void* memory, size_t bytes);

  void* allocate(size_t bytes);  // aligned as buffers are; leaves by `fail` where the region is full
  void free(void* block, size_t bytes) noexcept;
  void count(int64_t bytes) {
    counted_ += bytes;
    if (counted_ > counted_peak_) counted_peak_ = counted_;
  }

  size_t used_peak() const { return used_peak_; }      // bytes of the region, gaps for alignment among them
  int64_t counted_peak() const { return counted_peak_; }  // bytes of buffers, as `info` counts them

 private:
  struct Hole {
    unsigned char* end;
    Hole* next;
  };

  unsigned char *begin_ = nullptr, *top_ = nullptr, *end_ = nullptr;
  Hole* holes_ = nullptr;
  size_t used_peak_ = 0;
  int64_t counted_ = 0, counted_peak_ = 0;
};

}  // namespace bitreplay
