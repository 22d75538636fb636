#include <algorithm>

#include "bits.h"
#include "state.h"

namespace bitreplay {
namespace {

// Whether values fit; else the file's fault.
class Checker {
 public:
  explicit Checker(const File& file) : where_(file.where()) {}
  void operator()(bool condition, const char* format, std::initializer_list<MessagePart> parts = {}) const {
    if (condition) [[likely]] return;
    char text[160];
    format_message(text, sizeof text, format, parts);
    fail(Error::format, "{}: {}", {where_, text});
  }

 private:
  const char* where_;
};

uint64_t read_experience(const File& file) {
  char digits[10];
  const Json word = file.word("experience");
  const size_t size = word.is_string() ? word.copy(digits, sizeof digits) : 0;
  bool fit = size > 0 && size <= sizeof digits;
  uint64_t count = 0;
  for (size_t i = 0; fit && i < size; ++i) {
    fit = digits[i] >= '0' && digits[i] <= '9';
    count = count * 10 + static_cast<uint64_t>(digits[i] - '0');
  }
  if (!fit || count > Learner::kMostLessons) fail(Error::format, "{}: experience: expected a count, got {}", {file.where(), Excerpt(word).text()});
  return count;
}

bool has_unused_bits(std::span<const uint64_t> rows, int channels) {
  const auto words = static_cast<size_t>(words_for(channels));
  uint64_t unused = 0;
  for (size_t i = words - 1; i < rows.size(); i += words) unused |= rows[i] & ~last_word_mask(channels);
  return unused != 0;
}

// Latents, and what goes with them: features, then zeros.
// A row: its latent, bits or without a cut features, and with several views features behind it.
void check_rows(const Checker& check, std::span<const uint64_t> rows, size_t row_words, const Network& network) {
  const size_t latent_words = network.latent_words(), features = static_cast<size_t>(network.feature_count());
  const size_t feature_words = (features + sizeof(uint64_t) - 1) / sizeof(uint64_t);
  for (size_t first = 0; first < rows.size(); first += row_words) {
    check(!network.has_cut() || !has_unused_bits(rows.subspan(first, latent_words), network.feature_count()), "replay.rows: expected unused bits to be 0");
    for (size_t word = network.has_cut() ? latent_words : 0; word < row_words; word += feature_words) {
      const auto* bytes = reinterpret_cast<const int8_t*>(rows.data() + first + word);
      for (size_t j = 0; j < feature_words * sizeof(uint64_t); ++j) {
        check(j < features ? bytes[j] >= -127 : bytes[j] == 0, "replay.rows: expected features in -127..127");
      }
    }
  }
}

void check_labels(const Checker& check, std::span<const uint16_t> labels, std::span<const uint64_t> seen) {
  constexpr const char* kFault = "replay.labels: expected classes that were taught, with no more rows than were offered";
  Buffer<uint32_t> counts(seen.size(), 0);
  for (const uint16_t label : labels) {
    check(label < seen.size(), kFault);
    ++counts[label];
  }
  for (size_t c = 0; c < seen.size(); ++c) {
    check(seen[c] >= 1, "replay.seen: expected at least one picture of each class");
    check(seen[c] <= UINT32_MAX && counts[c] <= seen[c], kFault);
  }
}

Integers take_integers(File& file, const char* name, std::initializer_list<int64_t> shape) {
  if (file.holds<int64_t>(name)) return {{}, file.take<int64_t>(name, shape)};
  return {file.take<int32_t>(name, shape), {}};
}

// What LDA is made from.
void check_sums(const Checker& check, int64_t width, const Content& content) {
  int64_t rows = 0;
  for (size_t c = 0; c < content.seen.size(); ++c) {
    const int64_t n = content.count[c];
    check(n >= 1 && static_cast<uint64_t>(n) <= content.seen[c] && n <= int64_t{UINT32_MAX},
          "head.count: expected at least one row of each class, and no more than were seen");
    rows += n;
  }
  for (size_t i = 0; i < content.sums.size(); ++i) {
    const int64_t most = 127 * content.count[i / static_cast<size_t>(width)];
    check(content.sums[i] >= -most && content.sums[i] <= most, "head.feature_sum: expected sums of features in -127..127");
  }
  check(content.saturated >= 0 && content.saturated <= rows * width, "head.saturated: expected a count of features");
  const int64_t square = 127 * 127 * rows;
  size_t k = 0;
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = i; j < width; ++j, ++k) {
      check(content.moment[k] >= (i == j ? 0 : -square) && content.moment[k] <= square,
            "head.moment: expected sums of products of features in -127..127");
    }
  }
}

}  // namespace

