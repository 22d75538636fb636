#include "lesson.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <utility>

#include "bits.h"
#include "fixed_point.h"
#include "head_kernels.h"
#include "random.h"

namespace bitreplay {
namespace {

constexpr size_t kReportEvery = 16;  // steps between two reports
constexpr int kOwnShare = 205;       // of a replayed row's own deviation, 8 fraction bits: .8
constexpr int kOtherShare = 154;     // of another row's deviation: .6, and .8^2 + .6^2 = 1

size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

int8_t clamp_feature(int64_t value) { return static_cast<int8_t>(std::clamp<int64_t>(value, -127, 127)); }

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
  static int64_t bytes(size_t rows) { return static_cast<int64_t>(rows * sizeof(uint32_t)); }

 private:
  Buffer<uint32_t> order_;
  uint64_t seed_;
  Purpose purpose_;
  uint64_t step_;
  size_t next_;
};

// What a minibatch is made of.
struct Mix {
  size_t live_batch = 0, other_batch = 0;
  size_t steps = 0;
  bool stand_ins = false;  // the other rows are made for absent classes
  bool by_heart = false;   // what learns can learn rows by heart: how many of them a class has counts too (7.6)
};

// The head's part of a step: which classes are in the softmax, and their gradient.
class HeadTrainer {
 public:
  HeadTrainer(const Lesson& lesson, const Settings& settings, size_t max_rows)
      : lesson_(lesson),
        settings_(settings),
        live_(lesson.classes, 0),
        stored_(lesson.classes, 0),
        active_(lesson.classes),
        position_(lesson.classes),
        prior_(lesson.classes, 0),
        scores_(max_rows * lesson.classes),
        own_(max_rows),
        forward_(lesson.classes * lesson.width),
        g_(max_rows * lesson.classes),
        total_(lesson.classes * lesson.width),
        scratch_(static_cast<size_t>(head_scratch(batch_of(max_rows, lesson.width, lesson.classes)))) {
    for (const int32_t label : lesson.live_labels) ++live_[static_cast<size_t>(label)];
    for (const uint16_t label : lesson.stored_labels) ++stored_[label];
  }

  static int64_t bytes(size_t classes, size_t width, size_t max_rows) {
    return static_cast<int64_t>(classes * (4 * sizeof(uint32_t) + sizeof(int64_t)) + max_rows * sizeof(uint32_t) +
                                classes * width * (sizeof(int16_t) + sizeof(int32_t)) +
                                max_rows * classes * (sizeof(int64_t) + sizeof(int16_t))) +
           head_scratch(batch_of(max_rows, width, classes));
  }

  std::span<const uint32_t> live_counts() const { return {live_.data(), live_.size()}; }
  std::span<const uint32_t> stored_counts() const { return {stored_.data(), stored_.size()}; }
  size_t active() const { return active_count_; }
  std::span<const int16_t> forward() const { return {forward_.data(), active_count_ * lesson_.width}; }
  std::span<const int16_t> gradient(size_t rows) const { return {g_.data(), rows * active_count_}; }

  // Decides who is in the softmax, and the prior of each (4.2, 7.6).
  void choose(const Mix& mix, size_t others) {
    active_count_ = 0;
    const size_t live_rows = lesson_.live_labels.size();
    for (size_t c = 0; c < lesson_.classes; ++c) {
      const uint64_t share = mix.stand_ins ? live_[c] == 0 : stored_[c];
      if (live_[c] + share == 0) continue;
      position_[c] = static_cast<uint32_t>(active_count_);
      prior_[active_count_] = static_cast<int64_t>(mix.live_batch * live_[c] * others + mix.other_batch * share * live_rows);
      active_[active_count_++] = static_cast<uint32_t>(c);
    }
    for (size_t i = 0; i < active_count_; ++i) {
      if (!settings_.prior || mix.other_batch == 0) {
        prior_[i] = 0;
        continue;
      }
      prior_[i] = prior_correction(active_count_, static_cast<uint64_t>(prior_[i]),
                                   (mix.live_batch + mix.other_batch) * live_rows * others);
      if (mix.by_heart) {
        const uint64_t rows = uint64_t{live_[active_[i]]} + stored_[active_[i]];
        prior_[i] += round_shift(prior_correction(active_count_, rows, live_rows + others), 1);
      }
    }
    ghosts_ = settings_.class_means && mix.other_batch > 0 ? 0 : settings_.ghosts;
  }

