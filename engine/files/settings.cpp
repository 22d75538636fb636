#include "settings.h"

#include <algorithm>

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

// What `read` takes, for messages.
class Allowed {
 public:
  explicit Allowed(const Setting& setting) {
    if (setting.kind == SettingKind::flag) {
      add("true or false");
    } else if (setting.kind == SettingKind::head) {
      add("lda or cwr");
    } else if (setting.kind == SettingKind::word) {
      add("0 to 2^64 - 1");
    } else if (setting.kind != SettingKind::one_of) {
      add("{} to {}", {setting.least, setting.most});
    } else {
      uint64_t last = 63;
      while (!setting.allows(last)) --last;
      for (uint64_t value = 0; value <= last; ++value) {
        if (setting.allows(value)) add(at_ == 0 ? "{}" : value == last ? " or {}" : ", {}", {value});
      }
    }
  }
  const char* text() const { return text_; }

 private:
  void add(const char* format, std::initializer_list<MessagePart> parts = {}) { at_ += format_message(text_ + at_, sizeof text_ - at_, format, parts) - 1; }
  char text_[64];
  size_t at_ = 0;
};

// Not inline: its callers are unrolled over the list of settings.
[[gnu::noinline]] uint64_t value_of(const File& file, const Json& object, const Setting& setting) {
  uint64_t value = 0;
  const Json found = object.find(setting.name);
  if (!found.exists()) fail(Error::format, "{}: settings: expected {}, which is missing", {file.where(), setting.name});
  if (!read(setting, found, value)) {
    fail(Error::format, "{}: {}: expected {}, got {}", {file.where(), setting.name, Allowed(setting).text(), Excerpt(found).text()});
  }
  return value;
}

[[gnu::noinline]] void write_setting(const Setting& setting, uint64_t value, const char* before, Output& out) {
  out.inside(before);
  out.text(setting.name);
  out.inside("\": ");
  if (setting.kind == SettingKind::flag) return out.text(value != 0 ? "true" : "false");
  if (setting.kind != SettingKind::head) return out.number(value);
  out.inside("\"");
  out.text(kHeadNames[value]);
  out.inside("\"");
}

}  // namespace

Settings read_settings(const File& file) {
  const Json object = file.json("settings");
  Settings settings;
  if (!object.is_object()) fail(Error::format, "{}: settings: expected an object, got {}", {file.where(), Excerpt(object).text()});
  for (Entries entries(object); entries.next();) {
    const bool known = std::ranges::any_of(kSettings, [&](const Setting& setting) { return entries.key.equals(setting.name); });
    if (!known) fail(Error::format, "{}: settings: expected no {}; install the bitreplay that wrote it", {file.where(), Excerpt(entries.key).text()});
  }
  for_each_setting(settings, [&]<class T>(const Setting& setting, T& field) { field = static_cast<T>(value_of(file, object, setting)); });
  if (const char* what = conflict(settings)) fail(Error::format, "{}: {}", {file.where(), what});
  return settings;
}

void write_settings(const Settings& settings, Output& out) {
  const char* before = "{\"";
  for_each_setting(settings, [&](const Setting& setting, auto value) {
    write_setting(setting, static_cast<uint64_t>(value), before, out);
    before = ", \"";
  });
  out.character('}');
}

}  // namespace bitreplay
