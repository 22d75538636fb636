// The C API over the core.
#include "bitreplay.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include "boundary.h"
#include "device_learner.h"
#include "network/views.h"

using namespace bitreplay;

static_assert(std::endian::native == std::endian::little, "files are little-endian");

struct bitreplay_learner : DeviceLearner {
  using DeviceLearner::DeviceLearner;
};

struct bitreplay_unknown {
  Unknown value;
  int64_t threshold;
};

namespace {

constexpr size_t kMaxImages = size_t{1} << 24;
constexpr size_t kSlack = kBufferAlignment;    // of an allocation, at most, for its alignment
constexpr size_t kLearnBuffers = 72;           // live at a time, at most, without those of a tail's blocks
constexpr size_t kBlockBuffers = 24;

// Everything that bitreplay_kept_size and bitreplay_open need of both files before any memory is taken.
struct Files {
  File model, state;
  StateHead head;
  Room room;
  NetworkSize size;

  Files(const void* model_bytes, size_t model_size, const void* state_bytes, size_t state_size)
      : model(model_bytes, model_size, "model", "model"), state(state_bytes, state_size, "state", "state"), head(state) {
    require_supported(head.settings);
    room.add(sizeof(bitreplay_learner));
    size = measure_network(model, static_cast<size_t>(head.settings.train_blocks), head.settings.weight_bits, room);
    measure_learner(head, state.holds<int64_t>("head.moment"), size, room);
  }
};

// Most classes that may be known: where a tail is trained, every class has a row.
uint64_t most_classes(const Settings& settings) {
  return settings.train_blocks > 0 ? std::min<uint64_t>(settings.capacity, settings.max_classes) : settings.max_classes;
}

void require_aligned(const void* model, const void* state) {
  for (const void* file : {model, state}) {
    require(file != nullptr && reinterpret_cast<uintptr_t>(file) % 8 == 0, "files: expected at multiples of 8");
  }
}

void copy_digest(const File& file, DeviceLearner& to, const StateHead& head) {
  if (std::memcmp(head.model, file.digest(), 64) != 0) fail(Error::format, "state: made for another model");
  std::memcpy(to.model_digest, file.digest(), sizeof to.model_digest);
}

// What a lesson teaches: a class for each picture, and which pictures open a class.
struct Labels {
  List<int32_t> labels;
  List<uint32_t> fresh;  // pictures whose names are new

  Labels(const bitreplay_learner& learner, const char* const* names, size_t count) : labels(count) {
    const size_t known = learner.names.size();
    size_t bytes = 0;
    fresh.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      if (names[i] == nullptr || !is_name(names[i])) {
        fail(Error::argument, "names: {}: expected UTF-8 of a name (docs/formats.md, State)", {i});
      }
      const std::string_view name = names[i];
      size_t label = learner.names.find(name);
      if (label == known) {
        while (label - known < fresh.size() && name != names[fresh[label - known]]) ++label;
        if (label - known == fresh.size()) {
          fresh.push_back(static_cast<uint32_t>(i));
          bytes += name.size();
        }
      }
      labels[i] = static_cast<int32_t>(label);
    }
    const uint64_t most = most_classes(learner.settings);
    if (known + fresh.size() > most) fail(Error::classes, "names: expected at most {} classes in all", {most});
    if (bytes > learner.names.bytes_left()) fail(Error::classes, "names: {} bytes too many", {bytes - learner.names.bytes_left()});
  }
};

void check_lesson(const bitreplay_learner& learner, const uint8_t* images, size_t count, const char* const* names) {
  const uint64_t limit = learner.settings.lesson_images == 0 ? kMaxImages : learner.settings.lesson_images;
  require(images != nullptr && names != nullptr, "images: expected pictures and names");
  require(count >= 1 && count <= limit, "images: expected 1 to {} a lesson, got {}", {limit, count});
  require(learner.learner->experience() < Learner::kMostLessons, "lessons: at most {}", {Learner::kMostLessons});
  for (const uint64_t seen : learner.learner->replay().seen()) {
    require(seen + count <= UINT32_MAX, "images: at most {} of a class", {int64_t{UINT32_MAX}});
  }
}

void note(const bitreplay_learner& learner, const Arena& work) {
  learner.work_used = std::max(learner.work_used, work.used_peak());
  learner.work_counted = std::max(learner.work_counted, work.counted_peak());
}

}  // namespace

