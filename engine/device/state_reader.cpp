#include <algorithm>

#include "../bits.h"
#include "state.h"

namespace bitreplay {
namespace {

constexpr int32_t kMaxOffset = (1 << 23) - 1;

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

void check_sums(std::span<const int64_t> sums, std::span<const uint64_t> seen, size_t width) {
  for (size_t i = 0; i < sums.size(); ++i) {
    const auto most = static_cast<int64_t>(127 * seen[i / width]);
    check(sums[i] >= -most && sums[i] <= most, "head.feature_sum: expected sums of features in -127..127");
  }
}

template <class T>
void read_values(File& file, size_t i, const char* name, int64_t limit, Buffer<T>& to) {
  if (to.empty()) return;
  const auto values = file.take<T>(Name("tail", i, name), {static_cast<int64_t>(to.size())});
  if constexpr (std::is_signed_v<T>) {
    for (const T v : values) check(v >= -limit && v <= limit, "tail: expected smaller magnitudes");
  }
  std::copy(values.begin(), values.end(), to.begin());
}

void read_block(File& file, size_t i, int weight_bits, TailBlock& block) {
  if (weight_bits == 1) {
    read_values(file, i, "bits", 0, block.bits);
    check_unused_bits({block.bits.data(), block.bits.size()}, block.forward.channels, "tail: bits: expected unused bits to be 0");
  }
  read_values(file, i, "shadow", INT8_MAX, block.shadow8);
  read_values(file, i, "shadow", INT16_MAX, block.shadow16);
  read_values(file, i, "multiplier", INT32_MAX, block.multiplier);
  read_values(file, i, "bias", 1 << 29, block.bias);
  read_values(file, i, "threshold", kMaxOffset, block.threshold);
  read_values(file, i, "alpha", kMaxOffset, block.alpha);
  read_values(file, i, "beta", kMaxOffset, block.beta);
  read_values(file, i, "high", INT32_MAX, block.high);
  read_values(file, i, "low", INT32_MAX, block.low);
  block.restored();
}

}  // namespace

StateHead::StateHead(const File& file) : settings(file.json("settings")), names(file.json("names")), experience(read_experience(file)) {
  check(names.is_list(), "names: expected a list");
  for (Entries entries(names); entries.next(); ++classes) {
    check(entries.value.is_string() && classes < settings.max_classes, "names: expected at most max_classes texts");
    name_bytes += entries.value.copy(nullptr, 0);
  }
  if (!kTrainsTail && settings.tail.blocks > 0) fail(Error::unsupported, "state: settings: train_blocks: this build trains the head alone");
  if (settings.tail.blocks > static_cast<int>(kMaxTrainedBlocks)) {
    fail(Error::unsupported, "state: settings: train_blocks: at most {} are trained on a device", {kMaxTrainedBlocks});
  }
}

void measure_learner(const StateHead& head, const NetworkSize& network, Room& room) {
  const uint64_t classes = head.settings.max_classes, capacity = head.settings.capacity, width = static_cast<uint64_t>(network.features);
  room.add(capacity * network.latent_words, sizeof(uint64_t));
  room.add(capacity, sizeof(uint16_t));
  room.add(classes * width, sizeof(int32_t));
  room.add(classes, sizeof(uint32_t));
  room.add(classes * width, sizeof(int64_t));
  room.add(classes, sizeof(uint64_t));
  if (head.settings.tail.blocks > 0) room.add(classes * width, sizeof(int32_t));
  room.add(classes, sizeof(uint32_t));
  room.add(head.name_bytes + kNameBytes * (classes - head.classes));
}

void read_state(File& file, const StateHead& head, std::span<const TailSource> sources, DeviceLearner& to) {
  const DeviceSettings& settings = head.settings;
  const int features = to.network.feature_count();
  const auto classes = static_cast<int64_t>(head.classes);
  const int64_t rows = file.length("replay.labels");
  check(rows <= static_cast<int64_t>(settings.capacity), "replay.rows: expected no more than the capacity");
  const auto weight = file.take<int32_t>("head.weight", {classes, features});
  const auto past = file.take<uint32_t>("head.past_count", {classes});
  const auto sums = file.take<int64_t>("head.feature_sum", {classes, features});
  const auto seen = file.take<uint64_t>("replay.seen", {classes});
  const auto latents = file.take<uint64_t>("replay.rows", {rows, static_cast<int64_t>(to.network.latent_words())});
  const auto labels = file.take<uint16_t>("replay.labels", {rows});
  std::span<const int32_t> tail_weight;
  if (!sources.empty()) tail_weight = file.take<int32_t>("tail.weight", {classes, features});
  to.carries_model = !file.take_bytes("model").empty();
  check_labels(labels, seen);
  check_sums(sums, seen, static_cast<size_t>(features));
  check_unused_bits(latents, features, "replay.rows: expected unused bits to be 0");

  to.learner.emplace(to.network, static_cast<size_t>(settings.capacity), settings.seed, settings.lesson, settings.tail, sources);
  Learner& learner = *to.learner;
  const auto most = static_cast<size_t>(settings.max_classes);
  learner.reserve(most);
  to.names.reserve(most, head.name_bytes + kNameBytes * (most - head.classes));
  check(to.names.add(head.names), "names: expected different names");
  learner.restore(weight, past, sums, latents, labels, seen, tail_weight, head.experience);
  for (size_t i = 0; i < sources.size(); ++i) read_block(file, i, settings.tail.weight_bits, learner.tail().blocks()[i]);
  file.finish();
}

}  // namespace bitreplay
