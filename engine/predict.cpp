// What a learner says of images, and of the rows that it keeps (docs/method.md, 4.1 and 4.5).
#include <algorithm>

#include "fixed_point.h"
#include "head_kernels.h"
#include "learner.h"
#include "rows.h"

namespace bitreplay {
namespace {

constexpr size_t kRecallRows = 256;  // stored rows whose features are held at a time

void mirror(const uint8_t* image, size_t side, uint8_t* out) {
  for (size_t y = 0; y < side; ++y) {
    for (size_t x = 0; x < side; ++x) std::copy_n(image + 3 * (y * side + x), 3, out + 3 * (y * side + side - 1 - x));
  }
}

}  // namespace

void Learner::features(std::span<const uint8_t> images, std::span<int8_t> features, int threads) const {
  see(images, false, features, {}, threads);
}

void Learner::see(std::span<const uint8_t> images, bool mirrored, std::span<int8_t> features, std::span<int8_t> trained,
                  int threads) const {
  const size_t width = static_cast<size_t>(network_.feature_count());
  const size_t bytes = network_.image_bytes();
  const size_t rows = images.size() / bytes;
  Buffer<uint64_t> latents(rows * network_.latent_words());
  Buffer<uint8_t> turned(mirrored ? workers_for(rows, threads) * bytes : 0);
  for_rows(
      network_, rows, threads,
      [&](size_t row, size_t worker, Scratch& scratch) {
        uint64_t* latent = latents.data() + row * network_.latent_words();
        const uint8_t* image = images.data() + row * bytes;
        if (mirrored) {
          mirror(image, static_cast<size_t>(network_.image_size()), turned.data() + worker * bytes);
          image = turned.data() + worker * bytes;
        }
        network_.latent(image, latent, scratch);
        network_.features(latent, features.data() + row * width, scratch);
        if (!trained.empty()) tail_.features(network_, latent, trained.data() + row * width, scratch);
      },
      [](size_t) {});
}

int64_t Learner::predict_bytes(size_t rows, bool mirrored, int threads) const {
  return predict_bytes_at(rows, mirrored, threads, classes(), !tail_weight_.empty());
}

int64_t Learner::predict_bytes_at(size_t rows, bool mirrored, int threads, size_t classes, bool has_branch) const {
  const size_t width = static_cast<size_t>(network_.feature_count());
  const size_t branches = has_branch ? 2 : 1, views = mirrored ? 2 : 1;
  const size_t each = static_cast<size_t>(network_.scratch_bytes()) + (mirrored ? network_.image_bytes() : 0);
  const size_t seeing = rows * network_.latent_words() * sizeof(uint64_t) + workers_for(rows, threads) * each;
  const size_t scoring = classes * (branches * width * sizeof(int16_t) + 3 * sizeof(int64_t));
  return static_cast<int64_t>(views * branches * rows * width + std::max(seeing, scoring));
}

void Learner::predict(std::span<const uint8_t> images, bool mirrored, const Answers& answers, int threads) const {
  const size_t width = static_cast<size_t>(network_.feature_count());
  const bool has_branch = !tail_weight_.empty();
  const size_t views = mirrored ? 2 : 1;
  const size_t size = answers.best.size() * width;
  Buffer<int8_t> rows(views * size), trained(has_branch ? views * size : 0);
  const auto view_of = [&](Buffer<int8_t>& features, size_t view) {
    return features.empty() ? std::span<int8_t>() : std::span(features.data() + view * size, size);
  };
  for (size_t view = 0; view < views; ++view) see(images, view == 1, view_of(rows, view), view_of(trained, view), threads);
  judge({rows.data(), rows.size()}, {trained.data(), trained.size()}, mirrored, answers);
}

void Learner::recall(const Answers& answers, int threads) const {
  const size_t width = static_cast<size_t>(network_.feature_count());
  const bool has_branch = !tail_weight_.empty();
  for (size_t begin = 0; begin < replay_.size(); begin += kRecallRows) {
    const size_t count = std::min(kRecallRows, replay_.size() - begin);
    Buffer<int8_t> rows(count * width), trained(has_branch ? count * width : 0);
    for_rows(
        network_, count, threads,
        [&](size_t row, size_t, Scratch& scratch) {
          network_.features(replay_.row(begin + row), rows.data() + row * width, scratch);
          if (has_branch) tail_.features(network_, replay_.row(begin + row), trained.data() + row * width, scratch);
        },
        [](size_t) {});
    judge({rows.data(), rows.size()}, {trained.data(), trained.size()}, false,
          {answers.best.subspan(begin, count), answers.certainty.subspan(begin, count), {}});
  }
}

void Learner::judge(std::span<const int8_t> rows, std::span<const int8_t> trained, bool mirrored, const Answers& answers) const {
  const size_t width = static_cast<size_t>(network_.feature_count());
  const size_t count = answers.best.size();
  const int shift = int{!trained.empty()} + int{mirrored};  // log2 of the logits that are averaged
  Buffer<int16_t> forward(head_.weight.size()), tail_forward(tail_weight_.size());
  Buffer<int64_t> scores(classes()), more(classes());
  const Buffer<int64_t> prior(classes(), 0);
  std::transform(head_.weight.begin(), head_.weight.end(), forward.begin(), forward_weight);
  std::transform(tail_weight_.begin(), tail_weight_.end(), tail_forward.begin(), forward_weight);
  const HeadBatch one{1, static_cast<int>(width), static_cast<int>(classes())};
  const auto add = [&](std::span<const int8_t> features, size_t row, const Buffer<int16_t>& weight) {
    head_logits(one, features.data() + row * width, weight.data(), network_.feature_bits(), more.data());
    for (size_t c = 0; c < scores.size(); ++c) scores[c] += more[c];
  };
  for (size_t row = 0; row < count; ++row) {
    head_logits(one, rows.data() + row * width, forward.data(), network_.feature_bits(), scores.data());
    std::copy(scores.begin(), scores.end(), more.begin());
    head_softmax(one, more.data(), prior.data(), kUnknownGhosts);
    answers.certainty[row] = static_cast<int32_t>(*std::max_element(more.begin(), more.end()));
    if (!trained.empty()) add(trained, row, tail_forward);
    if (mirrored) add(rows, count + row, forward);
    if (mirrored && !trained.empty()) add(trained, count + row, tail_forward);
    for (int64_t& score : scores) score = round_shift(score, shift);
    answers.best[row] = static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
    if (answers.probabilities.empty()) continue;
    head_softmax(one, scores.data(), prior.data(), 0);
    for (size_t c = 0; c < scores.size(); ++c) answers.probabilities[row * scores.size() + c] = static_cast<int32_t>(scores[c]);
  }
}

}  // namespace bitreplay
