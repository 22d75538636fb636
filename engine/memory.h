// Where the core's memory comes from, and a count of every byte that it holds in buffers, so that what `info` says can be compared with
// what was allocated.  The device build takes all of it from the caller's arena (c_api/arena.h) and never from the heap.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#ifdef BITREPLAY_DEVICE
#include "c_api/arena.h"
#else
#include <atomic>
#include <new>
#endif

namespace bitreplay {

inline constexpr size_t kBufferAlignment = 64;

#ifdef BITREPLAY_DEVICE

inline void* allocate_bytes(size_t bytes) { return Arena::current->allocate(bytes); }
inline void free_bytes(void* p, size_t bytes) noexcept { Arena::current->free(p, bytes); }

struct MemoryMeter {
  static void add(int64_t bytes) { Arena::current->count(bytes); }
};

#else

inline void* allocate_bytes(size_t bytes) { return ::operator new(bytes, std::align_val_t{kBufferAlignment}); }
inline void free_bytes(void* p, size_t) noexcept { ::operator delete(p, std::align_val_t{kBufferAlignment}); }

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

#endif

template <class T, bool kMetered>
struct CoreAllocator {
  using value_type = T;
  template <class U>
  struct rebind {
    using other = CoreAllocator<U, kMetered>;
  };
  CoreAllocator() = default;
  template <class U>
  CoreAllocator(const CoreAllocator<U, kMetered>&) noexcept {}
  T* allocate(size_t n) {
    T* p = static_cast<T*>(allocate_bytes(n * sizeof(T)));
    if (kMetered) MemoryMeter::add(static_cast<int64_t>(n * sizeof(T)));
    return p;
  }
  void deallocate(T* p, size_t n) noexcept {
    if (kMetered) MemoryMeter::add(-static_cast<int64_t>(n * sizeof(T)));
    free_bytes(p, n * sizeof(T));
  }
  friend bool operator==(const CoreAllocator&, const CoreAllocator&) { return true; }
};

// A vector that is sized once; its bytes are counted.
template <class T>
using Buffer = std::vector<T, CoreAllocator<T, true>>;

// A vector of a few things that own buffers; its own bytes are not counted.
template <class T>
using List = std::vector<T, CoreAllocator<T, false>>;

template <class T>
int64_t bytes_of(const Buffer<T>& buffer) {
  return static_cast<int64_t>(buffer.capacity() * sizeof(T));
}

// kept = fresh; `fresh` holds anything afterwards.  Cannot fail: where `kept` has not the room, they change places.
template <class T>
void take_over(Buffer<T>& kept, Buffer<T>& fresh) noexcept {
  if (fresh.size() <= kept.capacity()) {
    kept.assign(fresh.begin(), fresh.end());
  } else {
    kept.swap(fresh);
  }
}

}  // namespace bitreplay
