// Checks of the C API: check_device MODEL STATE PIXELS ROUNDS NAME...  One lesson of the pictures under these names is learned in
// every way that can fail: files cut at hundreds of places, bytes changed at random under a digest that fits, regions of many
// sizes too small.  No call may touch the heap, write outside of its regions, or change a learner when it fails.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "c_api/bitreplay.h"
#include "files/sha256.h"
#include "random.h"

namespace {

bool g_inside = false;  // a call of the C API

void heap(const char* name) {
  if (!g_inside) return;
  std::fputs(name, stderr);
  std::fputs(" called inside the C API\n", stderr);
  std::abort();
}

}  // namespace

extern "C" {
void* __real_malloc(size_t);
void* __real_calloc(size_t, size_t);
void* __real_realloc(void*, size_t);
void* __real_aligned_alloc(size_t, size_t);
int __real_posix_memalign(void**, size_t, size_t);
void __real_free(void*);
void* __wrap_malloc(size_t n) { return heap("malloc"), __real_malloc(n); }
void* __wrap_calloc(size_t n, size_t m) { return heap("calloc"), __real_calloc(n, m); }
void* __wrap_realloc(void* p, size_t n) { return heap("realloc"), __real_realloc(p, n); }
void* __wrap_aligned_alloc(size_t a, size_t n) { return heap("aligned_alloc"), __real_aligned_alloc(a, n); }
int __wrap_posix_memalign(void** p, size_t a, size_t n) { return heap("posix_memalign"), __real_posix_memalign(p, a, n); }
void __wrap_free(void* p) { heap("free"), __real_free(p); }
}

