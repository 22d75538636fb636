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
  const int64_t classes = head.settings.max_classes, width = network.features;
  const auto add = [&](int64_t count, int64_t bytes) { room.add(static_cast<uint64_t>(count), static_cast<uint64_t>(bytes)); };
  each_replay_buffer(head.settings, width, static_cast<int64_t>(network.latent_words), head.settings.capacity, classes, add);
  each_head_buffer(head.settings, width, false, classes, add);
  if (wide_moment) add(static_cast<int64_t>(triangle(head.settings.lda_width(network.features))), sizeof(int64_t));  // read behind the other
  if (head.settings.train_blocks > 0) add(classes * width, sizeof(int32_t));
  add(classes, sizeof(uint32_t));
  room.add(head.name_bytes + kNameBytes * (static_cast<size_t>(classes) - head.classes));
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
  for (size_t i = 0; i < learner.tail().blocks().size(); ++i) {
    TailBlock& block = learner.tail().blocks()[i];
    TailBlock::each_kept(block, [&]<class T>(const char* name, Buffer<T>& kept, int32_t most) {
      std::ranges::copy(take_kept<T>(file, Name("tail", i, name), kept.size(), most, block.forward.channels), kept.begin());
    });
    block.restored();
  }
  file.finish();
}

size_t write_state(const DeviceLearner& from, uint8_t* buffer, size_t size) {
  const Content content = from.learner->content();
  Tensor room[kStateTensors + kBlockTensors * kMaxTrainedBlocks];
  Tensors tensors(room);
  add_content(tensors, from.settings, content, from.network);
  if (from.carries_model) tensors.add("model", from.model);
  add_tail(tensors, from.learner->tail());
  return write_state(tensors, from.settings, from.names, content.experience, from.model_digest, buffer, size);
}

}  // namespace bitreplay