extern "C" {

const char* bitreplay_status_text(bitreplay_status status) {
  switch (status) {
    case BITREPLAY_OK: return "all went well";
    case BITREPLAY_ARGUMENT: return "an argument does not fit";
    case BITREPLAY_FORMAT: return "a file is damaged, of another version, or not for this model";
    case BITREPLAY_NO_ROOM: return "a region or buffer is too small";
    case BITREPLAY_CLASSES: return "more classes or longer names than there is room for";
    case BITREPLAY_CANCELLED: return "the lesson was given up";
    case BITREPLAY_UNSUPPORTED: return "the files need something that this build does not include";
  }
  return "no such status";
}

const char* bitreplay_last_error(void) { return g_boundary.text; }

bitreplay_status bitreplay_sizes(const void* model, size_t model_size, const void* state, size_t state_size, size_t* kept_size, size_t* work_size) {
  Arena none;
  return guarded(none, [&] {
    require_aligned(model, state);
    const Files files(model, model_size, state, state_size);
    const uint64_t total = files.room.total() + kBufferAlignment - 1;
    if (total > PTRDIFF_MAX) fail(Error::memory, "memory: {} bytes are more than can be addressed", {total});
    *kept_size = static_cast<size_t>(total);
    const int64_t opening = Footprint::opening(files.head.settings, files.size.features, static_cast<int64_t>(files.head.classes));
    *work_size = opening > 0 ? static_cast<size_t>(opening) + 16 * kSlack : 0;
  });
}

bitreplay_status bitreplay_open(void* memory, size_t size, void* work, size_t work_size, const void* model, size_t model_size, const void* state,
                                size_t state_size, bitreplay_learner** learner) {
  Arena arena(memory, size), working(work, work_size);
  volatile bool files_lie_well = false;
  const bitreplay_status status = guarded(arena, [&] {
    require_aligned(model, state);
    files_lie_well = true;
    Files files(model, model_size, state, state_size);
    const uint64_t needed = files.room.total();  // before anything is sized by it: on 32 bits sizes could wrap
    if (needed > size) fail(Error::memory, "memory: expected {} bytes, got {}", {needed, size});
    files.model.verify();
    files.state.verify();
    auto* opened = new (allocate_bytes(sizeof(bitreplay_learner))) bitreplay_learner(files.size.image_size, files.head.settings);
    copy_digest(files.model, *opened, files.head);
    opened->model = files.model.content();
    TailSource sources[kMaxTrainedBlocks];
    const std::span trained(sources, static_cast<size_t>(files.head.settings.train_blocks));
    read_network(files.model, opened->network, trained);
    read_state(files.state, files.head, trained, *opened);
    opened->kept = arena;
    Arena::current = &working;
    opened->learner->prepare();
    note(*opened, working);
    *learner = opened;
  });
  return status == BITREPLAY_ARGUMENT && files_lie_well ? BITREPLAY_FORMAT : status;  // what the core refuses is the files' fault
}

size_t bitreplay_image_side(const bitreplay_learner* learner) { return static_cast<size_t>(learner->network.image_size()); }
size_t bitreplay_image_size(const bitreplay_learner* learner) { return learner->network.image_bytes(); }
size_t bitreplay_class_count(const bitreplay_learner* learner) { return learner->names.size(); }
size_t bitreplay_class_limit(const bitreplay_learner* learner) { return static_cast<size_t>(most_classes(learner->settings)); }
uint64_t bitreplay_lessons(const bitreplay_learner* learner) { return learner->learner->experience(); }

const char* bitreplay_class_name(const bitreplay_learner* learner, size_t class_number, size_t* length) {
  if (class_number >= learner->names.size()) return nullptr;
  const std::string_view name = learner->names[class_number];
  *length = name.size();
  return name.data();
}

size_t bitreplay_learn_size(const bitreplay_learner* learner, size_t images) {
  const auto capacity = static_cast<int64_t>(learner->settings.capacity), classes = static_cast<int64_t>(learner->settings.max_classes);
  const auto blocks = static_cast<size_t>(learner->settings.train_blocks);
  const int64_t buffers = learner->learner->footprint().lesson({capacity, capacity, static_cast<int64_t>(images), classes, 1});
  return static_cast<size_t>(buffers) + images * (sizeof(int32_t) + sizeof(uint32_t)) + sizeof(Scratch) + blocks * (sizeof(TailBlock) + kBlockBuffers * kSlack) +
         kLearnBuffers * kSlack;
}

bitreplay_status bitreplay_learn(bitreplay_learner* learner, void* work, size_t work_size, const uint8_t* images, size_t count,
                                 const char* const* names, bitreplay_progress progress, void* user) {
  Arena arena(work, work_size);
  const bitreplay_status status = guarded(arena, [&] {
    check_lesson(*learner, images, count, names);
    const Labels lesson(*learner, names, count);
    const size_t classes = learner->names.size() + lesson.fresh.size();
    const auto report = [&](Phase phase, uint64_t done, uint64_t total) {
      return progress == nullptr || progress(user, static_cast<int>(phase), done, total) == 0;
    };
    Workers alone(1);
    learner->learner->learn({images, count * learner->network.image_bytes()}, lesson.labels, classes, alone, report);
    for (const uint32_t i : lesson.fresh) learner->names.add(names[i]);
  });
  note(*learner, arena);
  return status;
}

size_t bitreplay_predict_size(const bitreplay_learner* learner) {
  const auto classes = static_cast<int64_t>(most_classes(learner->settings));
  return static_cast<size_t>(learner->learner->footprint().prediction(1, kMostViews, 1, classes)) + sizeof(Scratch) +
         static_cast<size_t>(learner->network.feature_count()) * sizeof(int64_t) + 16 * kSlack;
}

void bitreplay_unknown_sizes(const bitreplay_learner* learner, size_t* kept_size, size_t* work_size) {
  const Footprint footprint = learner->learner->footprint();
  const auto rows = static_cast<int64_t>(learner->learner->replay().size()), classes = static_cast<int64_t>(learner->names.size());
  *kept_size = sizeof(bitreplay_unknown) + static_cast<size_t>(footprint.unknown(rows)) + 6 * kSlack;
  *work_size = static_cast<size_t>(footprint.making_unknown(rows, classes)) + sizeof(Scratch) + 48 * kSlack;
}

bitreplay_status bitreplay_unknown_make(const bitreplay_learner* learner, void* memory, size_t size, void* work, size_t work_size, int32_t share_q15,
                                        bitreplay_unknown** unknown) {
  Arena kept(memory, size), working(work, work_size);
  return guarded(working, [&] {
    require(share_q15 > 0 && share_q15 < 1 << 15, "share_q15: expected 1 to 32767");
    require(learner->names.size() > 0, "unknown: expected a known class; learn first");
    Workers alone(1);
    const Unknown made = learner->learner->unknown(alone);
    require(made.rows() > 0, "unknown: expected a remembered row of a class with two pictures or more");
    Arena::current = &kept;
    *unknown = new (allocate_bytes(sizeof(bitreplay_unknown))) bitreplay_unknown{made, made.threshold(static_cast<double>(share_q15) / (1 << 15))};
    Arena::current = &working;
  });
}

bitreplay_status bitreplay_predict(const bitreplay_learner* learner, void* work, size_t work_size, const bitreplay_unknown* unknown, const uint8_t* image, int views,
                                   int32_t* probabilities_q15, size_t count, bitreplay_answer* answer) {
  Arena arena(work, work_size);
  const bitreplay_status status = guarded(arena, [&] {
    const size_t classes = learner->names.size();
    require(classes > 0, "predict: expected a known class; learn first");
    require(image != nullptr && answer != nullptr, "predict: expected a picture and an answer");
    require(probabilities_q15 == nullptr || count == classes, "probabilities_q15: {}, not {}", {classes, count});
    int32_t best = 0;
    int64_t familiarity = 0;
    require(views == 0 || are_views(views), "views: expected 0, 1, 2 or 6");
    Workers alone(1);
    learner->learner->predict({image, learner->network.image_bytes()}, views == 0 ? learner->settings.views : views,
                              {{&best, 1}, {probabilities_q15, probabilities_q15 == nullptr ? 0 : count}, unknown == nullptr ? nullptr : &unknown->value,
                               {&familiarity, 1}}, alone);
    *answer = {static_cast<size_t>(best), unknown != nullptr && familiarity < unknown->threshold};
  });
  note(*learner, arena);
  return status;
}

size_t bitreplay_state_size(const bitreplay_learner* learner) {
  Arena none;
  size_t bytes = 0;
  guarded(none, [&] { bytes = write_state(*learner, nullptr, 0); });
  return bytes;
}

bitreplay_status bitreplay_save(const bitreplay_learner* learner, void* buffer, size_t size, size_t* written) {
  Arena none;
  return guarded(none, [&] {
    const size_t needed = write_state(*learner, nullptr, 0);
    if (needed > size || buffer == nullptr) fail(Error::memory, "buffer: expected {} bytes, got {}", {needed, size});
    *written = write_state(*learner, static_cast<uint8_t*>(buffer), size);
  });
}

bitreplay_memory bitreplay_memory_used(const bitreplay_learner* learner) {
  return {learner->kept.used_peak(), learner->work_used, static_cast<size_t>(learner->kept.counted_peak()),
          static_cast<size_t>(learner->work_counted)};
}

}  // extern "C"
