#include "settings.h"

#include "error.h"

namespace bitreplay {
namespace {

bool read(const Setting& setting, const Json& json, uint64_t& value) {
  if (setting.kind == SettingKind::head) {
    for (value = 0; value <= setting.most; ++value) {
      if (json.equals(kHeadNames[value])) return true;
    }
    return false;
  }
  bool flag = false, negative = false;
  if (setting.kind == SettingKind::flag) {
    value = json.boolean(flag) && flag;
    return json.boolean(flag);
  }
  return json.whole(negative, value) && (!negative || value == 0) && setting.allows(value);
}

}  // namespace

Settings read_settings(const Json& object) {
  Settings settings;
  for (Entries entries(object); entries.next();) {
    bool known = false;
    for_each_setting(settings, [&](const Setting& setting, const auto&) { known = known || entries.key.equals(setting.name); });
    if (!known) fail(Error::format, "state: settings: one of them is not known");
  }
  for_each_setting(settings, [&]<class T>(const Setting& setting, T& field) {
    uint64_t value = 0;
    if (!read(setting, object.find(setting.name), value)) fail(Error::format, "state: settings: {}: missing or out of range", {setting.name});
    field = static_cast<T>(value);
  });
  if (const char* what = conflict(settings)) fail(Error::format, "state: settings: {}", {what});
  return settings;
}

const char* setting_text(SettingKind kind, uint64_t value, char* scratch) {
  if (kind == SettingKind::flag) return value != 0 ? "true" : "false";
  if (kind == SettingKind::head) return value != 0 ? "\"cwr\"" : "\"lda\"";
  char* at = scratch + 23;
  *at = '\0';
  do *--at = static_cast<char>('0' + value % 10);
  while ((value /= 10) != 0);
  return at;
}

}  // namespace bitreplay
