// Lessons that train the tail (docs/method.md, 7.6).
#include <algorithm>
#include <optional>

#include "bits.h"
#include "head_trainer.h"
#include "lesson.h"

namespace bitreplay {
namespace {

constexpr size_t kLeastSteps = 50;  // steps get smaller within a lesson: after a few large ones the branch would stand anywhere

// Copies a latent row, perhaps mirrored left to right and with some bits turned over (7.6); number: of the row in the lesson.
void vary(const uint64_t* row, const Network& network, const Settings& settings, const Lesson& lesson, uint64_t number, uint64_t* out) {
  const Shape shape = network.cut_shape();
  const int words = words_for(shape.channels);
  const auto random = [&](uint64_t index) { return draw(lesson.seed, Purpose::variation, lesson.experience << 32 | number, index); };
  const bool mirrored = settings.tail_mirror && (random(0) & 1) != 0;
  uint64_t index = 1;
  for (int y = 0; y < shape.height; ++y) {
    for (int x = 0; x < shape.width; ++x) {
      const uint64_t* from = row + (int64_t{y} * shape.width + (mirrored ? shape.width - 1 - x : x)) * words;
      for (int w = 0; w < words; ++w, ++index) {
        uint64_t turned = 0;  // each bit 1 with probability tail_noise / 256
        for (int bit = 0; settings.tail_noise != 0 && bit < 8; ++bit) {
          const uint64_t coin = random(index * 8 + static_cast<uint64_t>(bit));
          turned = (settings.tail_noise >> bit) & 1 ? turned | coin : turned & coin;
        }
        *out++ = from[w] ^ (w == words - 1 ? turned & last_word_mask(shape.channels) : turned);
      }
    }
  }
}

}  // namespace

void train_tail(const Lesson& lesson, const Settings& settings, const Network& network, const Tail& before, Tail& tail,
                RowSource live, RowSource stored, std::span<int32_t> weight, Workers& workers, StepReport report) {
  const size_t width = lesson.width;
  const size_t stored_rows = lesson.stored_labels.size();
  const size_t live_rows = lesson.live_labels.size();
  Mix mix;
  mix.live_batch = std::min<size_t>(settings.live_batch, live_rows);
  mix.stored_batch = std::min<size_t>(settings.tail_replay_batch, stored_rows);
  const auto passes = [&](size_t count) { return ceil_div(count * stored_rows, mix.stored_batch); };
  const auto most = static_cast<size_t>(settings.tail_passes);
  mix.steps = live_rows == 0 ? passes(ceil_div(most, 4))
                             : std::min(std::max(kLeastSteps, static_cast<size_t>(settings.tail_epochs) * ceil_div(live_rows, mix.live_batch)), passes(most));
  mix.by_heart = true;
  const size_t max_rows = mix.live_batch + mix.stored_batch;
  HeadTrainer head(lesson, settings, max_rows);
  head.choose(mix);
  TailTrainer trainer(network, tail, static_cast<int>(max_rows), workers);
  Order live_order(live_rows, lesson, Purpose::tail_live_order);
  Order stored_order(stored_rows, lesson, Purpose::tail_replay_order);
  Buffer<int8_t> x(max_rows * width);
  Buffer<uint32_t> labels(max_rows);
  const size_t words = network.latent_words();
  Buffer<uint64_t> varied(max_rows * words);
  Buffer<const uint64_t*> latents(max_rows);
  for (size_t b = 0; b < max_rows; ++b) latents[b] = varied.data() + b * words;

  head.load(weight);
  std::optional<Distillation> distillation;
  if (settings.tail_distillation && live_rows > 0) distillation.emplace(lesson, max_rows).load(head.forward());
  Distillation* const heard = distillation && head.absent().size() > 1 ? &*distillation : nullptr;
  for (size_t step = 0; step < mix.steps; ++step) {
    report(step, mix.steps);
    const size_t fresh = live_order.left() == 0 ? mix.live_batch : std::min(mix.live_batch, live_order.left());
    const size_t rows = fresh + mix.stored_batch;
    for (size_t b = 0; b < rows; ++b) {
      const uint32_t row = b < fresh ? live_order.next() : stored_order.next();
      labels[b] = b < fresh ? static_cast<uint32_t>(lesson.live_labels[row]) : lesson.stored_labels[row];
      vary(b < fresh ? live(row) : stored(row), network, settings, lesson, step * max_rows + b, varied.data() + b * words);
    }
    trainer.forward({latents.data(), rows}, x.data());
    if (heard != nullptr) trainer.features(before, {latents.data(), rows}, heard->features());
    head.backward({x.data(), rows * width}, {labels.data(), rows}, step, heard);
    const int decay = (2 * step >= mix.steps) + (4 * step >= 3 * mix.steps) + (8 * step >= 7 * mix.steps);
    trainer.step(head.gradient(rows), head.forward(), x.data(), {lesson.seed, lesson.experience, step, decay});
    head.descend(weight, rows, mix.steps - step, mix.steps);
  }
  report(mix.steps, mix.steps);
}

}  // namespace bitreplay
