// What a learner says of pictures and of its own rows (docs/method.md, 4.3, 6.1 and 7.7).
#include <algorithm>

#include "fixed_point.h"
#include "head_kernels.h"
#include "learner.h"
#include "rows.h"
#include "views.h"

namespace bitreplay {
namespace {

constexpr size_t kRecallRows = 256;  // stored rows whose features are held at a time

// score / 2^exponent * factor, to 16 fraction bits.
int64_t to_logit(int64_t score, int exponent, int64_t factor) {
  return exponent >= 0 ? round_shift(score * factor, exponent) : (score * factor) * (int64_t{1} << std::min(-exponent, 20));
}

}  // namespace

void Learner::features(std::span<const uint8_t> images, std::span<int8_t> features, int threads) const {
  see(images, 0, features, {}, threads);
}

void Learner::see(std::span<const uint8_t> images, int view, std::span<int8_t> features, std::span<int8_t> trained, int threads) const {
  const size_t width = static_cast<size_t>(network_.feature_count());
  const size_t bytes = network_.image_bytes();
  const size_t rows = images.size() / bytes;
  Buffer<uint64_t> latents(rows * network_.latent_words());
  Buffer<uint8_t> pictures(view > 0 ? workers_for(rows, threads) * bytes : 0);
  for_rows(
      network_, rows, threads,
      [&](size_t row, size_t worker, Scratch& scratch) {
        uint64_t* latent = latents.data() + row * network_.latent_words();
        const uint8_t* image = images.data() + row * bytes;
        if (view > 0) {
          make_view(image, static_cast<size_t>(network_.image_size()), view, pictures.data() + worker * bytes);
          image = pictures.data() + worker * bytes;
        }
        network_.latent(image, latent, scratch);
        network_.features(latent, features.data() + row * width, scratch);
        if (!trained.empty()) tail_.features(network_, latent, trained.data() + row * width, scratch);
      },
      [](size_t) {});
}

int64_t Learner::predict_bytes(size_t rows, int views, int threads) const {
  return predict_bytes_at(rows, views, threads, classes(), !tail_weight_.empty());
}

int64_t Learner::predict_bytes_at(size_t rows, int views, int threads, size_t classes, bool has_branch) const {
  const size_t width = static_cast<size_t>(network_.feature_count()), looks = static_cast<size_t>(views);
  const size_t branches = has_branch ? 2 : 1;
  const size_t each = static_cast<size_t>(network_.scratch_bytes()) + (views > 1 ? network_.image_bytes() : 0);
  const size_t seeing = rows * network_.latent_words() * sizeof(uint64_t) + workers_for(rows, threads) * each;
  const size_t scoring = classes * (branches * width * sizeof(int16_t) + 4 * sizeof(int64_t)) + width * sizeof(int64_t);
  return static_cast<int64_t>(looks * branches * rows * width + std::max(seeing, scoring));
}

void Learner::predict(std::span<const uint8_t> images, int views, const Answers& answers, int threads) const {
  const size_t size = answers.best.size() * static_cast<size_t>(network_.feature_count());
  const bool has_branch = !tail_weight_.empty();
  Buffer<int8_t> rows(static_cast<size_t>(views) * size), trained(has_branch ? rows.size() : 0);
  for (int view = 0; view < views; ++view) {
    const size_t first = static_cast<size_t>(view) * size;
    see(images, view, {rows.data() + first, size}, has_branch ? std::span(trained.data() + first, size) : std::span<int8_t>(), threads);
  }
  judge({rows.data(), rows.size()}, {trained.data(), trained.size()}, views, answers);
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
    judge({rows.data(), rows.size()}, {trained.data(), trained.size()}, 1,
          {answers.best.subspan(begin, count), {}, nullptr, {}});
  }
}

Unknown Learner::unknown(int threads) const {
  require(has_lda(), "reject: expected a learner whose head is lda; make a new one with it");
  const size_t width = static_cast<size_t>(network_.feature_count());
  Buffer<int8_t> features(replay_.size() * width);
  for_rows(
      network_, replay_.size(), threads,
      [&](size_t row, size_t, Scratch& scratch) { network_.features(replay_.row(row), features.data() + row * width, scratch); }, [](size_t) {});
  return Unknown(statistics_, lda_settings(), settings_.views, {features.data(), features.size()}, replay_.labels());
}

void Learner::judge(std::span<const int8_t> rows, std::span<const int8_t> trained, int views, const Answers& answers) const {
  const size_t width = static_cast<size_t>(network_.feature_count());
  const size_t count = answers.best.size();
  Buffer<int16_t> forward(has_lda() ? 0 : head_.weight.size()), tail_forward(tail_weight_.size());
  Buffer<int64_t> frozen(classes()), branch(classes()), one(classes());
  const Buffer<int64_t> prior(classes(), 0);
  Buffer<int64_t> work(answers.unknown != nullptr ? width : 0);
  std::transform(head_.weight.begin(), head_.weight.end(), forward.begin(), forward_weight);
  std::transform(tail_weight_.begin(), tail_weight_.end(), tail_forward.begin(), forward_weight);
  const HeadBatch batch{1, static_cast<int>(width), static_cast<int>(classes())};
  // Adds to `sum` the logits of every view of a row.
  const auto add = [&](std::span<const int8_t> features, size_t row, const auto& logits, Buffer<int64_t>& sum) {
    std::fill(sum.begin(), sum.end(), 0);
    for (int view = 0; view < views; ++view) {
      logits(features.data() + (static_cast<size_t>(view) * count + row) * width);
      for (size_t c = 0; c < sum.size(); ++c) sum[c] += one[c];
    }
  };
  const auto with = [&](const Buffer<int16_t>& weight) {
    return [&](const int8_t* x) { head_logits(batch, x, weight.data(), network_.feature_bits(), one.data()); };
  };
  const auto scores = [&](const int8_t* x) {
    head_logits(batch, x, classifier_.weight.data(), 5, one.data());  // with 5 fraction bits of the features the sums come as they are
    for (size_t c = 0; c < one.size(); ++c) one[c] += classifier_.bias[c];
  };
  for (size_t row = 0; row < count; ++row) {
    if (has_lda()) {
      add(rows, row, scores, frozen);
      for (int64_t& score : frozen) score = divide_round(to_logit(score, classifier_.exponent, mixing_.frozen), views);
    } else {
      add(rows, row, with(forward), frozen);
      for (int64_t& score : frozen) score = divide_round(score, views);
    }
    if (!trained.empty()) {
      add(trained, row, with(tail_forward), branch);
      for (size_t c = 0; c < branch.size(); ++c) frozen[c] += round_shift(divide_round(branch[c], views) * mixing_.branch, kMixingBits);
    }
    answers.best[row] = static_cast<int32_t>(std::max_element(frozen.begin(), frozen.end()) - frozen.begin());
    if (answers.unknown != nullptr) {  // by the picture as it is
      const int8_t* x = rows.data() + row * width;
      scores(x);
      answers.familiarity[row] = answers.unknown->familiarity(x, *std::max_element(one.begin(), one.end()), classifier_.exponent, work.data());
    }
    if (answers.probabilities.empty()) continue;
    head_softmax(batch, frozen.data(), prior.data(), 0);
    for (size_t c = 0; c < frozen.size(); ++c) answers.probabilities[row * frozen.size() + c] = static_cast<int32_t>(frozen[c]);
  }
}

}  // namespace bitreplay