  // Forward copies of the weights; `descend` keeps them up to date.
  void load(std::span<const int32_t> weight) {
    for (size_t i = 0; i < active_count_; ++i) {
      const int32_t* w = weight.data() + active_[i] * lesson_.width;
      std::transform(w, w + lesson_.width, forward_.data() + i * lesson_.width, forward_weight);
    }
  }

  // g of the minibatch's rows, and its sums with the features.
  void backward(std::span<const int8_t> features, std::span<const uint32_t> labels, uint64_t step) {
    const HeadBatch batch = batch_of(labels.size(), lesson_.width, active_count_);
    std::transform(labels.begin(), labels.end(), own_.begin(), [&](uint32_t label) { return position_[label]; });
    head_logits(batch, features.data(), forward_.data(), lesson_.feature_bits, scores_.data());
    head_softmax(batch, scores_.data(), prior_.data(), ghosts_);
    head_gradient(batch, scores_.data(), own_.data(), g_.data());
    shift_ = lesson_.gradient_bits < 16 ? round_gradient(labels.size(), step) : 0;
    head_weight_gradient(batch, features.data(), g_.data(), total_.data(), scratch_.data());
  }

  // One step of `rows` rows, `left` of `all` steps to go (4.3).
  // `pulled`: known classes are pulled back to what the head knew of them.
  void descend(std::span<int32_t> weight, size_t rows, size_t left, size_t all, bool pulled) {
    const int64_t rate = (settings_.learning_rate << (12 - lesson_.feature_bits)) * static_cast<int64_t>(left) /
                         static_cast<int64_t>(all * rows);
    const int64_t pull = settings_.learning_rate * static_cast<int64_t>(left) / static_cast<int64_t>(all) * settings_.pull;
    const size_t width = lesson_.width;
    for (size_t i = 0; i < active_count_; ++i) {
      const size_t at = active_[i] * width;
      const bool anchored = pulled && active_[i] < lesson_.seen.size() && lesson_.head.past_count[active_[i]] > 0;
      head_descend(weight.subspan(at, width), total_.data() + i * width, rate * (int64_t{1} << shift_),
                   anchored ? std::span(lesson_.head.weight.data() + at, width) : std::span<const int32_t>(), pull,
                   forward_.data() + i * width);
    }
  }

 private:
  static HeadBatch batch_of(size_t rows, size_t width, size_t classes) {
    return {static_cast<int>(rows), static_cast<int>(width), static_cast<int>(classes)};
  }
  // The head's gradient with fewer bits (7.3).
  int round_gradient(size_t rows, uint64_t step);

