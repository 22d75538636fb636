// Values and clocks of the checks of gradients and heads.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

#include "check.h"

namespace bitreplay::check {

// A buffer that ends exactly at its allocation, so that a sanitizer sees one value too far; 64-aligned.
template <class T>
class Exact {
 public:
  explicit Exact(size_t size)
      : size_(size), data_(static_cast<T*>(::operator new(std::max<size_t>(size, 1) * sizeof(T), std::align_val_t{64}))) {
    std::fill_n(data_.get(), size, T{});
  }
  Exact(const Exact& other) : Exact(other.size_) { std::copy_n(other.data(), size_, data()); }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  friend bool operator==(const Exact& a, const Exact& b) {
    return std::equal(a.data(), a.data() + a.size_, b.data(), b.data() + b.size_);
  }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  size_t size_;
  std::unique_ptr<T, Free> data_;
};

enum class Pattern { low, high, alternating, random };
constexpr Pattern kAllPatterns[] = {Pattern::low, Pattern::high, Pattern::alternating, Pattern::random};

// Values of -limit..limit.
template <class T>
Exact<T> values(size_t count, int64_t limit, Pattern pattern, Source& random) {
  Exact<T> result(count);
  for (size_t i = 0; i < count; ++i) {
    const int64_t any = static_cast<int64_t>(random() % static_cast<uint64_t>(2 * limit + 1)) - limit;
    result[i] = static_cast<T>(pattern == Pattern::low           ? -limit
                               : pattern == Pattern::high        ? limit
                               : pattern == Pattern::alternating ? (i % 2 ? -limit : limit)
                                                                 : any);
  }
  return result;
}

}  // namespace bitreplay::check
