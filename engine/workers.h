// A team of threads for many short phases: run(parts, f) calls f(0) .. f(parts - 1) and returns when all are done.
// Threads, the caller among them, take parts as they come; so a thread that does not get a processor holds up nothing but the part it
// has begun, and one that could not be started is not missed.  What f(part) does must not depend on who runs it.  No locks are taken;
// f must not throw.  One caller at a time; between two phases that may be any thread.
#pragma once

#include <cstddef>

#ifndef BITREPLAY_DEVICE
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>
#endif

namespace bitreplay {

#ifdef BITREPLAY_DEVICE

// One thread: the caller.
class Workers {
 public:
  explicit Workers(int) {}
  int count() const { return 1; }
  template <class F>
  void run(int parts, F&& f) {
    for (int part = 0; part < parts; ++part) f(part);
  }
  template <class F>
  void each(size_t begin, size_t end, int, F&& f) {
    for (size_t item = begin; item < end; ++item) f(item, 0);
  }
};

#else

class Workers {
 public:
  // Threads start with the first phase that has a part for them, and then stay.
  explicit Workers(int threads) : count_(threads < 1 ? 1 : threads), most_(static_cast<size_t>(count_) - 1), forks_(forks()) {}
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  ~Workers() {
    if (forks_ != forks()) leave_behind();
    stop_.store(true, std::memory_order_relaxed);
    call();
  }

  int count() const { return count_; }

  // At most 2^20 - 1 parts.
  template <class F>
  void run(int parts, F&& f) {
    if (parts <= 1 || count_ == 1) {
      for (int part = 0; part < parts; ++part) f(part);
      return;
    }
    start(static_cast<size_t>(std::min(parts, count_)) - 1);
    context_ = const_cast<void*>(static_cast<const void*>(&f));
    job_ = [](void* context, int part) { (*static_cast<std::remove_reference_t<F>*>(context))(part); };
    left_.store(parts, std::memory_order_relaxed);
    offer_.store(uint64_t(parts) << kPartBits, std::memory_order_release);
    call();
    while (take()) {
    }
    for (int spins = 0;; ++spins) {
      const int left = left_.load(std::memory_order_acquire);
      if (left == 0) return;
      if (spins < kSpins) {
        pause();
      } else {
        left_.wait(left, std::memory_order_acquire);
      }
    }
  }

  // f(item, part) for begin .. end - 1, which the parts take as they come; what belongs to a part is never used by two threads at once.
  template <class F>
  void each(size_t begin, size_t end, int parts, F&& f) {
    std::atomic<size_t> next{begin};
    run(parts, [&](int part) {
      for (size_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < end;) f(item, part);
    });
  }

 private:
  static constexpr int kPartBits = 20;
  static constexpr uint64_t kPartMask = (uint64_t{1} << kPartBits) - 1;
  static constexpr int kSpins = 5000;  // some 100 to 200 microseconds: the layers of a network follow one another faster than a thread wakes

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  // How many forks lie between this process and the one that made its first team.  A process number would not do: a child in a new
  // namespace may have its parent's.
  static uint32_t forks() {
    static std::atomic<uint32_t> count{0};
    [[maybe_unused]] static const int registered = pthread_atfork(nullptr, nullptr, [] { count.fetch_add(1, std::memory_order_relaxed); });
    return count.load(std::memory_order_relaxed);
  }

  static bool any_left(uint64_t offer) { return (offer & kPartMask) < offer >> kPartBits; }

  // Sees to it that so many threads serve, if the system gives them.
  void start(size_t threads) {
    if (const uint32_t now = forks(); forks_ != now) {
      leave_behind();
      forks_ = now;
      offer_.store(0, std::memory_order_relaxed);  // of a phase that was running in the parent
    }
    threads = std::min(threads, most_);
    if (threads_.size() >= threads) return;
    threads_.reserve(threads);
    try {
      while (threads_.size() < threads) threads_.emplace_back([this] { serve(); });
    } catch (const std::system_error&) {
      most_ = threads_.size();
    }
  }

  // In a forked process there are no such threads: to join or detach them would hang or worse, so what stands for them is given up.
  void leave_behind() { new std::vector<std::jthread>(std::move(threads_)); }

  void call() {
    calls_.fetch_add(1, std::memory_order_release);
    calls_.notify_all();
  }

  // Runs one part, if one is left to begin.
  bool take() {
    if (!any_left(offer_.load(std::memory_order_relaxed))) return false;
    const uint64_t offer = offer_.fetch_add(1, std::memory_order_acquire);
    if (!any_left(offer)) return false;  // another thread was faster
    // Until this part is done run() does not return, so job_ and context_ stay those of this offer.
    job_(context_, static_cast<int>(offer & kPartMask));
    if (left_.fetch_sub(1, std::memory_order_release) == 1) left_.notify_one();
    return true;
  }

  void serve() {
    while (true) {
      const uint32_t calls = calls_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      while (take()) {
      }
      for (int spins = 0; calls_.load(std::memory_order_acquire) == calls; ++spins) {
        if (spins < kSpins) {
          pause();
        } else {
          calls_.wait(calls, std::memory_order_acquire);
        }
      }
    }
  }

  std::atomic<uint64_t> offer_{0};   // parts << kPartBits | parts begun
  std::atomic<uint32_t> calls_{0};   // what idle threads watch
  std::atomic<int> left_{0};         // parts not done
  std::atomic<bool> stop_{false};
  void (*job_)(void*, int) = nullptr;
  void* context_ = nullptr;
  const int count_;
  size_t most_;     // threads that may serve beside the caller
  uint32_t forks_;  // when threads_ were started
  std::vector<std::jthread> threads_;  // last: joined before the rest goes
};

#endif

}  // namespace bitreplay
