#include <algorithm>

#include "bits.h"
#include "state.h"

namespace bitreplay {
namespace {

void check(bool condition, const char* what) {
  if (!condition) fail(Error::format, "state: {}", {what});
}

uint64_t read_experience(const File& file) {
  char digits[10];
  const Json word = file.word("experience");
  const size_t size = word.is_string() ? word.copy(digits, sizeof digits) : 0;
  check(size > 0 && size <= sizeof digits, "experience: expected a count");
  uint64_t count = 0;
  for (size_t i = 0; i < size; ++i) {
    check(digits[i] >= '0' && digits[i] <= '9', "experience: expected a count");
    count = count * 10 + static_cast<uint64_t>(digits[i] - '0');
  }
  check(count <= Learner::kMostLessons, "experience: expected a count");
  return count;
}

void check_unused_bits(std::span<const uint64_t> rows, int channels, const char* what) {
  const auto words = static_cast<size_t>(words_for(channels));
  uint64_t unused = 0;
  for (size_t i = words - 1; i < rows.size(); i += words) unused |= rows[i] & ~last_word_mask(channels);
  check(unused == 0, what);
}

// Latents, and what goes with them: features, then zeros.
void check_rows(std::span<const uint64_t> rows, size_t latent_words, size_t row_words, size_t features) {
  const int channels = static_cast<int>(features);
  for (size_t first = 0; first < rows.size(); first += row_words) {
    check_unused_bits(rows.subspan(first, latent_words), channels, "replay.rows: expected unused bits to be 0");
    const auto* bytes = reinterpret_cast<const int8_t*>(rows.data() + first + latent_words);
    const size_t count = (row_words - latent_words) * sizeof(uint64_t);
    for (size_t j = 0; j < count; ++j) check(j < features ? bytes[j] >= -127 : bytes[j] == 0, "replay.rows: expected features in -127..127");
  }
}

void check_labels(std::span<const uint16_t> labels, std::span<const uint64_t> seen) {
  Buffer<uint32_t> counts(seen.size(), 0);
  for (const uint16_t label : labels) {
    check(label < seen.size(), "replay.labels: expected classes that were taught");
    ++counts[label];
  }
  for (size_t c = 0; c < seen.size(); ++c) {
    check(seen[c] >= 1 && seen[c] <= UINT32_MAX && counts[c] <= seen[c], "replay.seen: expected at least 1, and no fewer than rows are stored");
  }
}

Integers take_integers(File& file, const char* name, std::initializer_list<int64_t> shape) {
  if (file.holds<int64_t>(name)) return {{}, file.take<int64_t>(name, shape)};
  return {file.take<int32_t>(name, shape), {}};
}

// What LDA is made from.
void read_sums(File& file, int64_t width, std::span<const uint64_t> seen, Content& to) {
  const auto classes = static_cast<int64_t>(seen.size());
  to.count = file.take<int64_t>("head.count", {classes});
  to.sums = take_integers(file, "head.feature_sum", {classes, width});
  to.moment = take_integers(file, "head.moment", {width * (width + 1) / 2});
  to.saturated = file.take<int64_t>("head.saturated", {1})[0];

  int64_t rows = 0;
  for (size_t c = 0; c < seen.size(); ++c) {
    const int64_t n = to.count[c];
    check(n >= 1 && static_cast<uint64_t>(n) <= seen[c], "head.count: expected at least one row of each class, and no more than were seen");
    rows += n;
  }
  for (size_t i = 0; i < to.sums.size(); ++i) {
    const int64_t most = 127 * to.count[i / static_cast<size_t>(width)];
    check(to.sums[i] >= -most && to.sums[i] <= most, "head.feature_sum: expected sums of features in -127..127");
  }
  check(to.saturated >= 0 && to.saturated <= rows * width, "head.saturated: expected a count of features");
  const int64_t square = 127 * 127 * rows;
  size_t k = 0;
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = i; j < width; ++j, ++k) {
      check(to.moment[k] >= (i == j ? 0 : -square) && to.moment[k] <= square, "head.moment: expected sums of products of features in -127..127");
    }
  }
}

void read_block(File& file, size_t i, TailBlock& block) {
  TailBlock::each_kept(block, [&]<class T>(const char* name, Buffer<T>& to, [[maybe_unused]] int32_t most) {
    const auto values = file.take<T>(Name("tail", i, name), {static_cast<int64_t>(to.size())});
    if constexpr (std::is_signed_v<T>) {
      for (const T v : values) check(v >= -most && v <= most, "tail: expected smaller magnitudes");
    } else {
      check_unused_bits(values, block.forward.channels, "tail: bits: expected unused bits to be 0");
    }
    std::copy(values.begin(), values.end(), to.begin());
  });
  block.restored();
}

}  // namespace

