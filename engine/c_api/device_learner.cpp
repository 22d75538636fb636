#include "device_learner.h"

#include <algorithm>

namespace bitreplay {

void require_supported(const Settings& settings) {
  if (!kTrainsTail && settings.train_blocks > 0) fail(Error::unsupported, "state: settings: train_blocks: this build trains the head alone");
  if (settings.train_blocks > static_cast<int>(kMaxTrainedBlocks)) {
    fail(Error::unsupported, "state: settings: train_blocks: at most {} are trained on a device", {kMaxTrainedBlocks});
  }
}

void measure_learner(const StateHead& head, bool wide_moment, const NetworkSize& network, Room& room) {
  const uint64_t classes = head.settings.max_classes, capacity = head.settings.capacity, width = static_cast<uint64_t>(network.features);
  room.add(capacity * (network.latent_words + (head.settings.views > 1 ? (width + 7) / 8 : 0)), sizeof(uint64_t));
  room.add(capacity, sizeof(uint16_t));
  room.add(classes, sizeof(uint64_t));
  if (head.settings.head == HeadKind::lda) {
    const auto known = static_cast<uint64_t>(head.settings.lda_width(network.features));
    room.add(classes, sizeof(int64_t));
    room.add(classes * known, sizeof(int64_t));
    room.add(known * (known + 1) / 2, sizeof(int32_t));
    if (wide_moment) room.add(known * (known + 1) / 2, sizeof(int64_t));
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
  const Content content = read_content(file, head, to.network);
  to.carries_model = !file.take_bytes("model").empty();
  to.learner.emplace(to.network, head.settings, sources);
  Learner& learner = *to.learner;
  const auto most = static_cast<size_t>(head.settings.max_classes);
  learner.reserve(most);
  to.names.reserve(most, head.name_bytes + kNameBytes * (most - head.classes));
  if (!to.names.add(head.names)) fail(Error::format, "{}: names: expected at most {} different names", {file.where(), most});
  learner.restore(content);
  read_tail(file, head.settings, to.network, [&]<class T>(size_t i, const char* name, std::span<const T> values) {
    TailBlock::each_kept(learner.tail().blocks()[i], [&]<class U>(const char* own, Buffer<U>& buffer, int32_t) {
      if constexpr (std::is_same_v<T, U>) {
        if (std::strcmp(own, name) == 0) std::copy(values.begin(), values.end(), buffer.begin());
      }
    });
  });
  for (TailBlock& block : learner.tail().blocks()) block.restored();
  file.finish();
}

size_t write_state(const DeviceLearner& from, uint8_t* buffer, size_t size) {
  const Content content = from.learner->content();
  Tensor room[kStateTensors + kBlockTensors * kMaxTrainedBlocks];
  Tensors tensors(room);
  add_content(tensors, from.settings, content, from.network);
  if (from.carries_model) tensors.add("model", from.model, {from.model.size()});
  add_tail(tensors, from.learner->tail());
  return write_state(tensors, from.settings, from.names, content.experience, from.model_digest, buffer, size);
}

}  // namespace bitreplay
