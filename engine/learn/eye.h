// A look at one image after the other: its views, and the means of their features (docs/method.md, 1.1).
#pragma once

#include <algorithm>

#include "fixed_point.h"
#include "learner.h"
#include "network/views.h"

namespace bitreplay {

class Learner::Eye {
 public:
  Eye(const Network& network, const Tail& tail, int views)
      : network_(network),
        tail_(tail),
        views_(views),
        width_(static_cast<size_t>(network.feature_count())),
        picture_(views > 1 ? network.image_bytes() : 0),
        latent_(network.latent_words()),
        row_(width_),
        frozen_(width_),
        trained_(width_) {}

  // inside: who shares the image, or null.
  void look(const uint8_t* image, const Sight& to, Scratch& scratch, Workers* inside) {
    std::fill(frozen_.begin(), frozen_.end(), 0);
    std::fill(trained_.begin(), trained_.end(), 0);
    for (int view = 0; view < views_; ++view) {
      if (view > 0) make_view(image, static_cast<size_t>(network_.image_size()), view, picture_.data());
      network_.latent(view > 0 ? picture_.data() : image, latent_.data(), scratch, inside);
      if (view == 0 && to.latent != nullptr) std::copy(latent_.begin(), latent_.end(), to.latent);
      network_.features(latent_.data(), row_.data(), scratch, inside);
      for (size_t j = 0; j < width_; ++j) frozen_[j] += row_[j];
      if (to.trained == nullptr) continue;
      tail_.features(network_, latent_.data(), row_.data(), scratch, inside);
      for (size_t j = 0; j < width_; ++j) trained_[j] += row_[j];
    }
    for (size_t j = 0; j < width_; ++j) {
      if (to.features != nullptr) to.features[j] = static_cast<int8_t>(divide_round(frozen_[j], views_));
      if (to.trained != nullptr) to.trained[j] = static_cast<int8_t>(divide_round(trained_[j], views_));
    }
  }

 private:
  const Network& network_;
  const Tail& tail_;
  int views_;
  size_t width_;
  Buffer<uint8_t> picture_;
  Buffer<uint64_t> latent_;
  Buffer<int8_t> row_;
  Buffer<int32_t> frozen_, trained_;
};

}  // namespace bitreplay
