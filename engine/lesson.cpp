#include "lesson.h"

#include <algorithm>
#include <utility>

#include "fixed_point.h"
#include "head_trainer.h"

namespace bitreplay {
namespace {

constexpr size_t kReportEvery = 16;  // steps between two reports
constexpr int kOwnShare = 205;       // of a replayed row's own deviation, 8 fraction bits: .8
constexpr int kOtherShare = 154;     // of another row's deviation: .6, and .8^2 + .6^2 = 1

int8_t clamp_feature(int64_t value) { return static_cast<int8_t>(std::clamp<int64_t>(value, -127, 127)); }

// The other rows of a head's lesson (4.3): stored ones moved onto the class means and mixed, or made ones for absent classes.
class OtherRows {
 public:
  OtherRows(const Lesson& lesson, const Settings& settings, const LessonFeatures& features, const HeadTrainer& head)
      : lesson_(lesson),
        settings_(settings),
        features_(features),
        means_(lesson.classes * lesson.width, 0),
        absent_(lesson.classes),
        sum_(lesson.width),
        order_(lesson.stored_labels.size(), lesson, Purpose::replay_order) {
    if (!settings.class_means) return;
    const std::span<const uint32_t> live = head.live_counts();
    for (size_t c = 0; c < lesson.classes; ++c) {
      const auto rows = static_cast<int64_t>((c < lesson.seen.size() ? lesson.seen[c] : 0) + live[c]);
      for (size_t j = 0; j < lesson.width; ++j) mean(c)[j] = clamp_feature(divide_round(features.sums[c * lesson.width + j], rows));
      if (lesson.stored_labels.empty() && live[c] == 0) absent_[absent_count_++] = static_cast<uint32_t>(c);
    }
    recentre(head.stored_counts());
  }

  static int64_t bytes(size_t stored, size_t classes, size_t width) {
    return static_cast<int64_t>(classes * width + classes * sizeof(uint32_t) + width * sizeof(int64_t)) + Order::bytes(stored);
  }

  std::span<const uint32_t> absent() const { return {absent_.data(), absent_count_}; }

  // Writes row number `index` of the lesson's other rows; returns its label.
  uint32_t make(uint64_t index, int8_t* out) {
    const size_t width = lesson_.width;
    uint32_t label;
    const int8_t* own = nullptr;
    if (!lesson_.stored_labels.empty()) {
      const uint32_t row = order_.next();
      label = lesson_.stored_labels[row];
      own = features_.stored.data() + row * width;
      if (!settings_.class_means) {
        std::copy_n(own, width, out);
        return label;
      }
    } else {
      label = absent_[below(absent_count_, draw(lesson_.seed, Purpose::absent_class, lesson_.experience, index))];
    }
    const size_t live = lesson_.live_labels.size();
    const uint64_t source =
        below(live + lesson_.stored_labels.size(), draw(lesson_.seed, Purpose::deviation, lesson_.experience, index));
    const bool is_live = source < live;
    const int8_t* from = is_live ? features_.live.data() + source * width : features_.stored.data() + (source - live) * width;
    const int8_t* from_mean = mean(is_live ? static_cast<size_t>(lesson_.live_labels[source]) : lesson_.stored_labels[source - live]);
    const int8_t* to = mean(label);
    for (size_t j = 0; j < width; ++j) {
      const int deviation = from[j] - from_mean[j];
      const int moved = own ? (kOwnShare * (own[j] - to[j]) + kOtherShare * deviation + 128) >> 8 : deviation;
      out[j] = clamp_feature(to[j] + moved);
    }
    return label;
  }

 private:
  int8_t* mean(size_t c) { return means_.data() + c * lesson_.width; }