StateHead::StateHead(const File& file) : settings(read_settings(file)), names(file.json("names")), experience(read_experience(file)) {
  const Checker check(file);
  const Json digest = file.word("model");
  bool fit = digest.is_string() && digest.copy(model, 64) == 64;
  for (size_t i = 0; fit && i < 64; ++i) fit = (model[i] >= '0' && model[i] <= '9') || (model[i] >= 'a' && model[i] <= 'f');
  check(fit, "model: expected a digest of 64 hexadecimal digits, got {}", {Excerpt(digest).text()});
  fit = names.is_list();
  for (Entries entries(names); fit && entries.next(); ++classes) {
    fit = entries.value.is_string() && classes < static_cast<size_t>(settings.max_classes);
    if (fit) name_bytes += entries.value.copy(nullptr, 0);
  }
  check(fit, kNamesFault, {settings.max_classes});
}

template <class T>
std::span<const T> take_kept(File& file, const char* name, size_t count, [[maybe_unused]] int64_t most, int channels) {
  const auto values = file.take<T>(name, {static_cast<int64_t>(count)});
  if constexpr (std::is_signed_v<T>) {
    const bool fit = std::ranges::all_of(values, [&](int64_t v) { return v >= -most && v <= most; });
    if (!fit) fail(Error::format, "{}: tensor {}: expected magnitudes up to {}", {file.where(), name, most});
  } else if (has_unused_bits(values, channels)) {
    fail(Error::format, "{}: tensor {}: expected unused bits to be 0", {file.where(), name});
  }
  return values;
}
template std::span<const uint64_t> take_kept(File&, const char*, size_t, int64_t, int);
template std::span<const int8_t> take_kept(File&, const char*, size_t, int64_t, int);
template std::span<const int16_t> take_kept(File&, const char*, size_t, int64_t, int);
template std::span<const int32_t> take_kept(File&, const char*, size_t, int64_t, int);

Content read_content(File& file, const StateHead& head, const Network& network) {
  const Checker check(file);
  const Settings& settings = head.settings;
  const int features = network.feature_count();
  const size_t tail = network.tail().size();
  check(static_cast<size_t>(settings.train_blocks) <= tail, "train_blocks: expected at most {}, the blocks behind the cut of the model, got {}",
        {tail, settings.train_blocks});
  const int known = settings.lda_width(features);
  check(known <= features, "settings: lda_features: expected at most the {} features of the model, got {}", {features, known});
  const int64_t rows = file.length("replay.labels");
  check(rows <= static_cast<int64_t>(settings.capacity), "replay.rows: expected at most {}, got {}", {settings.capacity, rows});
  Content content;
  content.experience = head.experience;
  each_array(content, settings, network, head.classes, static_cast<size_t>(rows), [&]<class T>(const char* name, const char*, bool has, T& field, auto shape) {
    if (!has) return;
    if constexpr (std::is_same_v<T, Integers>) {
      field = take_integers(file, name, shape);
    } else {
      field = file.take<std::remove_const_t<typename T::element_type>>(name, shape);
    }
  });
  const auto mixing = file.take<int64_t>("head.mixing", {2});
  for (const int64_t weight : mixing) check(weight >= 0 && weight <= kMostMixing, "head.mixing: expected weights from 0 to {}", {kMostMixing});
  content.mixing = {mixing[0], mixing[1]};
  if (settings.head == HeadKind::lda) {
    content.saturated = file.take<int64_t>("head.saturated", {1})[0];
    check_sums(check, known, content);
  }
  check_labels(check, content.labels, content.seen);
  check_rows(check, content.rows, network.latent_words() + static_cast<size_t>(settings.further_words(features)), network);
  return content;
}

}  // namespace bitreplay
