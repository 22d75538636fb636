#include "state.h"

namespace bitreplay {

void add_content(Tensors& tensors, const Settings& settings, const Content& content, const Network& network) {
  const uint64_t classes = content.seen.size(), rows = content.labels.size(), width = static_cast<uint64_t>(network.feature_count());
  tensors.add("head.mixing", std::span<const int64_t>(&content.mixing.frozen, 2), {2});
  if (settings.head == HeadKind::lda) {
    const auto known = static_cast<uint64_t>(settings.lda_width(network.feature_count()));
    const auto add = [&](const char* name, const Integers& values, std::initializer_list<uint64_t> shape) {
      if (values.narrow.empty()) return tensors.add_compact(name, values.wide, shape);
      tensors.add_compact(name, values.narrow, shape);
    };
    tensors.add("head.count", content.count, {classes});
    add("head.feature_sum", content.sums, {classes, known});
    add("head.moment", content.moment, {known * (known + 1) / 2});
    tensors.add("head.saturated", std::span<const int64_t>(&content.saturated, 1), {1});
  } else {
    tensors.add("head.past_count", content.past_count, {classes});
    tensors.add("head.weight", content.weight, {classes, width});
  }
  tensors.add("replay.labels", content.labels, {rows});
  tensors.add("replay.rows", content.rows, {rows, network.latent_words() + static_cast<size_t>(settings.further_words(network.feature_count()))});
  tensors.add("replay.seen", content.seen, {classes});
  if (settings.train_blocks > 0) tensors.add("tail.weight", content.tail_weight, {classes, width});
}

void add_tail(Tensors& tensors, const Tail& tail) {
  for (size_t i = 0; i < tail.blocks().size(); ++i) {
    TailBlock::each_kept(tail.blocks()[i], [&]<class T>(const char* name, const Buffer<T>& values, int32_t) {
      tensors.add(Name("tail", i, name), std::span<const T>(values.data(), values.size()), {values.size()});
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