  // Moves the stored rows of each class so that their mean is the class's.
  void recentre(std::span<const uint32_t> stored) {
    const size_t width = lesson_.width;
    for (size_t c = 0; c < stored.size(); ++c) {
      if (stored[c] == 0) continue;
      std::fill(sum_.begin(), sum_.end(), 0);
      for (size_t row = 0; row < lesson_.stored_labels.size(); ++row) {
        if (lesson_.stored_labels[row] != c) continue;
        for (size_t j = 0; j < width; ++j) sum_[j] += features_.stored[row * width + j];
      }
      for (size_t j = 0; j < width; ++j) sum_[j] = mean(c)[j] - divide_round(sum_[j], stored[c]);
      for (size_t row = 0; row < lesson_.stored_labels.size(); ++row) {
        if (lesson_.stored_labels[row] != c) continue;
        int8_t* x = features_.stored.data() + row * width;
        for (size_t j = 0; j < width; ++j) x[j] = clamp_feature(x[j] + sum_[j]);
      }
    }
  }

  const Lesson& lesson_;
  const Settings& settings_;
  const LessonFeatures& features_;
  Buffer<int8_t> means_;
  Buffer<uint32_t> absent_;
  Buffer<int64_t> sum_;
  Order order_;
  size_t absent_count_ = 0;
};

}  // namespace

void train_head(const Lesson& lesson, const Settings& settings, const LessonFeatures& features, std::span<int32_t> weight,
                StepReport report) {
  const size_t width = lesson.width;
  const size_t live = lesson.live_labels.size();
  const size_t stored = lesson.stored_labels.size();
  const size_t max_rows = static_cast<size_t>(settings.live_batch) + static_cast<size_t>(settings.replay_batch);
  HeadTrainer head(lesson, settings, max_rows);
  OtherRows others(lesson, settings, features, head);
  Order live_order(live, lesson, Purpose::live_order);
  Buffer<int8_t> x(max_rows * width);
  Buffer<uint32_t> labels(max_rows);

  Mix mix;
  mix.live_batch = std::min<size_t>(settings.live_batch, live);
  mix.stand_ins = stored == 0;
  mix.other_batch = stored > 0 ? std::min<size_t>(settings.replay_batch, stored)
                               : (others.absent().empty() ? 0 : static_cast<size_t>(settings.replay_batch));
  const size_t batches = live > 0 ? ceil_div(live, mix.live_batch) : ceil_div(stored, mix.other_batch);
  mix.steps = std::max<size_t>(settings.epochs * batches, settings.min_steps);
  mix.stand_ins = mix.stand_ins && !others.absent().empty();
  head.choose(mix, stored > 0 ? stored : others.absent().size());

  head.load(weight);
  for (size_t step = 0; step < mix.steps; ++step) {
    if (step % kReportEvery == 0) report(step, mix.steps);
    const size_t live_rows = live_order.left() == 0 ? mix.live_batch : std::min(mix.live_batch, live_order.left());
    const size_t rows = live_rows + mix.other_batch;
    for (size_t b = 0; b < rows; ++b) {
      if (b < live_rows) {
        const uint32_t row = live_order.next();
        labels[b] = static_cast<uint32_t>(lesson.live_labels[row]);
        std::copy_n(features.live.data() + row * width, width, x.data() + b * width);
      } else {
        labels[b] = others.make(step * mix.other_batch + (b - live_rows), x.data() + b * width);
      }
    }
    head.backward({x.data(), rows * width}, {labels.data(), rows}, step);
    head.descend(weight, rows, mix.steps - step, mix.steps, true);
  }
  report(mix.steps, mix.steps);
  for (const uint32_t c : others.absent()) std::copy_n(lesson.head.weight.data() + c * width, width, weight.data() + c * width);
}

int64_t train_head_bytes(size_t live, size_t stored, size_t classes, size_t width, const Settings& settings) {
  const size_t rows = static_cast<size_t>(settings.live_batch) + static_cast<size_t>(settings.replay_batch);
  return HeadTrainer::bytes(classes, width, rows) + OtherRows::bytes(stored, classes, width) + Order::bytes(live) +
         static_cast<int64_t>(rows * (width + sizeof(uint32_t)));
}

}  // namespace bitreplay
