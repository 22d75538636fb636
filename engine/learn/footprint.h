// Bytes of every buffer that a learner keeps or needs, counted here alone: for `info`, for a limit of memory and for the regions of the C API.
// Tests hold them to what is allocated.  Vectors of a few objects (List) are not counted.
#pragma once

#include <cstdint>

#include "elimination.h"
#include "network/network.h"
#include "settings.h"
#include "tail.h"

namespace bitreplay {

// f(count, bytes of one) for each buffer of the replay memory, and of what the head is made from.
template <class F>
void each_replay_buffer(const Settings& settings, int64_t features, int64_t latent_words, int64_t capacity, int64_t classes, const F& f) {
  f(capacity * (latent_words + settings.further_words(static_cast<int>(features))), 8);
  f(capacity, 2);  // labels
  f(classes, 8);   // pictures seen
}

template <class F>
void each_head_buffer(const Settings& settings, int64_t features, bool wide, int64_t classes, const F& f) {
  const int64_t known = settings.lda_width(static_cast<int>(features));
  if (settings.head == HeadKind::cwr) {
    f(classes * features, 4);  // weight, past_count
    f(classes, 4);
    return;
  }
  f(classes, 8);  // Statistics: count, sums, moment, row
  f(classes * known, 8);
  f(static_cast<int64_t>(triangle(static_cast<int>(known))), wide ? 8 : 4);
  f(known, 4);
  f(classes * known, 2);  // LinearClassifier: weight, bias
  f(classes, 8);
}

// When a lesson is learned: rows that the memory may hold and does, images, classes afterwards.
struct Occasion {
  int64_t capacity, stored, live, classes;
  int threads;
};

class Footprint {
 public:
  // tail: the learner's.  wide: the sums of LDA have 64 bits.  layout: of what kernels lay out as they like (network/forward.h).
  Footprint(const Network& network, const Settings& settings, const Tail& tail, bool wide, Layout layout = Layout::here)
      : network_(network), settings_(settings), tail_(tail), wide_(wide), layout_(layout), features_(network.feature_count()) {}

  // What is kept, in parts.
  int64_t network() const { return network_.bytes(layout_); }
  int64_t head(int64_t classes) const;
  int64_t tail(int64_t classes) const;
  int64_t replay(int64_t capacity, int64_t classes) const;
  int64_t kept(int64_t capacity, int64_t classes) const { return network() + head(classes) + tail(classes) + replay(capacity, classes); }

  // What is needed on top at the highest moment: of a lesson; of a prediction; of opening a state; of making what tells unknown pictures, and what it keeps.
  int64_t lesson(const Occasion& at) const;
  int64_t prediction(int64_t images, int views, int threads, int64_t classes) const;
  int64_t opening(int64_t classes) const { return opening(settings_, features_, classes); }
  static int64_t opening(const Settings& settings, int64_t features, int64_t classes);
  int64_t unknown(int64_t rows) const;
  int64_t making_unknown(int64_t rows, int64_t classes) const;

 private:
  bool lda() const { return settings_.head == HeadKind::lda; }
  int64_t known() const { return settings_.lda_width(static_cast<int>(features_)); }
  int64_t looking(int64_t rows, int threads, int64_t each) const;
  int64_t eye(int views) const;
  int64_t head_training(int64_t rows, int64_t live, int64_t stored, int64_t classes) const;
  int64_t tail_training(const Occasion& at) const;
  int64_t mixing(const Occasion& at) const;

  const Network& network_;
  const Settings& settings_;
  const Tail& tail_;
  bool wide_;
  Layout layout_;
  int64_t features_;
};

}  // namespace bitreplay
