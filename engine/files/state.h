// A state file (docs/formats.md, State): read as views of its bytes, all of them checked, and written from what a learner or a joined state
// holds.  Makes no learner.
#pragma once

#include <algorithm>

#include "file.h"
#include "learn/learner.h"
#include "names.h"
#include "settings.h"
#include "writer.h"

namespace bitreplay {

// The metadata of a state that are needed before all else.
struct StateHead {
  explicit StateHead(const File& file);

  Settings settings;
  Json names;  // strings, at most max_classes; see Names
  size_t classes = 0, name_bytes = 0;
  uint64_t experience = 0;
  char model[65] = {};       // digest of the model it was taught on
};

// The arrays of a state, once: f(name in the file, name of the field, whether a state with these settings has it, field, shape).
template <class C, class F>
void each_array(C& content, const Settings& settings, const Network& network, size_t class_count, size_t row_count, const F& f) {
  using Sizes = std::initializer_list<int64_t>;
  const bool lda = settings.head == HeadKind::lda, tail = settings.train_blocks > 0;
  const auto classes = static_cast<int64_t>(class_count), rows = static_cast<int64_t>(row_count), words = static_cast<int64_t>(network.latent_words());
  const int64_t width = network.feature_count(), known = lda ? settings.lda_width(network.feature_count()) : 0;
  const int64_t summed = lda ? classes : 0, weighed = lda ? 0 : classes;
  f("replay.seen", "seen", true, content.seen, Sizes{classes});
  f("replay.rows", "rows", true, content.rows, Sizes{rows, words + settings.further_words(network.feature_count())});
  f("replay.labels", "labels", true, content.labels, Sizes{rows});
  f("head.count", "count", lda, content.count, Sizes{summed});
  f("head.feature_sum", "sums", lda, content.sums, Sizes{summed, known});
  f("head.moment", "moment", lda, content.moment, Sizes{known * (known + 1) / 2});
  f("head.weight", "weight", !lda, content.weight, Sizes{weighed, width});
  f("head.past_count", "past_count", !lda, content.past_count, Sizes{weighed});
  f("tail.weight", "tail_weight", tail, content.tail_weight, Sizes{tail ? classes : 0, width});
}

// Every value but those of the trained blocks, checked; views of the file.
Content read_content(File& file, const StateHead& head, const Network& network);

// The values of a tensor of a trained block, checked.
template <class T>
std::span<const T> take_kept(File& file, const char* name, size_t count, int64_t most, int channels);

// f(block, name, values) for each value of each trained block, checked.
template <class F>
void read_tail(File& file, const Settings& settings, const Network& network, const F& f) {
  const auto blocks = network.tail().last(static_cast<size_t>(settings.train_blocks));
  for (size_t i = 0; i < blocks.size(); ++i) {
    TailBlock::each_kept_of(blocks[i], settings.weight_bits, [&]<class T>(const char* name, size_t count, int32_t most) {
      f(i, name, take_kept<T>(file, Name("tail", i, name), count, most, blocks[i].channels));
    });
  }
}

// A state to be written: its tensors are added to `tensors`, whose values stay where they are until it is written.
void add_content(Tensors& tensors, const Settings& settings, const Content& content, const Network& network);
void add_tail(Tensors& tensors, const Tail& tail);
// Tensors of a state without trained blocks, and of one.
inline constexpr size_t kStateTensors = 10, kBlockTensors = 9;

// As write_file, of `tensors` as they are arranged then; model: digest of 64 digits.
size_t write_state(Tensors& tensors, const Settings& settings, const Names& names, uint64_t experience, const char* model, uint8_t* buffer,
                   size_t size);

}  // namespace bitreplay
