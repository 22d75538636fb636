#include "settings.h"

#include "error.h"

namespace bitreplay {

const char* conflict(const Settings& settings) {
  if (settings.capacity == 0 && settings.train_blocks > 0) {
    return "train_blocks: expected 0 with capacity 0, since a tail is trained on replayed rows; give it a replay memory";
  }
  if (settings.head != HeadKind::lda && settings.lda_features != 0) return "lda_features: expected 0 with head cwr";
  if (settings.head != HeadKind::lda && settings.class_priors) return "class_priors: expected False with head cwr";
  return nullptr;
}

void check(const Settings& settings) {
  for_each_setting(settings, [](const Setting& setting, auto value) {
    const auto number = static_cast<uint64_t>(value);
    if (setting.kind == SettingKind::one_of) {
      require(setting.allows(number), "{}: expected another number, got {}", {setting.name, number});
    } else {
      require(setting.allows(number), "{}: expected {} to {}, got {}", {setting.name, setting.least, setting.most, number});
    }
  });
  if (const char* what = conflict(settings)) fail(Error::argument, "{}", {what});
}

}  // namespace bitreplay
