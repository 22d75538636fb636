// What the parts of the native check share, and the benchmark: failing, counting, words that --seed repeats, buffers that end at their
// allocation, adversarial values.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "bits.h"
#include "kernels/kernels.h"
#include "random.h"

namespace bitreplay::checks {

inline uint64_t g_seed = 1;
inline long g_checks = 0;

[[noreturn]] void fail(const std::string& what);

inline void expect(bool condition, const std::string& what) {
  ++g_checks;
  if (!condition) fail(what);
}

// A name and its parameters.
std::string text(const std::string& name, std::initializer_list<int64_t> numbers);

struct Source {
  uint64_t step, index = 0;
  uint64_t operator()() { return draw(g_seed, Purpose::live_order, step, index++); }
  int64_t in(int64_t low, int64_t high) { return low + static_cast<int64_t>((*this)() % static_cast<uint64_t>(high - low + 1)); }
};

// A buffer that ends exactly at its allocation, so that a sanitizer sees one value too far; 64-aligned.
template <class T>
class Exact {
 public:
  explicit Exact(int64_t size = 0)
      : size_(size), data_(static_cast<T*>(::operator new(std::max<size_t>(static_cast<size_t>(size), 1) * sizeof(T), std::align_val_t{64}))) {
    std::fill_n(data_.get(), size, T{});
  }
  Exact(const Exact& other) : Exact(other.size_) { std::copy_n(other.data(), size_, data()); }
  Exact& operator=(Exact other) {
    std::swap(size_, other.size_);
    std::swap(data_, other.data_);
    return *this;
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  T& operator[](int64_t i) { return data_.get()[i]; }
  const T& operator[](int64_t i) const { return data_.get()[i]; }
  friend bool operator==(const Exact& a, const Exact& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  int64_t size_;
  std::unique_ptr<T, Free> data_;
};

enum Pattern { kLow, kHigh, kAlternating, kRandom, kSmall };  // small: random within a hundredth of the range
constexpr Pattern kExtremes[] = {kLow, kHigh, kAlternating, kRandom};
constexpr Pattern kPatterns[] = {kLow, kHigh, kAlternating, kRandom, kSmall};

inline Pattern any_pattern(Source& random) { return kPatterns[random.in(0, 4)]; }

// Values of low..high.
template <class T>
Exact<T> values(int64_t count, int64_t low, int64_t high, Pattern pattern, Source& random) {
  Exact<T> result(count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t any = pattern == kSmall ? random.in(low / 100, high / 100) : random.in(low, high);
    result[i] = static_cast<T>(pattern == kLow ? low : pattern == kHigh ? high : pattern == kAlternating ? (i % 2 ? low : high) : any);
  }
  return result;
}

inline Exact<int16_t> words16(int64_t count, Pattern pattern, Source& random) { return values<int16_t>(count, INT16_MIN, INT16_MAX, pattern, random); }

// Packed rows of `channels` bits, unused bits 0, and `slack` words of zeros behind them.
inline Exact<uint64_t> packed(int64_t rows, int channels, Pattern pattern, Source& random, int64_t slack = 0) {
  const int words = words_for(channels);
  Exact<uint64_t> result(rows * words + slack);
  for (int64_t i = 0; i < rows * words; ++i) {
    const uint64_t word = pattern == kLow ? 0 : pattern == kHigh ? ~uint64_t{0} : pattern == kAlternating ? 0xaaaaaaaaaaaaaaaaULL : random();
    result[i] = word & (i % words == words - 1 ? last_word_mask(channels) : ~uint64_t{0});
  }
  return result;
}

std::vector<const Kernels*> faster_tables();

// Those of `all` that this processor can run.
template <class Table, class Tables>
std::vector<const Table*> runnable(const Tables& all) {
  std::vector<const Table*> result;
  for (const auto table : all) {
    const std::string isa = table().isa;
    bool there = isa == "scalar";
    for (const Kernels* faster : faster_tables()) there |= isa == faster->isa;
    if (there) result.push_back(&table());
  }
  return result;
}

void check_forward(const Kernels& fast);
void check_operations();
void check_gradients();
void check_heads();
void check_training();

}  // namespace bitreplay::checks
