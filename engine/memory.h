// Counts every byte that the core holds in buffers, so that what `info` says can be compared with what was allocated.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace bitreplay {

struct MemoryMeter {
  static inline std::atomic<int64_t> current{0};
  static inline std::atomic<int64_t> peak{0};

  static void add(int64_t bytes) {
    const int64_t now = current.fetch_add(bytes) + bytes;
    int64_t seen = peak.load();
    while (now > seen && !peak.compare_exchange_weak(seen, now)) {
    }
  }
};

template <class T>
struct MeteredAllocator {
  using value_type = T;
  MeteredAllocator() = default;
  template <class U>
  MeteredAllocator(const MeteredAllocator<U>&) noexcept {}
  T* allocate(size_t n) {
    T* p = static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64}));
    MemoryMeter::add(static_cast<int64_t>(n * sizeof(T)));
    return p;
  }
  void deallocate(T* p, size_t n) noexcept {
    MemoryMeter::add(-static_cast<int64_t>(n * sizeof(T)));
    ::operator delete(p, std::align_val_t{64});
  }
  friend bool operator==(const MeteredAllocator&, const MeteredAllocator&) { return true; }
};

// A vector that is sized once; its bytes are counted.
template <class T>
using Buffer = std::vector<T, MeteredAllocator<T>>;

template <class T>
int64_t bytes_of(const Buffer<T>& buffer) {
  return static_cast<int64_t>(buffer.capacity() * sizeof(T));
}

}  // namespace bitreplay