  const Lesson& lesson_;
  const Settings& settings_;
  Buffer<uint32_t> live_, stored_, active_, position_;
  Buffer<int64_t> prior_, scores_;
  Buffer<uint32_t> own_;  // each row's position in the softmax
  Buffer<int16_t> forward_, g_;
  Buffer<int32_t> total_;
  Buffer<uint8_t> scratch_;
  size_t active_count_ = 0;
  int ghosts_ = 0, shift_ = 0;
};

int HeadTrainer::round_gradient(size_t rows, uint64_t step) {
  const std::span<int16_t> g{g_.data(), rows * active_count_};
  const int bits = lesson_.gradient_bits;
  uint32_t largest = 0;
  for (const int16_t v : g) largest = std::max(largest, static_cast<uint32_t>(std::abs(int{v})));
  const int shift = std::max(0, static_cast<int>(std::bit_width(largest)) - (bits - 1));
  const int limit = (1 << (bits - 1)) - 1;
  const uint64_t key = draw(lesson_.seed, Purpose::gradient_rounding, lesson_.experience << 32 | step, 0);
  for (size_t i = 0; i < g.size(); ++i) {
    const int64_t up = bits > kStochasticBits ? 0 : shift == 0 ? 0 : noise(key, static_cast<uint32_t>(i)) >> (32 - shift);
    const int64_t v = bits > kStochasticBits ? round_shift(g[i], shift) : (g[i] + up) >> shift;
    g[i] = static_cast<int16_t>(std::clamp<int64_t>(v, -limit, limit));
  }
  return shift;
}

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
                const StepReport& report) {
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
  mix.steps = std::max<size_t>(settings.epochs * ceil_div(live, mix.live_batch), settings.min_steps);
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

namespace {

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

void train_tail(const Lesson& lesson, const Settings& settings, const Network& network, Tail& tail,
                const std::function<const uint64_t*(size_t)>& live, const std::function<const uint64_t*(size_t)>& stored,
                std::span<int32_t> weight, Workers& workers, const StepReport& report) {
  const size_t width = lesson.width;
  const size_t stored_rows = lesson.stored_labels.size();
  const size_t live_rows = lesson.live_labels.size();
  Mix mix;
  mix.live_batch = std::min<size_t>(settings.live_batch, live_rows);
  mix.other_batch = std::min<size_t>(settings.tail_replay_batch, stored_rows);
  mix.steps = std::min(static_cast<size_t>(settings.tail_epochs) * ceil_div(live_rows, mix.live_batch),
                       ceil_div(static_cast<size_t>(settings.tail_passes) * stored_rows, mix.other_batch));
  mix.by_heart = true;
  const size_t max_rows = mix.live_batch + mix.other_batch;
  HeadTrainer head(lesson, settings, max_rows);
  head.choose(mix, stored_rows);
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
  for (size_t step = 0; step < mix.steps; ++step) {
    report(step, mix.steps);
    const size_t fresh = live_order.left() == 0 ? mix.live_batch : std::min(mix.live_batch, live_order.left());
    const size_t rows = fresh + mix.other_batch;
    for (size_t b = 0; b < rows; ++b) {
      const uint32_t row = b < fresh ? live_order.next() : stored_order.next();
      labels[b] = b < fresh ? static_cast<uint32_t>(lesson.live_labels[row]) : lesson.stored_labels[row];
      vary(b < fresh ? live(row) : stored(row), network, settings, lesson, step * max_rows + b, varied.data() + b * words);
    }
    trainer.forward({latents.data(), rows}, x.data());
    head.backward({x.data(), rows * width}, {labels.data(), rows}, step);
    const int decay = (2 * step >= mix.steps) + (4 * step >= 3 * mix.steps) + (8 * step >= 7 * mix.steps);
    trainer.step(head.gradient(rows), head.forward(), x.data(), {lesson.seed, lesson.experience, step, decay});
    head.descend(weight, rows, mix.steps - step, mix.steps, false);
  }
  report(mix.steps, mix.steps);
}

int64_t train_head_bytes(size_t live, size_t stored, size_t classes, size_t width, const Settings& settings) {
  const size_t rows = static_cast<size_t>(settings.live_batch) + static_cast<size_t>(settings.replay_batch);
  return HeadTrainer::bytes(classes, width, rows) + OtherRows::bytes(stored, classes, width) + Order::bytes(live) +
         static_cast<int64_t>(rows * (width + sizeof(uint32_t)));
}

int64_t train_tail_bytes(const Network& network, const Tail& tail, size_t live, size_t stored, size_t classes, const Settings& settings,
                         int threads) {
  const size_t width = static_cast<size_t>(network.feature_count());
  const size_t rows = std::min<size_t>(settings.live_batch, live) + std::min<size_t>(settings.tail_replay_batch, stored);
  return HeadTrainer::bytes(classes, width, rows) + TailTrainer::bytes(network, tail, static_cast<int>(rows), threads) +
         Order::bytes(live) + Order::bytes(stored) + static_cast<int64_t>(rows * (width + sizeof(uint32_t) + sizeof(uint64_t*) + network.latent_words() * sizeof(uint64_t)));
}

}  // namespace bitreplay
