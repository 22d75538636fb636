// The head's part of a training step (docs/method.md, 6.1 to 6.3, 7.3, 7.6): who is in the softmax, the gradient of every row, one step
// of the weights; and in which order a lesson takes its rows.  Knows features and labels; nothing of images, latents or the tail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/head_kernels.h"
#include "lesson.h"
#include "memory.h"
#include "random.h"

namespace bitreplay {

constexpr size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

// Rows in turn from one permutation after another.
class Order {
 public:
  Order(size_t rows, const Lesson& lesson, Purpose purpose)
      : order_(rows), seed_(lesson.seed), purpose_(purpose), step_(lesson.experience << 32), next_(rows) {}

  size_t left() const { return order_.size() - next_; }
  uint32_t next() {
    if (next_ == order_.size()) {
      permute({order_.data(), order_.size()}, seed_, purpose_, step_++);
      next_ = 0;
    }
    return order_[next_++];
  }

 private:
  Buffer<uint32_t> order_;
  uint64_t seed_;
  Purpose purpose_;
  uint64_t step_;
  size_t next_;
};

// What a minibatch is made of.
struct Mix {
  size_t live_batch = 0, stored_batch = 0;
  size_t steps = 0;
  bool by_heart = false;   // what learns can learn rows by heart: how many of them a class has counts too (7.6)
};

// What features and head said before the lesson, held against what they say now (7.6).
class Distillation {
 public:
  Distillation(const Lesson& lesson, size_t max_rows);

  // The head as it was: forward (classes in the softmax, width).
  void load(std::span<const int16_t> forward);
  // Where the features of the minibatch's rows go, as the branch was: (rows, width).
  int8_t* features() { return features_.data(); }
  // Adds softmax(now) - softmax(before), both over the classes at positions `absent` alone, to g (rows, classes).
  void correct(const HeadBatch& batch, std::span<const uint32_t> absent, const int8_t* now, const int16_t* forward, int16_t* g);

 private:
  int feature_bits_;
  Buffer<int8_t> features_;
  Buffer<int16_t> forward_;
  Buffer<int64_t> before_, now_, no_prior_;
};

class HeadTrainer {
 public:
  HeadTrainer(const Lesson& lesson, const Settings& settings, size_t max_rows);

  std::span<const int16_t> forward() const { return {forward_.data(), active_count_ * lesson_.width}; }
  std::span<const int16_t> gradient(size_t rows) const { return {g_.data(), rows * active_count_}; }
  // Positions in the softmax of classes without a live row.
  std::span<const uint32_t> absent() const { return {absent_.data(), absent_count_}; }

  // Decides who is in the softmax, and the prior of each (6.2, 7.6).
  void choose(const Mix& mix);
  // Forward copies of the weights; `descend` keeps them up to date.
  void load(std::span<const int32_t> weight);
  // g of the minibatch's rows, and its sums with the features.
  void backward(std::span<const int8_t> features, std::span<const uint32_t> labels, uint64_t step, Distillation* distillation = nullptr);
  // One step of `rows` rows, `left` of `all` steps to go (6.3).
  void descend(std::span<int32_t> weight, size_t rows, size_t left, size_t all);

 private:
  static HeadBatch batch_of(size_t rows, size_t width, size_t classes) {
    return {static_cast<int>(rows), static_cast<int>(width), static_cast<int>(classes)};
  }
  // The head's gradient with fewer bits (7.3).
  int round_gradient(size_t rows, uint64_t step);

  const Lesson& lesson_;
  const Settings& settings_;
  Buffer<uint32_t> live_, stored_, active_, absent_, position_;
  Buffer<int64_t> prior_, scores_;
  Buffer<uint32_t> own_;  // each row's position in the softmax
  Buffer<int16_t> forward_, g_;
  Buffer<int32_t> total_;
  Buffer<uint8_t> scratch_;
  size_t active_count_ = 0, absent_count_ = 0;
  int ghosts_ = 0, shift_ = 0;
};

}  // namespace bitreplay
