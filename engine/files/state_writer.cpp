#include "state.h"

namespace bitreplay {

void add_content(Tensors& tensors, const Settings& settings, const Content& content, const Network& network) {
  tensors.add("head.mixing", std::span<const int64_t>(&content.mixing.frozen, 2));
  if (settings.head == HeadKind::lda) tensors.add("head.saturated", std::span<const int64_t>(&content.saturated, 1));
  each_array(content, settings, network, content.seen.size(), content.labels.size(),
             [&]<class T>(const char* name, const char*, bool has, const T& values, auto shape) {
               if (!has) return;
               if constexpr (!std::is_same_v<T, Integers>) {
                 tensors.add(name, values, shape);
               } else if (values.narrow.empty()) {
                 tensors.add_compact(name, values.wide, shape);
               } else {
                 tensors.add_compact(name, values.narrow, shape);
               }
             });
}

void add_tail(Tensors& tensors, const Tail& tail) {
  for (size_t i = 0; i < tail.blocks().size(); ++i) {
    TailBlock::each_kept(tail.blocks()[i], [&]<class T>(const char* name, const Buffer<T>& values, int32_t) {
      tensors.add(Name("tail", i, name), std::span<const T>(values));
    });
  }
}

size_t write_state(Tensors& tensors, const Settings& settings, const Names& names, uint64_t experience, const char* model, uint8_t* buffer,
                   size_t size) {
  tensors.arrange();
  const auto put_experience = [&](Output& out) { out.number(experience); };
  const auto put_model = [&](Output& out) { out.bytes(model, 64); };
  const auto put_names = [&](Output& out) {
    out.character('[');
    for (size_t i = 0; i < names.size(); ++i) {
      const std::string_view name = names[i];
      out.inside(i == 0 ? "\"" : ", \"");
      out.inside(Text(name.data(), name.data() + name.size()), 2);
      out.inside("\"");
    }
    out.character(']');
  };
  const auto put_settings = [&](Output& out) { write_settings(settings, out); };
  return write_file("state", {{"experience", put_experience}, {"model", put_model}, {"names", put_names}, {"settings", put_settings}}, tensors,
                    buffer, size);
}

}  // namespace bitreplay
