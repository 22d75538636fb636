#include "settings.h"

#include "error.h"
#include "network/views.h"

namespace bitreplay {
namespace {

enum class Kind : uint8_t { whole, flag, scaled8, scaled16, images, weight_bits, views, head };

// In the order of their names.
enum Index {
  kCapacity, kClassPriors, kEpochs, kForwardBits, kGhosts, kGradientBits, kHead, kHeldBack, kLdaFeatures, kLearningRate, kLessonImages, kLiveBatch, kMaxClasses, kNearEqual,
  kParameterStep, kPriorCorrection, kPseudoPictures, kReplayBatch, kSeed, kShrinkage, kSignReset, kTailDistillation, kTailEpochs, kTailMirror,
  kTailNoise, kTailPasses, kTailPrior, kTailReplayBatch, kTrainBlocks, kViews, kWeightBits, kWeightStep,
};

struct Row {
  const char* name;
  Kind kind;
  uint64_t low, high;  // of the value; where it has fraction bits, of value * 2^bits
};

constexpr Row kRows[] = {
    {"capacity", Kind::whole, 0, 1 << 24},
    {"class_priors", Kind::flag, 0, 1},
    {"epochs", Kind::whole, 1, 10'000},
    {"forward_bits", Kind::whole, 2, 16},
    {"ghosts", Kind::whole, 0, 1024},
    {"gradient_bits", Kind::whole, 2, 16},
    {"head", Kind::head, 0, 1},
    {"held_back", Kind::scaled8, 0, 1 << 7},
    {"lda_features", Kind::whole, 0, 65'535},
    {"learning_rate", Kind::scaled16, 1, 4 << 16},
    {"lesson_images", Kind::images, 1, 1 << 24},
    {"live_batch", Kind::whole, 1, 256},
    {"max_classes", Kind::whole, 1, 65'535},
    {"near_equal", Kind::scaled16, 0, 1 << 15},
    {"parameter_step", Kind::whole, 0, 20},
    {"prior_correction", Kind::flag, 0, 1},
    {"pseudo_pictures", Kind::scaled8, 0, 1000 << 8},
    {"replay_batch", Kind::whole, 1, 256},
    {"seed", Kind::whole, 0, UINT64_MAX},
    {"shrinkage", Kind::scaled8, 1, 64 << 8},
    {"sign_reset", Kind::flag, 0, 1},
    {"tail_distillation", Kind::flag, 0, 1},
    {"tail_epochs", Kind::whole, 1, 10'000},
    {"tail_mirror", Kind::flag, 0, 1},
    {"tail_noise", Kind::whole, 0, 128},
    {"tail_passes", Kind::whole, 1, 10'000},
    {"tail_prior", Kind::scaled8, 0, 1 << 8},
    {"tail_replay_batch", Kind::whole, 1, 256},
    {"train_blocks", Kind::whole, 0, 256},
    {"views", Kind::views, 1, kMostViews},
    {"weight_bits", Kind::weight_bits, 1, 16},
    {"weight_step", Kind::whole, 1, 20},
};
constexpr const char* kHeads[] = {"lda", "cwr"};
static_assert(sizeof kRows / sizeof kRows[0] == DeviceSettings::kCount);

// Doubles a fraction, given by its decimals; returns what passes the point.
uint32_t double_fraction(uint8_t* digits, int count) {
  uint32_t carry = 0;
  for (int i = count; i-- > 0;) {
    carry += 2u * digits[i];
    digits[i] = static_cast<uint8_t>(carry % 10);
    carry /= 10;
  }
  return carry;
}

// round(x * 2^bits), half to even, for the double x nearest to the number, as Python has it; false unless low <= x * 2^bits <= high.
bool scale(const char* number, int bits, uint64_t low, uint64_t high, uint64_t& result) {
  constexpr int kDigits = 32, kZeros = 32;
  uint8_t fraction[kZeros + kDigits] = {};
  uint8_t digits[kDigits];
  int count = 0, point = 0, exponent = 0;  // 0.digits * 10^point
  const bool negative = *number == '-';
  bool behind = false, zero = true;
  for (number += negative; *number != '\0' && (*number | 0x20) != 'e'; ++number) {
    if (*number == '.') {
      behind = true;
      continue;
    }
    zero = zero && *number == '0';
    if (zero) {
      point -= behind;
    } else {
      if (count == kDigits) return false;
      digits[count++] = static_cast<uint8_t>(*number - '0');
      point += !behind;
    }
  }
  if (*number != '\0') {
    const bool down = *++number == '-';
    for (number += *number == '-' || *number == '+'; *number != '\0'; ++number) exponent = exponent < 1000 ? exponent * 10 + (*number - '0') : exponent;
    exponent = down ? -exponent : exponent;
  }
  result = 0;
  if (zero) return low == 0;
  point += exponent;
  if (negative || point > 6) return false;
  if (point < -kZeros) return low == 0;
  uint64_t mantissa = 0;  // 53 bits
  for (int i = 0; i < point; ++i) mantissa = mantissa * 10 + (i < count ? digits[i] : 0);
  int places = 0;
  for (int i = point; i < 0; ++i) fraction[places++] = 0;
  for (int i = point > 0 ? point : 0; i < count; ++i) fraction[places++] = digits[i];
  int halvings = 0;
  for (; mantissa >> 52 == 0; ++halvings) mantissa = mantissa << 1 | double_fraction(fraction, places);
  const bool half = double_fraction(fraction, places) != 0;
  bool rest = false;
  for (int i = 0; i < places; ++i) rest = rest || fraction[i] != 0;
  mantissa += half && (rest || (mantissa & 1) != 0);

  const int shift = halvings - bits;  // 52 - 20 - 16 at least
  if (shift > 60) return low == 0;
  result = mantissa >> shift;
  const uint64_t left = mantissa & ((uint64_t{1} << shift) - 1), middle = uint64_t{1} << (shift - 1);
  if (result < low || result > high || (result == high && left != 0)) return false;
  result += left > middle || (left == middle && (result & 1) != 0);
  return true;
}

bool read(const Row& row, const Json& json, uint64_t& value, char* number) {
  bool flag, negative;
  switch (row.kind) {
    case Kind::flag:
      if (!json.boolean(flag)) return false;
      value = flag;
      return true;
    case Kind::scaled8:
    case Kind::scaled16:
      return json.number(number, sizeof DeviceSettings::numbers[0]) && scale(number, row.kind == Kind::scaled8 ? 8 : 16, row.low, row.high, value);
    case Kind::head:
      value = json.equals(kHeads[1]);
      return value == 1 || json.equals(kHeads[0]);
    case Kind::images:
      value = 0;
      if (json.is_null()) return true;
      break;
    default:
      break;
  }
  if (!json.whole(negative, value) || (negative && value != 0) || value < row.low || value > row.high) return false;
  if (row.kind == Kind::views) return are_views(static_cast<int>(value));
  return row.kind != Kind::weight_bits || value == 1 || value == 8 || value == 16;
}

}  // namespace

DeviceSettings::DeviceSettings(const Json& object) {
  for (Entries entries(object); entries.next();) {
    bool known = false;
    for (const Row& row : kRows) known = known || entries.key.equals(row.name);
    if (!known) fail(Error::format, "state: settings: one of them is not known");
  }
  for (int i = 0; i < kCount; ++i) {
    const Row& row = kRows[i];
    const Json json = object.find(row.name);
    if (!json.exists() || !read(row, json, values[i], numbers[i])) fail(Error::format, "state: settings: {}: missing or out of range", {row.name});
  }
  if (values[kTrainBlocks] > 0 && values[kCapacity] == 0) fail(Error::format, "state: settings: train_blocks: expected 0 with capacity 0");
  if (values[kHead] != 0 && (values[kLdaFeatures] | values[kClassPriors]) != 0) fail(Error::format, "state: settings: lda_features, class_priors: expected none with head cwr");
  const auto integer = [&](Index i) { return static_cast<int>(values[i]); };
  capacity = values[kCapacity];
  seed = values[kSeed];
  lesson_images = values[kLessonImages];
  max_classes = values[kMaxClasses];
  const auto wide = [&](Index i) { return static_cast<int64_t>(values[i]); };
  const auto flag = [&](Index i) { return values[i] != 0; };
  lesson.head = flag(kHead) ? HeadKind::cwr : HeadKind::lda;
  lesson.views = integer(kViews);
  lesson.lda_features = integer(kLdaFeatures);
  lesson.class_priors = flag(kClassPriors);
  lesson.shrinkage = wide(kShrinkage);
  lesson.pseudo_pictures = wide(kPseudoPictures);
  lesson.near_equal = wide(kNearEqual);
  lesson.held_back = wide(kHeldBack);
  lesson.learning_rate = wide(kLearningRate);
  lesson.epochs = integer(kEpochs);
  lesson.live_batch = integer(kLiveBatch);
  lesson.replay_batch = integer(kReplayBatch);
  lesson.ghosts = integer(kGhosts);
  lesson.prior = flag(kPriorCorrection);
  lesson.tail_epochs = integer(kTailEpochs);
  lesson.tail_passes = integer(kTailPasses);
  lesson.tail_replay_batch = integer(kTailReplayBatch);
  lesson.tail_prior = integer(kTailPrior);
  lesson.tail_noise = integer(kTailNoise);
  lesson.tail_mirror = flag(kTailMirror);
  lesson.tail_distillation = flag(kTailDistillation);
  tail.blocks = integer(kTrainBlocks);
  tail.forward_bits = integer(kForwardBits);
  tail.gradient_bits = integer(kGradientBits);
  tail.weight_bits = integer(kWeightBits);
  tail.weight_step = integer(kWeightStep);
  tail.parameter_step = integer(kParameterStep);
  tail.sign_reset = flag(kSignReset);
}

const char* DeviceSettings::name(int i) { return kRows[i].name; }

const char* DeviceSettings::text(int i, char* scratch) const {
  switch (kRows[i].kind) {
    case Kind::flag: return values[i] != 0 ? "true" : "false";
    case Kind::scaled8:
    case Kind::scaled16: return numbers[i];
    case Kind::head: return values[i] != 0 ? "\"cwr\"" : "\"lda\"";
    case Kind::images:
      if (values[i] == 0) return "null";
      break;
    default: break;
  }
  char* at = scratch + 27;
  *at = '\0';
  uint64_t rest = values[i];
  do *--at = static_cast<char>('0' + rest % 10);
  while ((rest /= 10) != 0);
  return at;
}

}  // namespace bitreplay
