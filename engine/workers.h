// A fixed team of threads for many short phases: run(parts, f) calls f(0) .. f(parts - 1) and returns when all are done.
// Which thread runs a part is fixed (part mod count), no locks are taken; f must not throw.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace bitreplay {

class Workers {
 public:
  explicit Workers(int threads) : count_(threads < 1 ? 1 : threads) {
    for (int i = 1; i < count_; ++i) {
      threads_.emplace_back([this, i] { serve(i); });
    }
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  ~Workers() {
    job_ = nullptr;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }

  int count() const { return count_; }

  template <class F>
  void run(int parts, F&& f) {
    if (parts <= 1 || count_ == 1) {
      for (int part = 0; part < parts; ++part) f(part);
      return;
    }
    parts_ = parts;
    context_ = const_cast<void*>(static_cast<const void*>(&f));
    job_ = [](void* context, int part) { (*static_cast<std::remove_reference_t<F>*>(context))(part); };
    left_.store(count_ - 1, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    for (int part = 0; part < parts; part += count_) f(part);
    for (int spins = 0; left_.load(std::memory_order_acquire) != 0; ++spins) {
      if (spins > kSpins) std::this_thread::yield();
    }
  }

 private:
  static constexpr int kSpins = 4000;

  void serve(int index) {
    for (uint32_t seen = 0;;) {
      for (int spins = 0; round_.load(std::memory_order_acquire) == seen; ++spins) {
        if (spins > kSpins) round_.wait(seen, std::memory_order_acquire);
      }
      ++seen;
      if (job_ == nullptr) return;
      for (int part = index; part < parts_; part += count_) job_(context_, part);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::atomic<uint32_t> round_{0};
  std::atomic<int> left_{0};
  void (*job_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int parts_ = 0;
  const int count_;
  std::vector<std::jthread> threads_;  // last: joined before the rest goes
};

}  // namespace bitreplay
