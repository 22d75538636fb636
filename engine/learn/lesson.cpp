#include "lesson.h"

#include <algorithm>

#include "head_trainer.h"

namespace bitreplay {
namespace {

constexpr size_t kReportEvery = 16;  // steps between two reports

}  // namespace

void train_head(const Lesson& lesson, const Settings& settings, std::span<const int8_t> live, std::span<const int8_t> stored,
                std::span<int32_t> weight, StepReport report) {
  const size_t width = lesson.width;
  const size_t live_rows = lesson.live_labels.size(), stored_rows = lesson.stored_labels.size();
  const size_t max_rows = static_cast<size_t>(settings.live_batch) + static_cast<size_t>(settings.replay_batch);
  HeadTrainer head(lesson, settings, max_rows);
  Order live_order(live_rows, lesson, Purpose::live_order), stored_order(stored_rows, lesson, Purpose::replay_order);
  Buffer<int8_t> x(max_rows * width);
  Buffer<uint32_t> labels(max_rows);

  Mix mix;
  mix.live_batch = std::min<size_t>(settings.live_batch, live_rows);
  mix.stored_batch = std::min<size_t>(settings.replay_batch, stored_rows);
  const size_t batches = live_rows > 0 ? ceil_div(live_rows, mix.live_batch) : ceil_div(stored_rows, mix.stored_batch);
  mix.steps = static_cast<size_t>(settings.epochs) * batches;
  head.choose(mix);

  head.load(weight);
  for (size_t step = 0; step < mix.steps; ++step) {
    if (step % kReportEvery == 0) report(step, mix.steps);
    const size_t fresh = live_order.left() == 0 ? mix.live_batch : std::min(mix.live_batch, live_order.left());
    const size_t rows = fresh + mix.stored_batch;
    for (size_t b = 0; b < rows; ++b) {
      const size_t row = b < fresh ? live_order.next() : stored_order.next();
      labels[b] = b < fresh ? static_cast<uint32_t>(lesson.live_labels[row]) : lesson.stored_labels[row];
      std::copy_n((b < fresh ? live : stored).data() + row * width, width, x.data() + b * width);
    }
    head.backward({x.data(), rows * width}, {labels.data(), rows}, step);
    head.descend(weight, rows, mix.steps - step, mix.steps);
  }
  report(mix.steps, mix.steps);
}

}  // namespace bitreplay
