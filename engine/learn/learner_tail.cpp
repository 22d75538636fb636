// A lesson's part that trains the branch beside the head, and weighs it on rows that were held back (docs/method.md, 7.6 and 7.7).
#include <algorithm>
#include <cmath>

#include "fixed_point.h"
#include "fresh.h"
#include "kernels/head_kernels.h"
#include "leave_one_out.h"
#include "near_equal.h"
#include "random.h"
#include "rows.h"

namespace bitreplay {
namespace {

constexpr size_t kOfRows = 512;     // of how many live rows of a class some are held back, where the memory holds fewer

// Class c's row of LDA as the first weights of a trained branch: 27 fraction bits, at that temperature; 0 for features that LDA does not look at.
void to_branch(const LinearClassifier& from, size_t c, size_t width, int64_t temperature, int feature_bits, int32_t* to) {
  const int shift = from.exponent + kMixingBits - 27 - feature_bits;
  for (size_t j = 0; j < width; ++j) {
    const int64_t w = from.weight[c * width + j] * temperature;
    to[j] = sat32(shift >= 0 ? round_shift(w, shift) : w << std::min(-shift, 30));
  }
}

struct Place {
  uint64_t hash;
  uint32_t label, row;
};
static_assert(sizeof(Place) == kEntryBytes);

}  // namespace

Buffer<uint8_t> Learner::roles_of(std::span<const uint64_t> latents, std::span<const int32_t> labels, std::span<const uint8_t> counts,
                                  size_t classes) const {
  const size_t words = replay_.row_words(), live = labels.size();
  Buffer<uint8_t> roles(live, kIdle);
  // Rows by class and hash: as many of each as may be remembered.
  if (!has_lda() || settings_.held_back == 0) {
    for (size_t i = 0; i < live; ++i) roles[i] = counts[i] == 0 ? kIdle : kTrained;
    return roles;
  }
  Buffer<Place> places(live);
  size_t size = 0;
  for (size_t i = 0; i < live; ++i) {
    if (counts[i] == 0) continue;
    roles[i] = kTrained;
    places[size++] = {row_hash(settings_.seed, Purpose::row_order, latents.subspan(i * words, replay_.latent_words())), static_cast<uint32_t>(labels[i]), static_cast<uint32_t>(i)};
  }
  std::sort(places.begin(), places.begin() + static_cast<ptrdiff_t>(size), [](const Place& a, const Place& b) {
    return a.label != b.label ? a.label < b.label : a.hash != b.hash ? a.hash < b.hash : a.row < b.row;
  });
  Buffer<uint32_t> rank(classes, 0);
  Buffer<uint8_t> held(replay_.size());
  for (size_t slot = 0; slot < held.size(); ++slot) held[slot] = is_held_back(replay_.row(slot));
  for (size_t k = 0; k < size; ++k) {
    const auto [hash, label, i] = places[k];
    const uint64_t* row = latents.data() + i * words;
    if (is_held_back(row) && rank[label] < std::max(kOfRows, replay_.capacity())) roles[i] = kHeld;
    ++rank[label];
    for (size_t slot = 0; roles[i] == kTrained && near().most >= 0 && slot < replay_.size(); ++slot) {
      if (held[slot] == 0 || replay_.labels()[slot] != label) continue;
      if (near()(row, replay_.row(slot), replay_.latent_words())) roles[i] = kIdle;
    }
  }
  return roles;
}

void Learner::learn_tail(const Lesson& lesson, std::span<const uint64_t> latents, std::span<const int8_t> features, std::span<const uint8_t> roles,
                         Fresh& fresh, Workers& workers, StepReport report) const {
  const size_t words = replay_.row_words();
  Buffer<uint32_t> live, stored;  // rows that are trained on
  Buffer<int32_t> live_labels;
  Buffer<uint16_t> stored_labels;
  live.reserve(lesson.live_labels.size());
  live_labels.reserve(lesson.live_labels.size());
  stored.reserve(replay_.size());
  stored_labels.reserve(replay_.size());
  for (size_t i = 0; i < lesson.live_labels.size(); ++i) {
    if (roles[i] != kTrained) continue;
    live.push_back(static_cast<uint32_t>(i));
    live_labels.push_back(lesson.live_labels[i]);
  }
  for (size_t slot = 0; slot < replay_.size(); ++slot) {
    if (is_held_back(replay_.row(slot))) continue;
    stored.push_back(static_cast<uint32_t>(slot));
    stored_labels.push_back(replay_.labels()[slot]);
  }
  const bool rehearsal = lesson.live_labels.empty();
  if (!kTrainsTail || stored.empty() || (live.empty() && !rehearsal)) {
    if (has_lda() && lesson.classes == this->classes()) fresh.mixing = mixing_;  // the branch stands as it stood
    return;
  }
  const std::span<int32_t> weight(fresh.tail_weight.data(), fresh.tail_weight.size());
  for (size_t c = 0; has_lda() && c < lesson.classes; ++c) {  // zeros: not begun
    const std::span<int32_t> row = weight.subspan(c * lesson.width, lesson.width);
    if (std::any_of(row.begin(), row.end(), [](int32_t w) { return w != 0; })) continue;
    to_branch(fresh.without, c, static_cast<size_t>(lda_width()), temperature(fresh.statistics), lesson.feature_bits, row.data());
  }
  Lesson trained = lesson;
  trained.live_labels = {live_labels.data(), live_labels.size()};
  trained.stored_labels = {stored_labels.data(), stored_labels.size()};
  train_tail(
      trained, settings_, network_, tail_, fresh.tail, [&](size_t row) { return latents.data() + live[row] * words; },
      [&](size_t row) { return replay_.row(stored[row]); }, weight, workers, report);
  if (!has_lda()) {
    fresh.mixing = {int64_t{1} << (kMixingBits - 1), int64_t{1} << (kMixingBits - 1)};
  } else {
    choose_mixing_for(lesson, latents, features, roles, fresh, workers);
  }
}

void Learner::choose_mixing_for(const Lesson& lesson, std::span<const uint64_t> latents, std::span<const int8_t> features,
                                std::span<const uint8_t> roles, Fresh& fresh, Workers& workers) const {
  const size_t classes = lesson.classes, width = lesson.width, words = replay_.row_words();
  const int64_t temperature = this->temperature(fresh.statistics);
  if (settings_.held_back == 0) {
    fresh.mixing = {int64_t{1} << kMixingBits, int64_t{1} << kMixingBits};
    return;
  }
  LeaveOneOut known(fresh.statistics, lda_settings());
  // Rows by class, so that what a class needs is made once; number: of a live row, or behind them of a slot.
  Buffer<uint32_t> numbers, labels;
  const size_t most = std::min(replay_.size() + lesson.live_labels.size(), kMostHeld * classes);
  numbers.reserve(most);
  labels.reserve(most);
  for (size_t c = 0; c < classes; ++c) {
    size_t count = 0;
    const auto enter = [&](size_t number) {
      if (known.count(c) < 2 || count == kMostHeld) return;
      ++count;
      numbers.push_back(static_cast<uint32_t>(number));
      labels.push_back(static_cast<uint32_t>(c));
    };
    for (size_t slot = 0; slot < replay_.size(); ++slot) {
      if (replay_.labels()[slot] == c && is_held_back(replay_.row(slot))) enter(lesson.live_labels.size() + slot);
    }
    for (size_t i = 0; i < lesson.live_labels.size(); ++i) {
      if (static_cast<size_t>(lesson.live_labels[i]) == c && roles[i] == kHeld) enter(i);
    }
  }

  const size_t rows = numbers.size();
  Buffer<int8_t> own(rows * width), trained(rows * width);
  for_rows(
      network_, rows, workers,
      [&](size_t row, size_t, Scratch& scratch, Workers* inside) {
        const size_t number = numbers[row], live = lesson.live_labels.size();
        if (number < live) {
          std::copy_n(features.data() + number * width, width, own.data() + row * width);
        } else {
          stored_features(number - live, own.data() + row * width, scratch, inside);
        }
        fresh.tail.features(network_, number < live ? latents.data() + number * words : replay_.row(number - live), trained.data() + row * width, scratch, inside);
      },
      [](size_t) {});
  Buffer<int64_t> frozen(rows * classes), branch(rows * classes);
  Buffer<double> distances(classes);
  for (size_t row = 0; row < rows; ++row) {
    known.distances(own.data() + row * width, labels[row], distances.data());
    for (size_t c = 0; c < classes; ++c) {
      frozen[row * classes + c] = static_cast<int64_t>(rounded(-0.5 * distances[c] * static_cast<double>(temperature), 0x1p40));
    }
  }
  const Buffer<int16_t> forward = forward_weights(fresh.tail_weight);
  head_logits({static_cast<int>(rows), static_cast<int>(width), static_cast<int>(classes)}, trained.data(), forward.data(), lesson.feature_bits, branch.data());

  Buffer<uint8_t> old(classes, 0);
  std::fill_n(old.begin(), this->classes(), uint8_t{1});
  const Choice choice = choose_mixing({classes, {labels.data(), rows}, {frozen.data(), frozen.size()}, {branch.data(), branch.size()}}, {old.data(), classes}, mixing_.branch > 0);
  fresh.mixing = choice.mixing;
  fresh.worse = choice.worse;
}

void Learner::classify_rows(std::span<int32_t> best, Workers& workers) const {
  const size_t width = static_cast<size_t>(network_.feature_count()), rows = replay_.size(), known = classes();
  const bool heard = mixing_.branch > 0;
  const int64_t frozen = frozen_weight();
  Buffer<int8_t> own(rows * width), trained(heard ? rows * width : 0);
  for_rows(
      network_, rows, workers,
      [&](size_t row, size_t, Scratch& scratch, Workers* inside) {
        stored_features(row, own.data() + row * width, scratch, inside);
        if (heard) tail_.features(network_, replay_.row(row), trained.data() + row * width, scratch, inside);
      },
      [](size_t) {});
  if (!has_lda()) {
    judge({own.data(), own.size()}, {trained.data(), trained.size()}, {best, {}, nullptr, {}});
    return;
  }
  LeaveOneOut without(statistics_, lda_settings());
  Buffer<uint32_t> order(rows);
  for (size_t i = 0; i < rows; ++i) order[i] = static_cast<uint32_t>(i);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return replay_.labels()[a] != replay_.labels()[b] ? replay_.labels()[a] < replay_.labels()[b] : a < b;
  });
  Buffer<double> distances(known);
  Buffer<int64_t> logits(known), branch(known), prior = class_priors();
  const Buffer<int16_t> forward = forward_weights(heard ? tail_weight() : std::span<const int32_t>());
  for (const uint32_t row : order) {
    best[row] = -1;
    const size_t own_class = replay_.labels()[row];
    if (without.count(own_class) < 2 || (heard && settings_.held_back > 0 && !is_held_back(replay_.row(row)))) continue;
    without.distances(own.data() + row * width, own_class, distances.data());
    for (size_t c = 0; c < known; ++c) logits[c] = static_cast<int64_t>(rounded(-0.5 * distances[c] * static_cast<double>(frozen), 0x1p40));
    if (heard) {
      head_logits({1, static_cast<int>(width), static_cast<int>(known)}, trained.data() + row * width, forward.data(), network_.feature_bits(), branch.data());
      for (size_t c = 0; c < known; ++c) logits[c] += round_shift(branch[c] * mixing_.branch, kMixingBits);
    }
    for (size_t c = 0; c < known; ++c) logits[c] += prior[c];
    best[row] = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
}

}  // namespace bitreplay