StateHead::StateHead(const File& file) : settings(read_settings(file.json("settings"))), names(file.json("names")), experience(read_experience(file)), wide_moment(file.holds<int64_t>("head.moment")) {
  check(names.is_list(), "names: expected a list");
  for (Entries entries(names); entries.next(); ++classes) {
    check(entries.value.is_string() && classes < static_cast<size_t>(settings.max_classes), "names: expected at most max_classes texts");
    name_bytes += entries.value.copy(nullptr, 0);
  }
  if (!kTrainsTail && settings.train_blocks > 0) fail(Error::unsupported, "state: settings: train_blocks: this build trains the head alone");
  if (settings.train_blocks > static_cast<int>(kMaxTrainedBlocks)) {
    fail(Error::unsupported, "state: settings: train_blocks: at most {} are trained on a device", {kMaxTrainedBlocks});
  }
}

void measure_learner(const StateHead& head, const NetworkSize& network, Room& room) {
  const uint64_t classes = head.settings.max_classes, capacity = head.settings.capacity, width = static_cast<uint64_t>(network.features);
  room.add(capacity * (network.latent_words + (head.settings.views > 1 ? (width + 7) / 8 : 0)), sizeof(uint64_t));
  room.add(capacity, sizeof(uint16_t));
  room.add(classes, sizeof(uint64_t));
  if (head.settings.head == HeadKind::lda) {
    const auto known = static_cast<uint64_t>(head.settings.lda_width(network.features));
    room.add(classes, sizeof(int64_t));
    room.add(classes * known, sizeof(int64_t));
    room.add(known * (known + 1) / 2, sizeof(int32_t));
    if (head.wide_moment) room.add(known * (known + 1) / 2, sizeof(int64_t));
    room.add(known, sizeof(int32_t));
    room.add(classes * known, sizeof(int16_t));
    room.add(classes, sizeof(int64_t));
  } else {
    room.add(classes * width, sizeof(int32_t));
    room.add(classes, sizeof(uint32_t));
  }
  if (head.settings.train_blocks > 0) room.add(classes * width, sizeof(int32_t));
  room.add(classes, sizeof(uint32_t));
  room.add(head.name_bytes + kNameBytes * (classes - head.classes));
}

void read_state(File& file, const StateHead& head, std::span<const TailSource> sources, DeviceLearner& to) {
  const Settings& settings = head.settings;
  const int features = to.network.feature_count();
  const auto classes = static_cast<int64_t>(head.classes);
  const int64_t rows = file.length("replay.labels");
  check(rows <= static_cast<int64_t>(settings.capacity), "replay.rows: expected no more than the capacity");
  Content content;
  content.experience = head.experience;
  content.seen = file.take<uint64_t>("replay.seen", {classes});
  const size_t latent_words = to.network.latent_words(), row_words = latent_words + Learner::further_words(to.network, settings.views);
  content.rows = file.take<uint64_t>("replay.rows", {rows, static_cast<int64_t>(row_words)});
  content.labels = file.take<uint16_t>("replay.labels", {rows});
  check_labels(content.labels, content.seen);
  check_rows(content.rows, latent_words, row_words, static_cast<size_t>(features));
  const auto mixing = file.take<int64_t>("head.mixing", {2});
  for (const int64_t weight : mixing) check(weight >= 0 && weight <= kMostMixing, "head.mixing: expected smaller weights, none negative");
  content.mixing = {mixing[0], mixing[1]};
  const int known = settings.lda_width(features);
  check(known <= features, "settings: lda_features: expected at most the features of the model");
  if (settings.head == HeadKind::lda) {
    read_sums(file, known, content.seen, content);
  } else {
    content.weight = file.take<int32_t>("head.weight", {classes, features});
    content.past_count = file.take<uint32_t>("head.past_count", {classes});
  }
  if (!sources.empty()) content.tail_weight = file.take<int32_t>("tail.weight", {classes, features});
  to.carries_model = !file.take_bytes("model").empty();

  to.learner.emplace(to.network, settings, sources);
  Learner& learner = *to.learner;
  const auto most = static_cast<size_t>(settings.max_classes);
  learner.reserve(most);
  to.names.reserve(most, head.name_bytes + kNameBytes * (most - head.classes));
  check(to.names.add(head.names), "names: expected different names");
  learner.restore(content);
  for (size_t i = 0; i < sources.size(); ++i) read_block(file, i, learner.tail().blocks()[i]);
  file.finish();
}

}  // namespace bitreplay
