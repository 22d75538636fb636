// Every setting of a learner, once; what each means: Settings of src/bitreplay/settings.py.  The fields below, their checks, what a state holds and what the
// binding takes follow from this list; a test holds Python's fields and defaults to it.
#pragma once

#include <cstdint>

namespace bitreplay {

// What names rows without training the network: sums of their features, or the papers' trained head.
enum class HeadKind : uint8_t { lda, cwr };
inline constexpr const char* kHeadNames[] = {"lda", "cwr"};

enum class SettingKind : uint8_t {
  count,       // least to most
  word,        // any 64 bits
  flag,
  one_of,      // one of the numbers whose bits are set in `most`
  head,        // a HeadKind, by its name
  fraction8,   // a fraction in units of 2^-8
  fraction16,  // in units of 2^-16
};

template <SettingKind kind>
constexpr auto empty_value() {
  if constexpr (kind == SettingKind::word) return uint64_t{};
  else if constexpr (kind == SettingKind::flag) return bool{};
  else if constexpr (kind == SettingKind::head) return HeadKind{};
  else if constexpr (kind == SettingKind::fraction8 || kind == SettingKind::fraction16) return int64_t{};
  else return int{};
}

// By name, in the order of a state file: kind, name, initial value, least, most.
#define BITREPLAY_SETTINGS(SETTING)                                  \
  SETTING(count, capacity, 1500, 0, 1 << 24)                         \
  SETTING(flag, class_priors, false, 0, 1)                           \
  SETTING(count, epochs, 5, 1, 10'000)                               \
  SETTING(count, forward_bits, 16, 2, 16)                            \
  SETTING(count, ghosts, 8, 0, 1024)                                 \
  SETTING(count, gradient_bits, 16, 2, 16)                           \
  SETTING(head, head, HeadKind::lda, 0, 1)                           \
  SETTING(fraction8, held_back, 32, 0, 128)                          \
  SETTING(count, lda_features, 0, 0, 65'535)                         \
  SETTING(fraction16, learning_rate, 1311, 1, 4 << 16)               \
  SETTING(count, lesson_images, 0, 0, 1 << 24)                       \
  SETTING(count, live_batch, 50, 1, 256)                             \
  SETTING(count, max_classes, 256, 1, 65'535)                        \
  SETTING(fraction16, near_equal, 6554, 0, 1 << 15)                  \
  SETTING(count, parameter_step, 0, 0, 20)                           \
  SETTING(flag, prior_correction, true, 0, 1)                        \
  SETTING(fraction8, pseudo_pictures, 5 << 8, 0, 1000 << 8)          \
  SETTING(count, replay_batch, 64, 1, 256)                           \
  SETTING(word, seed, 0, 0, UINT64_MAX)                              \
  SETTING(fraction8, shrinkage, 128, 1, 64 << 8)                     \
  SETTING(flag, tail_distillation, true, 0, 1)                       \
  SETTING(count, tail_epochs, 2, 1, 10'000)                          \
  SETTING(flag, tail_mirror, true, 0, 1)                             \
  SETTING(count, tail_noise, 26, 0, 128)                             \
  SETTING(count, tail_passes, 40, 1, 10'000)                         \
  SETTING(fraction8, tail_prior, 128, 0, 256)                        \
  SETTING(count, tail_replay_batch, 128, 1, 256)                     \
  SETTING(count, train_blocks, 0, 0, 256)                            \
  SETTING(one_of, views, 1, 1, 1 << 1 | 1 << 2 | 1 << 6)             \
  SETTING(one_of, weight_bits, 8, 1, 1 << 1 | 1 << 8 | 1 << 16)      \
  SETTING(count, weight_step, 5, 1, 20)

struct Settings {
#define BITREPLAY_FIELD(kind, name, initial, least, most) decltype(empty_value<SettingKind::kind>()) name = initial;
  BITREPLAY_SETTINGS(BITREPLAY_FIELD)
#undef BITREPLAY_FIELD

  // How many of the network's features LDA looks at.
  int lda_width(int features) const { return lda_features == 0 ? features : lda_features; }
  // Words of a remembered row behind its latent: with several views the means of their features, as bytes.
  int further_words(int features) const { return views > 1 ? (features + 7) / 8 : 0; }
};

struct Setting {
  const char* name;
  SettingKind kind;
  uint64_t least, most;

  // Whether a number may stand there.
  bool allows(uint64_t value) const {
    return kind == SettingKind::one_of ? value < 64 && (most >> value & 1) != 0 : value >= least && value <= most;
  }
};

inline constexpr Setting kSettings[] = {
#define BITREPLAY_ENTRY(kind, name, initial, least, most) {#name, SettingKind::kind, least, most},
    BITREPLAY_SETTINGS(BITREPLAY_ENTRY)
#undef BITREPLAY_ENTRY
};

// f(setting, value) for each: what it is, and the field itself.
template <class S, class F>
void for_each_setting(S& settings, const F& f) {
  const Setting* setting = kSettings;
#define BITREPLAY_VISIT(kind, name, initial, least, most) f(*setting++, settings.name);
  BITREPLAY_SETTINGS(BITREPLAY_VISIT)
#undef BITREPLAY_VISIT
}

// What does not go together, or null.
const char* conflict(const Settings& settings);

// Leaves by `fail` where a value is out of its range, or where some do not go together.
void check(const Settings& settings);

}  // namespace bitreplay