namespace {

using Bytes = std::vector<uint8_t>;

[[noreturn]] void stop(const std::string& what) {
  std::fprintf(stderr, "check_device: %s: %s\n", what.c_str(), bitreplay_last_error());
  std::exit(1);
}

void expect(bool condition, const std::string& what) {
  if (!condition) stop(what);
}

template <class F>
auto inside(const F& f) {
  g_inside = true;
  const auto result = f();
  g_inside = false;
  return result;
}

Bytes read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  expect(file.good(), path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A region of just that size, at a multiple of 8, so that the sanitizers see every byte outside of it.
class Region {
 public:
  explicit Region(size_t size) : memory_(static_cast<uint8_t*>(std::malloc(std::max<size_t>(size, 1)))) { std::memset(memory_, 0xa5, size); }
  explicit Region(const Bytes& bytes) : Region(bytes.size()) { std::copy(bytes.begin(), bytes.end(), memory_); }
  Region(Region&& other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}
  Region& operator=(Region&& other) noexcept { return std::swap(memory_, other.memory_), *this; }
  ~Region() { std::free(memory_); }
  void* data() { return memory_; }

 private:
  uint8_t* memory_;
};

struct Lesson {
  Bytes pixels;
  std::vector<const char*> names;
};

struct Device {
  Region model, state;
  size_t model_size, state_size;
  Region kept{0};
  bitreplay_learner* learner = nullptr;

  Device(const Bytes& m, const Bytes& s) : model(m), state(s), model_size(m.size()), state_size(s.size()) {}

  bitreplay_status open(size_t missing = 0) {
    size_t size = 0, work_size = 0;
    const bitreplay_status asked =
        inside([&] { return bitreplay_sizes(model.data(), model_size, state.data(), state_size, &size, &work_size); });
    if (asked != BITREPLAY_OK) return asked;
    if (size > (size_t{1} << 28) || work_size > (size_t{1} << 28)) return BITREPLAY_NO_ROOM;  // a damaged capacity
    size -= std::min(size, missing);
    kept = Region(size);
    Region work(work_size);
    return inside([&] {
      return bitreplay_open(kept.data(), size, work.data(), work_size, model.data(), model_size, state.data(), state_size, &learner);
    });
  }
  bitreplay_status learn(const Lesson& lesson, size_t missing = 0, bitreplay_progress progress = nullptr) {
    const size_t size = bitreplay_learn_size(learner, lesson.names.size());
    Region work(size - std::min(size, missing));
    return inside([&] {
      return bitreplay_learn(learner, work.data(), size - std::min(size, missing), lesson.pixels.data(), lesson.names.size(),
                             lesson.names.data(), progress, learner);
    });
  }
  bitreplay_status predict(const Lesson& lesson, size_t missing = 0) {
    const size_t size = bitreplay_predict_size(learner), classes = bitreplay_class_count(learner);
    Region work(size - std::min(size, missing));
    std::vector<int32_t> probabilities(classes);
    bitreplay_answer answer{};
    const auto status = inside([&] {
      return bitreplay_predict(learner, work.data(), size - std::min(size, missing), nullptr, lesson.pixels.data(), 2, probabilities.data(), classes, &answer);
    });
    expect(status != BITREPLAY_OK || answer.best < classes, "predict: a class that is there");
    return status;
  }
  Bytes save() {
    Bytes out(inside([&] { return bitreplay_state_size(learner); }));
    size_t written = 0;
    expect(inside([&] { return bitreplay_save(learner, out.data(), out.size(), &written); }) == BITREPLAY_OK, "save");
    expect(written == out.size(), "save: the size that was said");
    const Bytes kept_file = out;
    expect(inside([&] { return bitreplay_save(learner, out.data(), out.size() - 1, &written); }) == BITREPLAY_NO_ROOM, "save: too small a buffer");
    expect(out == kept_file, "save: a buffer that is too small keeps what was in it");
    expect(inside([&] { return bitreplay_save(learner, out.data(), out.size(), &written); }) == BITREPLAY_OK, "save again");
    return out;
  }
};

// Gives a changed file the digest that fits, where its place is still there.
void sign(Bytes& file, const Bytes& original) {
  const std::string key = "\"digest\":\"";
  const auto at = std::search(original.begin(), original.end(), key.begin(), key.end()) - original.begin() + static_cast<long>(key.size());
  if (at + 64 > static_cast<long>(file.size())) return;
  std::fill_n(file.begin() + at, 64, '0');
  bitreplay::Sha256 sha;
  sha.add(file.data(), file.size());
  sha.hex(reinterpret_cast<char*>(file.data()) + at);
}

// Other calls from within a lesson are refused, and do it no harm.
int calls_again(void* user, int, uint64_t, uint64_t) {
  const auto* learner = static_cast<const bitreplay_learner*>(user);
  uint8_t byte = 0;
  size_t written = 0;
  expect(bitreplay_save(learner, &byte, 1, &written) == BITREPLAY_ARGUMENT && bitreplay_state_size(learner) == 0, "a call within a call");
  return 0;
}

int give_up(void*, int phase, uint64_t done, uint64_t) { return phase == 1 && done > 0; }

}  // namespace

int main(int argc, char** argv) {
  expect(argc >= 5, "expected MODEL STATE PIXELS ROUNDS NAME...");
  const Bytes model = read(argv[1]), state = read(argv[2]);
  Lesson lesson{read(argv[3]), {argv + 5, argv + argc}};
  const int rounds = std::atoi(argv[4]);

  Device sound(model, state);
  expect(sound.open() == BITREPLAY_OK, "open");
  const size_t classes = bitreplay_class_count(sound.learner);
  Lesson wrong = lesson;

  // What fails changes nothing.
  const Bytes before = sound.save();
  expect(before == state, "save gives what was opened");
  expect(sound.learn(lesson, 0, give_up) == BITREPLAY_CANCELLED, "learn: given up");
  for (const char* name : {"", "\n", "\x7f", "\xc2\x85", "\xff", "\xc0\xaf", "\xed\xa0\x80", "..", " ", "\xe2\x80\xae", "\xe2\x80\x8b"}) {
    wrong.names.back() = name;
    expect(sound.learn(wrong) == BITREPLAY_ARGUMENT, "learn: no name");
  }
  const std::string endless(1 << 20, 'a');
  wrong.names.back() = endless.c_str();
  expect(sound.learn(wrong) == BITREPLAY_ARGUMENT, "learn: a name without end");
  wrong.names.clear();
  expect(sound.learn(wrong) == BITREPLAY_ARGUMENT, "learn: nothing");
  const size_t work = bitreplay_learn_size(sound.learner, lesson.names.size());
  int short_of = 0;
  for (size_t missing = work; missing > 0; missing -= std::min(missing, work / 60 + 1)) {
    const bitreplay_status status = sound.learn(lesson, missing);
    if (status == BITREPLAY_OK) break;
    ++short_of;
    expect(status == BITREPLAY_NO_ROOM && sound.save() == before && bitreplay_class_count(sound.learner) == classes, "learn: too small a region");
  }
  expect(short_of > 10, "learn: regions that are too small");
  Device second(model, before);
  for (size_t missing = 1; missing < 64; ++missing) {
    const bitreplay_status status = second.open(missing);  // bytes for alignment may not be needed
    expect(status == BITREPLAY_OK || status == BITREPLAY_NO_ROOM, "open: a region that is a little too small");
  }
  for (size_t missing = 64; missing < 5000; missing += 97) expect(second.open(missing) == BITREPLAY_NO_ROOM, "open: too small a region");

  // What goes well.
  Device fresh(model, state);
  expect(fresh.open() == BITREPLAY_OK, "open again");
  const size_t asked_first = bitreplay_predict_size(fresh.learner);
  expect(fresh.learn(lesson, 0, calls_again) == BITREPLAY_OK && fresh.predict(lesson) == BITREPLAY_OK, "a lesson");
  expect(bitreplay_predict_size(fresh.learner) == asked_first, "predict_size: asked once, for all classes to come");
  const Bytes after = fresh.save();
  expect(fresh.learn(lesson) == BITREPLAY_OK, "another");
  Device resumed(model, after);
  expect(resumed.open() == BITREPLAY_OK && resumed.learn(lesson) == BITREPLAY_OK, "a lesson after opening again");
  expect(resumed.save() == fresh.save(), "stopping changes nothing");

  // Damage.  The content is read to its last byte; so every cut and every change without a new digest is found.
  int refused = 0, opened = 0;
  const auto attack = [&](const Bytes& m, const Bytes& s, bool must_fail) {
    Device device(m, s);
    const bitreplay_status status = device.open();
    expect(!must_fail || status == BITREPLAY_FORMAT || status == BITREPLAY_NO_ROOM || status == BITREPLAY_UNSUPPORTED, "damage: found");
    status == BITREPLAY_OK ? ++opened : ++refused;
    if (status != BITREPLAY_OK) return;
    device.save();
    if (bitreplay_image_size(device.learner) * lesson.names.size() != lesson.pixels.size()) return;
    if (bitreplay_learn_size(device.learner, lesson.names.size()) > size_t{1} << 28) return;
    const bitreplay_status learned = device.learn(lesson);
    expect(learned == BITREPLAY_OK || learned == BITREPLAY_ARGUMENT || learned == BITREPLAY_CLASSES, "damage: a lesson");
    if (learned == BITREPLAY_OK) device.predict(lesson);
  };
  const auto header = [](const Bytes& file) { return 8 + static_cast<size_t>(file[0] | file[1] << 8 | file[2] << 16); };
  for (size_t size = 0; size < after.size(); size += size < header(after) ? 1 : after.size() / 200 + 1) {
    attack(model, {after.begin(), after.begin() + static_cast<long>(size)}, true);
  }
  for (size_t size = 0; size < model.size(); size += size < header(model) ? 7 : model.size() / 50 + 1) {
    attack({model.begin(), model.begin() + static_cast<long>(size)}, after, true);
  }
  uint64_t number = 0;
  const auto random = [&](uint64_t n) { return static_cast<size_t>(bitreplay::below(n, bitreplay::draw(1, bitreplay::Purpose::variation, 0, number++))); };
  for (int round = 0; round < rounds; ++round) {
    Bytes m = model, s = after;
    const bool of_model = round % 3 == 0;
    Bytes& file = of_model ? m : s;
    const Bytes original = file;
    const size_t changes = 1 + random(3);
    for (size_t i = 0; i < changes; ++i) {
      const size_t at = random(2) == 0 ? random(file.size()) : 8 + random(header(original) - 8);
      static const char kMarks[] = "{}[]\",:0123456789-.eE\\u tfn";
      file[at] = random(2) == 0 ? static_cast<uint8_t>(kMarks[random(sizeof kMarks - 1)]) : static_cast<uint8_t>(random(256));
    }
    if (file == original) continue;
    const bool resign = random(8) != 0;
    if (resign) sign(file, original);
    if (of_model && resign) {  // the state shall name this model
      const std::string key = "\"digest\":\"", name = "\"model\":\"";
      const auto from = std::search(m.begin(), m.end(), key.begin(), key.end());
      const auto to = std::search(s.begin(), s.end(), name.begin(), name.end());
      if (from != m.end() && m.end() - from > 80) std::copy_n(from + static_cast<long>(key.size()), 64, to + static_cast<long>(name.size()));
      sign(s, after);
    }
    attack(m, s, !resign);
  }
  std::printf("check_device: %d damaged files refused, %d opened; regions too small in %d steps; no heap\n", refused, opened, short_of);
  return 0;
}
