// Python binding of the core: numpy layout, the interpreter lock, errors.  No algorithm, no default.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <unistd.h>

#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <unordered_set>
#include <utility>
#include <vector>

#include "files/model.h"
#include "files/state.h"
#include "learn/conv_trainer.h"
#include "kernels/kernels.h"
#include "learn/lda.h"
#include "learn/learner.h"
#include "network/views.h"
#include "workers.h"

namespace nb = nanobind;
using bitreplay::Learner;
using bitreplay::MemoryMeter;
using bitreplay::Network;
using bitreplay::Statistics;
using bitreplay::Unknown;
using bitreplay::Workers;

namespace {

template <class T, size_t Dims>
using Array = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;

template <class T>
using Flat = Array<T, 1>;

template <class A>
auto view(const A& array) {
  return std::span(array.data(), array.size());
}

// A thread that wants back into an interpreter that ends waits for ever, as it does from Python 3.14 on: those before would unwind its stack,
// which C++ answers by ending the process as if it had failed.
template <class F>
auto back(const F& enter) noexcept {
  try {
    return enter();
  } catch (...) {
    while (true) pause();
  }
}

// Other Python threads may run, up to `end` or its own.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;
  ~Unlocked() { end(); }
  void end() {
    if (PyThreadState* state = std::exchange(state_, nullptr)) back([&] { PyEval_RestoreThread(state); });
  }

 private:
  PyThreadState* state_;
};

class Locked {
 public:
  Locked() : state_(back([] { return PyGILState_Ensure(); })) {}
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
  ~Locked() { PyGILState_Release(state_); }

 private:
  PyGILState_STATE state_;
};

// A new numpy array that owns its memory.
template <class T>
struct Result {
  T* data;
  nb::object array;

  explicit Result(std::initializer_list<size_t> shape) {
    size_t count = 1;
    for (const size_t s : shape) count *= s;
    auto owner = std::make_unique_for_overwrite<T[]>(count);
    data = owner.get();
    nb::capsule capsule(owner.release(), [](void* p) noexcept { delete[] static_cast<T*>(p); });
    array = nb::cast(nb::ndarray<nb::numpy, T>(data, shape, capsule));
  }
  Result(std::span<const T> values, std::initializer_list<size_t> shape) : Result(shape) {
    std::copy(values.begin(), values.end(), data);
  }
};

// The upper triangle of the second moment by rows, int32 or int64.
nb::object moment_of(const Statistics& s) {
  const auto size = static_cast<size_t>(int64_t{s.width()} * (s.width() + 1) / 2);
  const auto [narrow, wide] = s.moment();
  return s.is_wide() ? Result<int64_t>(wide, {size}).array : Result<int32_t>(narrow, {size}).array;
}

struct Memory {
  Memory(size_t capacity, size_t words, size_t further, uint64_t s, int64_t n) : rows(capacity, words, further), seed(s), near(n) {}
  bitreplay::Replay rows;
  uint64_t seed;
  int64_t near;
};

// Calls progress(phase, done, total), which returns True to give up, and looks for Ctrl-C.
auto make_progress(const nb::object& progress) {
  return [&progress](bitreplay::Phase phase, uint64_t done, uint64_t total) {
    const Locked lock;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (progress.is_none()) return true;
    const char* name = phase == bitreplay::Phase::latents ? "latents" : phase == bitreplay::Phase::tail ? "tail" : "train";
    return !nb::cast<bool>(progress(name, done, total));
  };
}

nb::object latents_of(const Network& network, const Array<uint8_t, 4>& images) {
  const size_t rows = images.shape(0);
  Result<uint64_t> result({rows, network.latent_words()});
  Unlocked unlock;
  bitreplay::Scratch scratch = network.make_scratch();
  for (size_t i = 0; i < rows; ++i) network.latent(images.data() + i * network.image_bytes(), result.data + i * network.latent_words(), scratch);
  unlock.end();
  return result.array;
}

nb::object features_of(const Network& network, const Array<uint64_t, 2>& latents) {
  const size_t rows = latents.shape(0);
  const auto width = static_cast<size_t>(network.feature_count());
  Result<int8_t> result({rows, width});
  Unlocked unlock;
  bitreplay::Scratch scratch = network.make_scratch();
  for (size_t i = 0; i < rows; ++i) network.features(latents.data() + i * network.latent_words(), result.data + i * width, scratch);
  unlock.end();
  return result.array;
}

// Settings from numbers, flags and the name of the head, all of them there.
bitreplay::Settings settings_of(const nb::dict& values) {
  bitreplay::Settings settings;
  size_t count = 0;
  bitreplay::for_each_setting(settings, [&]<class T>(const bitreplay::Setting& setting, T& field) {
    if (!values.contains(setting.name)) throw std::invalid_argument(std::string("settings: expected ") + setting.name);
    const nb::object value = values[setting.name];
    if constexpr (std::is_same_v<T, bitreplay::HeadKind>) {
      field = nb::cast<std::string>(value) == bitreplay::kHeadNames[1] ? bitreplay::HeadKind::cwr : bitreplay::HeadKind::lda;
    } else {
      field = nb::cast<T>(value);
    }
    ++count;
  });
  if (count != values.size()) throw std::invalid_argument("settings: expected no others");
  return settings;
}

// Of each setting: name, kind, initial value, least, most; as the core takes them.
nb::list settings_table() {
  constexpr const char* kKinds[] = {"count", "word", "flag", "one_of", "head", "fraction8", "fraction16"};
  nb::list table;
  const bitreplay::Settings initial;
  bitreplay::for_each_setting(initial, [&](const bitreplay::Setting& setting, auto value) {
    table.append(nb::make_tuple(setting.name, kKinds[static_cast<int>(setting.kind)], static_cast<uint64_t>(value), setting.least, setting.most));
  });
  return table;
}

// -- files: bytes in, bytes out ---------------------------------------------------------------------------------------------------

// A file's bytes, and what messages call it.
struct Source {
  Source(const nb::object& content, const nb::str& name) {
    // A path may hold what is no UTF-8.
    where = nb::steal<nb::bytes>(PyUnicode_AsEncodedString(name.ptr(), "utf-8", "backslashreplace")).c_str();
    if (PyObject_GetBuffer(content.ptr(), &bytes, PyBUF_SIMPLE) != 0) throw nb::python_error();
    if (reinterpret_cast<uintptr_t>(bytes.buf) % 8 != 0) {
      PyBuffer_Release(&bytes);
      throw std::invalid_argument("content: expected bytes at a multiple of 8");
    }
  }
  ~Source() { PyBuffer_Release(&bytes); }
  Source(const Source&) = delete;

  Py_buffer bytes;
  std::string where;
};

// What the core refuses while it reads a file is the file's fault.
template <class F>
auto blaming(const std::string& where, const F& f) {
  try {
    return f();
  } catch (const std::invalid_argument& error) {
    throw bitreplay::FileFault((where + ": " + error.what()).c_str(), false);
  }
}

bitreplay::File open_file(const Source& source, const char* kind) {
  nb::gil_scoped_release unlock;
  bitreplay::File file(source.bytes.buf, static_cast<size_t>(source.bytes.len), kind, source.where.c_str());
  file.verify();
  return file;
}

std::string digest_of(const bitreplay::File& file) { return {file.digest(), 64}; }

std::string text_of(const bitreplay::Json& text) {
  std::string utf8(text.is_string() ? text.copy(nullptr, 0) : 0, '\0');
  if (!utf8.empty()) text.copy(utf8.data(), utf8.size());
  return utf8;
}

// A model file and its network; shadow weights of the tail stay in the file's bytes.
struct ModelFile {
  ModelFile(const nb::object& content, const nb::str& name)
      : source(content, name),
        file(open_file(source, "model")),
        network(bitreplay::image_size_of(file)),
        sources(bitreplay::kMaxTail) {
    nb::gil_scoped_release unlock;
    blaming(source.where, [&] { sources.resize(bitreplay::read_network(file, network, sources)); });
  }

  Source source;
  bitreplay::File file;
  Network network;
  std::vector<bitreplay::TailSource> sources;  // of the whole tail
};

template <class T>
nb::object array_of(std::span<const T> values, std::initializer_list<size_t> shape, nb::handle owner) {
  static const T kNone{};
  return nb::cast(nb::ndarray<nb::numpy, const T>(values.empty() ? &kNone : values.data(), shape, owner));
}

nb::object array_of(const bitreplay::Integers& values, std::initializer_list<size_t> shape, nb::handle owner) {
  return values.narrow.empty() ? array_of(values.wide, shape, owner) : array_of(values.narrow, shape, owner);
}

// A state file: its metadata at once, its arrays, as views, with the model.
struct StateFile {
  StateFile(nb::object bytes, const nb::str& name)
      : content(std::move(bytes)), source(content, name), file(open_file(source, "state")), head(file), model(file.take_bytes("model")) {
    std::unordered_set<std::string> known;
    for (bitreplay::Entries entries(head.names); entries.next();) {
      const std::string text = text_of(entries.value);
      if (!bitreplay::is_name(text) || !known.insert(text).second) {
        bitreplay::fail(bitreplay::Error::format, "{}: names: expected at most {} different names", {file.where(), head.settings.max_classes});
      }
      names.append(nb::str(text.data(), text.size()));
    }
  }

  nb::dict settings() const {
    nb::dict values;
    bitreplay::for_each_setting(head.settings, [&]<class T>(const bitreplay::Setting& setting, T value) {
      if constexpr (std::is_same_v<T, bitreplay::HeadKind>) {
        values[setting.name] = bitreplay::kHeadNames[static_cast<int>(value)];
      } else {
        values[setting.name] = value;
      }
    });
    return values;
  }

  nb::dict read(const ModelFile& of) {
    bitreplay::Content found;
    {
      nb::gil_scoped_release unlock;
      found = read_content(file, head, of.network);
    }
    const size_t width = static_cast<size_t>(of.network.feature_count()), classes = found.seen.size(), stored = found.labels.size();
    const bool lda = head.settings.head == bitreplay::HeadKind::lda;
    nb::dict values;
    values["rows"] = array_of(found.rows, {stored, of.network.latent_words() + Learner::further_words(of.network, head.settings.views)}, content);
    values["labels"] = array_of(found.labels, {stored}, content);
    values["seen"] = array_of(found.seen, {classes}, content);
    values["count"] = array_of(found.count, {found.count.size()}, content);
    values["sums"] = array_of(found.sums, {found.count.size(), lda ? static_cast<size_t>(head.settings.lda_width(of.network.feature_count())) : 0}, content);
    values["moment"] = array_of(found.moment, {found.moment.size()}, content);
    values["saturated"] = found.saturated;
    values["weight"] = array_of(found.weight, {found.weight.size() / width, width}, content);
    values["past_count"] = array_of(found.past_count, {found.past_count.size()}, content);
    values["mixing"] = nb::make_tuple(found.mixing.frozen, found.mixing.branch);
    values["tail_weight"] = array_of(found.tail_weight, {found.tail_weight.size() / width, width}, content);
    nb::list tail;
    for (int i = 0; i < head.settings.train_blocks; ++i) tail.append(nb::dict());
    read_tail(file, head.settings, of.network, [&]<class T>(size_t i, const char* name, std::span<const T> kept) {
      nb::cast<nb::dict>(tail[i])[name] = array_of(kept, {kept.size()}, content);
    });
    values["tail"] = tail;
    file.finish();
    return values;
  }

  nb::object content;
  Source source;
  bitreplay::File file;
  bitreplay::StateHead head;
  std::span<const uint8_t> model;  // empty: not carried
  nb::list names;
};

// The arrays of a state, by the names of State in src/bitreplay/state.py; keeps them alive.
class Values {
 public:
  explicit Values(const nb::dict& values) : values_(values) {
    content.experience = nb::cast<uint64_t>(values["experience"]);
    content.rows = get<uint64_t>("rows");
    content.labels = get<uint16_t>("labels");
    content.seen = get<uint64_t>("seen");
    content.count = get<int64_t>("count");
    content.sums = integers("sums");
    content.moment = integers("moment");
    content.saturated = nb::cast<int64_t>(values["saturated"]);
    content.weight = get<int32_t>("weight");
    content.past_count = get<uint32_t>("past_count");
    content.tail_weight = get<int32_t>("tail_weight");
    std::tie(content.mixing.frozen, content.mixing.branch) = nb::cast<std::tuple<int64_t, int64_t>>(values["mixing"]);
  }
  // A value of trained block i.
  template <class T>
  std::span<const T> kept(size_t i, const char* name) {
    return keep(nb::cast<Any<T>>(nb::cast<nb::dict>(values_["tail"][i])[name]));
  }
  bitreplay::Content content;

 private:
  template <class T>
  using Any = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
  template <class T>
  std::span<const T> keep(Any<T> array) {
    kept_.push_back(std::make_shared<Any<T>>(array));
    return {array.data(), array.size()};
  }
  template <class T>
  std::span<const T> get(const char* name) {
    return keep(nb::cast<Any<T>>(values_[name]));
  }
  bitreplay::Integers integers(const char* name) {
    Any<int32_t> narrow;
    if (nb::try_cast(values_[name], narrow, false)) return {keep(narrow), {}};
    return {{}, get<int64_t>(name)};
  }

  nb::dict values_;
  std::vector<std::shared_ptr<void>> kept_;
};

template <class F>
nb::bytes written(const F& write) {
  const size_t size = write(nullptr, 0);
  auto bytes = nb::steal<nb::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size)));
  if (!bytes.is_valid()) throw std::bad_alloc();
  auto* buffer = reinterpret_cast<uint8_t*>(PyBytes_AsString(bytes.ptr()));
  nb::gil_scoped_release unlock;
  write(buffer, size);
  return bytes;
}

// The bytes of a state; add_blocks(tensors) adds those of the trained blocks.  carries: whether the model file goes into it.
template <class F>
nb::bytes state_bytes(const ModelFile& model, bool carries, const bitreplay::Settings& settings, const nb::list& names, const bitreplay::Content& content,
                      const F& add_blocks) {
  std::vector<bitreplay::Tensor> room(bitreplay::kStateTensors + bitreplay::kBlockTensors * static_cast<size_t>(settings.train_blocks));
  bitreplay::Tensors tensors(room);
  add_content(tensors, settings, content, model.network);
  add_blocks(tensors);
  if (carries) tensors.add("model", model.file.content(), {model.file.content().size()});
  std::vector<std::string> texts;
  size_t bytes = 0;
  for (const nb::handle name : names) bytes += texts.emplace_back(nb::cast<std::string>(name)).size();
  bitreplay::Names packed;
  packed.reserve(texts.size(), bytes);
  for (const std::string& text : texts) packed.add(text);
  return written([&](uint8_t* buffer, size_t size) {
    return write_state(tensors, settings, packed, content.experience, model.file.digest(), buffer, size);
  });
}

nb::bytes write_model(const std::string& network, const std::string& card, const nb::dict& tensors) {
  using Any = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
  std::vector<Any> arrays;
  std::vector<bitreplay::Tensor> room(tensors.size());
  bitreplay::Tensors list(room);
  for (const auto [key, value] : tensors) {
    const Any& array = arrays.emplace_back(nb::cast<Any>(value));
    const auto name = nb::cast<std::string>(key);
    const bool is_signed = array.dtype().code == static_cast<uint8_t>(nb::dlpack::dtype_code::Int);
    if (!is_signed && array.dtype().code != static_cast<uint8_t>(nb::dlpack::dtype_code::UInt)) {
      throw std::invalid_argument("tensor " + name + ": expected whole numbers");
    }
    int type = 0;
    while (bitreplay::kDtypes[type].bytes * 8 != array.dtype().bits || (bitreplay::kDtypes[type].code[0] == 'I') != is_signed) ++type;
    std::vector<uint64_t> shape;
    for (size_t i = 0; i < array.ndim(); ++i) shape.push_back(array.shape(i));
    list.add(name.c_str(), static_cast<bitreplay::Type>(type), array.data(), shape);
  }
  list.arrange();
  const auto put = [](const std::string& text) {
    return [&text](bitreplay::Output& out) { out.inside(bitreplay::Text(text.data(), text.data() + text.size()), 1); };
  };
  const auto put_card = put(card), put_network = put(network);
  return written([&](uint8_t* buffer, size_t size) { return write_file("model", {{"card", put_card}, {"network", put_network}}, list, buffer, size); });
}

// What a file's beginning says it is: its kind or "", and its digest.  Nothing is verified.
nb::tuple label_of(const nb::bytes& beginning) {
  const bitreplay::Label label = bitreplay::read_label(beginning.c_str(), beginning.size());
  return nb::make_tuple(label.kind == nullptr ? "" : label.kind, label.digest);
}

bool is_name(nb::handle text) {
  Py_ssize_t size = 0;
  const char* utf8 = PyUnicode_Check(text.ptr()) ? PyUnicode_AsUTF8AndSize(text.ptr(), &size) : nullptr;
  PyErr_Clear();  // half a character
  return utf8 != nullptr && bitreplay::is_name({utf8, static_cast<size_t>(size)});
}

class ConvTrainer {
 public:
  explicit ConvTrainer(int threads) : trainer_(threads) {}

  nb::object forward(const Array<float, 4>& x, const Array<float, 3>& weight, float clip) {
    const bitreplay::Batch batch = shape(x, weight);
    const auto words = static_cast<size_t>(batch.words());
    Result<float> z({x.shape(0), x.shape(1), x.shape(2), x.shape(3)});
    Result<uint64_t> bits({x.shape(0), x.shape(1), x.shape(2), words}), gate({x.shape(0), x.shape(1), x.shape(2), words});
    Unlocked unlock;
    trainer_.forward(batch, x.data(), weight.data(), clip, bits.data, gate.data, z.data);
    unlock.end();
    return nb::make_tuple(z.array, bits.array, gate.array);
  }

  nb::object backward(const Array<float, 4>& g, const Array<uint64_t, 4>& bits, const Array<uint64_t, 4>& gate,
                      const Array<float, 3>& weight, int gradient_bits) {
    const bitreplay::Batch batch = shape(g, weight);
    if (gradient_bits < 8 || gradient_bits > 16) throw std::invalid_argument("gradient_bits: expected 8 to 16");
    for (const auto* packed : {&bits, &gate}) {
      if (packed->shape(0) != g.shape(0) || packed->shape(1) != g.shape(1) || packed->shape(2) != g.shape(2) ||
          packed->shape(3) != static_cast<size_t>(batch.words())) {
        throw std::invalid_argument("bits, gate: expected what forward gave for these rows");
      }
    }
    Result<float> dx({g.shape(0), g.shape(1), g.shape(2), g.shape(3)}), dw({weight.shape(0), 9, weight.shape(0)});
    Unlocked unlock;
    trainer_.backward(batch, g.data(), bits.data(), gate.data(), weight.data(), gradient_bits, dx.data, dw.data);
    unlock.end();
    return nb::make_tuple(dx.array, dw.array);
  }

 private:
  static bitreplay::Batch shape(const Array<float, 4>& x, const Array<float, 3>& weight) {
    const size_t channels = x.shape(3);
    if (channels < 1 || channels > 1024 || weight.shape(0) != channels || weight.shape(1) != 9 || weight.shape(2) != channels) {
      throw std::invalid_argument("weight: expected (C, 9, C) for values (N, H, W, C), C at most 1024");
    }
    for (size_t i = 0; i < 3; ++i) {
      if (x.shape(i) < 1 || x.shape(i) > 65535) throw std::invalid_argument("expected values (N, H, W, C), each from 1 to 65535");
    }
    if (x.shape(1) * x.shape(2) > 65535) throw std::invalid_argument("expected maps of at most 65535 pixels: sums have 32 bits");
    return {static_cast<int>(x.shape(0)), static_cast<int>(x.shape(1)), static_cast<int>(x.shape(2)), static_cast<int>(channels)};
  }

  bitreplay::ConvTrainer trainer_;
};

}  // namespace

NB_MODULE(_engine, m) {
  m.doc() = "The C++ core of bitreplay; use bitreplay.Learner.";
  nb::set_leak_warnings(false);  // frames that a debugger or a test runner keeps are not our leaks
  nb::exception<bitreplay::Cancelled>(m, "Cancelled");

  m.def("settings_table", &settings_table);
  // What is wrong with a file is a FormatError of the package, which has it from here.
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const bitreplay::FileFault& fault) {
      const nb::object errors = nb::module_::import_("bitreplay.errors");
      PyErr_SetString(nb::object(errors.attr(fault.damaged ? "DamagedError" : "FormatError")).ptr(), fault.what());
    }
  });
  m.attr("MAX_NAME") = bitreplay::kMaxName;
  m.attr("MAX_HEADER") = bitreplay::kMaxHeader;
  m.attr("MAX_LESSONS") = Learner::kMostLessons;
  m.def("is_name", &is_name);
  m.def("label_of", &label_of);
  m.def("write_model", &write_model);

  nb::class_<Network>(m, "Network")
      .def_prop_ro("image_size", &Network::image_size)
      .def_prop_ro("feature_count", &Network::feature_count)
      .def_prop_ro("feature_bits", &Network::feature_bits)
      .def_prop_ro("latent_words", &Network::latent_words)
      .def_prop_ro("latent_bits", &Network::latent_bits)
      .def_prop_ro("bytes", &Network::bytes)
      .def_prop_ro("scratch_bytes", &Network::scratch_bytes)
      .def("latents",
           &latents_of)
      .def("features_of_latents", &features_of);

  // Threads that stay, for one call at a time.
  nb::class_<Workers>(m, "Workers").def(nb::init<int>());

  nb::class_<ModelFile>(m, "ModelFile")
      .def(nb::init<const nb::object&, const nb::str&>(), nb::arg("content"), nb::arg("where"))
      .def_prop_ro("network", [](const ModelFile& f) -> const Network& { return f.network; }, nb::rv_policy::reference_internal)
      .def_prop_ro("digest", [](const ModelFile& f) { return digest_of(f.file); })
      .def_prop_ro("card", [](const ModelFile& f) { return text_of(f.file.word("card")); });

  nb::class_<StateFile>(m, "StateFile")
      .def(nb::init<nb::object, const nb::str&>(), nb::arg("content"), nb::arg("where"))
      .def_prop_ro("digest", [](const StateFile& f) { return digest_of(f.file); })
      .def_prop_ro("model_digest", [](const StateFile& f) { return f.head.model; })
      // The model file inside, or None; a copy, since it need not lie at a multiple of 8.
      .def("model", [](const StateFile& f) -> nb::object { return f.model.empty() ? nb::none() : nb::object(nb::bytes(f.model.data(), f.model.size())); })
      .def_ro("names", &StateFile::names)
      .def_prop_ro("experience", [](const StateFile& f) { return f.head.experience; })
      .def_prop_ro("settings", &StateFile::settings)
      // Once: arrays by the names of State in src/bitreplay/state.py.
      .def("read", &StateFile::read);

  // The bytes of a state file of such arrays.
  m.def("write_state", [](const ModelFile& model, bool carries, const nb::dict& settings, const nb::list& names, const nb::dict& state) {
    const bitreplay::Settings chosen = settings_of(settings);
    Values values(state);
    const auto add_blocks = [&](bitreplay::Tensors& tensors) {
      const auto blocks = model.network.tail().last(static_cast<size_t>(chosen.train_blocks));
      for (size_t i = 0; i < blocks.size(); ++i) {
        bitreplay::TailBlock::each_kept_of(blocks[i], chosen.weight_bits, [&]<class T>(const char* name, size_t count, int32_t) {
          tensors.add(bitreplay::Name("tail", i, name), values.kept<T>(i, name), {count});
        });
      }
    };
    return state_bytes(model, carries, chosen, names, values.content, add_blocks);
  });

  // The sums of docs/method.md, 4; labels are not checked beyond their range.
  nb::class_<Statistics>(m, "Statistics")
      .def(nb::init<int>())
      .def("add",
           [](Statistics& s, const Array<int8_t, 2>& rows, const Flat<int32_t>& labels, size_t classes) {
             if (rows.shape(0) != labels.size() || rows.shape(1) != static_cast<size_t>(s.width())) {
               throw std::invalid_argument("rows: expected features (N, width) and as many labels");
             }
             for (const int32_t label : view(labels)) {
               if (label < 0 || static_cast<size_t>(label) >= classes) throw std::invalid_argument("labels: expected 0 to classes - 1");
             }
             Unlocked unlock;
             if (classes > s.classes()) s = Statistics(s, classes);
             for (size_t i = 0; i < labels.size(); ++i) s.add(rows.data() + i * rows.shape(1), static_cast<size_t>(labels.data()[i]));
           })
      .def("restore",
           [](Statistics& s, const Flat<int64_t>& count, const Array<int64_t, 2>& sums, const Flat<int64_t>& moment, int64_t saturated) {
             s.restore(view(count), {{}, view(sums)}, {{}, view(moment)}, saturated);
           })
      .def_prop_ro("count", [](const Statistics& s) { return Result<int64_t>(s.count(), {s.classes()}).array; })
      .def_prop_ro("sums", [](const Statistics& s) { return Result<int64_t>(s.sums(), {s.classes(), static_cast<size_t>(s.width())}).array; })
      .def_prop_ro("moment", [](const Statistics& s) { return moment_of(s); })
      .def_prop_ro("saturated", &Statistics::saturated)
      .def_prop_ro("bytes", [](const Statistics& s) { return s.bytes(); })
      .def("solve", [](const Statistics& s, double shrinkage, double pseudo_pictures, double variance) {
        for (const int64_t n : s.count()) {
          if (n < 1) throw std::invalid_argument("solve: expected rows of every class");
        }
        const bitreplay::LinearClassifier found = solve(s, {shrinkage, pseudo_pictures, variance});
        return nb::make_tuple(Result<int16_t>({found.weight.data(), found.weight.size()}, {s.classes(), static_cast<size_t>(s.width())}).array,
                              Result<int64_t>({found.bias.data(), found.bias.size()}, {s.classes()}).array, found.exponent);
      });

  // A replay memory alone, for merging; near: as in engine/learn/replay.h.
  nb::class_<Memory>(m, "Memory")
      .def(nb::init<size_t, size_t, size_t, uint64_t, int64_t>())
      .def("offer",
           [](Memory& memory, const Array<uint64_t, 2>& rows, const Flat<int32_t>& labels, size_t classes) {
             if (rows.shape(1) != memory.rows.row_words() || rows.shape(0) != labels.size()) throw std::invalid_argument("rows: wrong size");
             const std::vector<uint8_t> offered(labels.size(), 1);
             memory.rows.commit(memory.rows.plan(rows.data(), view(labels), offered, classes, memory.seed, {memory.near, false}), rows.data());
           })
      .def("rows",
           [](const Memory& memory) {
             const size_t words = memory.rows.row_words();
             return Result<uint64_t>({memory.rows.row(0), memory.rows.size() * words}, {memory.rows.size(), words}).array;
           })
      .def("labels", [](const Memory& memory) { return Result<uint16_t>(memory.rows.labels(), {memory.rows.size()}).array; });

  nb::class_<ConvTrainer>(m, "ConvTrainer")
      .def(nb::init<int>())
      .def("forward", &ConvTrainer::forward)
      .def("backward", &ConvTrainer::backward);

  // What tells pictures that show none of the known classes (docs/method.md, 4.5).
  nb::class_<Unknown>(m, "Unknown").def("threshold", &Unknown::threshold).def_prop_ro("bytes", &Unknown::bytes);

  nb::class_<Learner>(m, "Learner")
      .def("__init__", [](Learner* self, const ModelFile& model, const nb::dict& settings) {
        const bitreplay::Settings chosen = settings_of(settings);
        const std::span<const bitreplay::TailSource> sources(model.sources);
        new (self) Learner(model.network, chosen, sources.last(std::min(sources.size(), static_cast<size_t>(chosen.train_blocks))));
      }, nb::keep_alive<1, 2>())
      .def("learn",
           [](Learner& l, const Array<uint8_t, 4>& images, const Flat<int32_t>& labels, size_t classes, Workers& workers,
              const nb::object& progress) {
             const auto call = make_progress(progress);
             Unlocked unlock;
             l.learn(view(images), view(labels), classes, workers, call);
           },
           nb::arg("images"), nb::arg("labels"), nb::arg("classes"), nb::arg("workers"), nb::arg("progress").none())
      .def("rehearse",
           [](Learner& l, Workers& workers, const nb::object& progress) {
             const auto call = make_progress(progress);
             Unlocked unlock;
             l.rehearse(workers, call);
           },
           nb::arg("workers"), nb::arg("progress").none())
      .def("features",
           [](const Learner& l, const Array<uint8_t, 4>& images, Workers& workers) {
             const auto width = static_cast<size_t>(l.network().feature_count());
             Result<int8_t> result({images.shape(0), width});
             Unlocked unlock;
             l.features(view(images), {result.data, images.shape(0) * width}, workers);
             unlock.end();
             return result.array;
           })
      .def("predict",
           [](const Learner& l, const Array<uint8_t, 4>& images, Workers& workers, int views, const Unknown* unknown) {
             if (!bitreplay::are_views(views)) throw std::invalid_argument("views: out of range");
             const size_t rows = images.shape(0);
             Result<int32_t> probabilities({rows, l.classes()}), best({rows});
             Result<int64_t> familiarity({rows});
             Unlocked unlock;
             l.predict(view(images), views,
                       {{best.data, rows}, {probabilities.data, rows * l.classes()}, unknown, {familiarity.data, unknown ? rows : 0}}, workers);
             unlock.end();
             return nb::make_tuple(best.array, probabilities.array, unknown ? familiarity.array : nb::none());
           },
           nb::arg("images"), nb::arg("workers"), nb::arg("views") = 1, nb::arg("unknown").none() = nb::none())
      .def("unknown", &Learner::unknown, nb::call_guard<Unlocked>())
      .def("recall",
           [](const Learner& l, Workers& workers) {
             const size_t rows = l.replay().size();
             Result<int32_t> best({rows});
             Unlocked unlock;
             l.recall({best.data, rows}, workers);
             unlock.end();
             return best.array;
           })
      .def("predict_bytes", &Learner::predict_bytes)
      .def("restore",
           [](Learner& l, const nb::dict& state) {
             Values values(state);
             for (size_t i = 0; i < l.tail().blocks().size(); ++i) {
               bitreplay::TailBlock& block = l.tail().blocks()[i];
               bitreplay::TailBlock::each_kept(block, [&]<class T>(const char* name, bitreplay::Buffer<T>& kept, int32_t) {
                 const std::span<const T> from = values.kept<T>(i, name);
                 if (from.size() != kept.size()) throw std::invalid_argument(std::string(name) + ": wrong size");
                 std::copy(from.begin(), from.end(), kept.begin());
               });
               block.restored();
             }
             Unlocked unlock;
             l.restore(values.content);
             l.prepare();
           })
      // The bytes of its state file.
      .def("content",
           [](const Learner& l, const ModelFile& model, bool carries, const nb::list& names) {
             return state_bytes(model, carries, l.settings(), names, l.content(), [&](bitreplay::Tensors& tensors) { add_tail(tensors, l.tail()); });
           })
      .def("prepare", &Learner::prepare, nb::call_guard<Unlocked>())
      .def("head_bytes_at", &Learner::head_bytes_at)
      .def_prop_ro("classes", &Learner::classes)
      .def_prop_ro("experience", &Learner::experience)
      .def_prop_ro("state_bytes", &Learner::state_bytes)
      .def_prop_ro("replay_bytes", [](const Learner& l) { return l.replay().bytes(); })
      .def("weight",
           [](const Learner& l) {
             const auto& w = l.head().weight;
             const size_t width = static_cast<size_t>(l.network().feature_count());
             return Result<int32_t>({w.data(), w.size()}, {w.size() / width, width}).array;
           })
      .def("tail_weight",
           [](const Learner& l) {
             const size_t width = static_cast<size_t>(l.network().feature_count());
             return Result<int32_t>(l.tail_weight(), {l.tail_weight().size() / width, width}).array;
           })
      .def("past_count",
           [](const Learner& l) {
             const auto& p = l.head().past_count;
             return Result<uint32_t>({p.data(), p.size()}, {p.size()}).array;
           })
      .def("count", [](const Learner& l) { return Result<int64_t>(l.statistics().count(), {l.statistics().classes()}).array; })
      .def("sums",
           [](const Learner& l) {
             const Statistics& s = l.statistics();
             return Result<int64_t>(s.sums(), {s.classes(), static_cast<size_t>(s.width())}).array;
           })
      .def("moment", [](const Learner& l) { return moment_of(l.statistics()); })
      .def_prop_ro("saturated", [](const Learner& l) { return l.statistics().saturated(); })
      .def_prop_ro("mixing", [](const Learner& l) { return nb::make_tuple(l.mixing().frozen, l.mixing().branch); })
      // Weights (K, D), bias (K,) and exponent of LDA.
      .def("classifier",
           [](const Learner& l) {
             const auto& c = l.classifier();
             const size_t width = c.bias.empty() ? 0 : c.weight.size() / c.bias.size();
             return nb::make_tuple(Result<int16_t>({c.weight.data(), c.weight.size()}, {c.bias.size(), width}).array,
                                   Result<int64_t>({c.bias.data(), c.bias.size()}, {c.bias.size()}).array, c.exponent);
           })
      .def_prop_ro("head_bytes", &Learner::head_bytes)
      .def_prop_ro("counted", &Learner::counted)
      .def_prop_ro("worse", &Learner::worse)
      .def("seen", [](const Learner& l) { return Result<uint64_t>(l.replay().seen(), {l.replay().seen().size()}).array; })
      .def("rows",
           [](const Learner& l) {
             const size_t words = l.replay().row_words();
             return Result<uint64_t>({l.replay().row(0), l.replay().size() * words}, {l.replay().size(), words}).array;
           })
      .def("labels", [](const Learner& l) { return Result<uint16_t>(l.replay().labels(), {l.replay().size()}).array; })
      .def("lesson_bytes", &Learner::lesson_bytes)
      .def_prop_ro("tail_bytes", [](const Learner& l) {
        return l.tail().bytes() + static_cast<int64_t>(l.tail_weight().size_bytes());
      })
      .def_prop_ro("tail_weights", [](const Learner& l) { return l.tail().weights(); })
      .def_prop_ro("flipped", &Learner::flipped)
      // Values of trained block i: its weights (shadow int8 or int16, or bits uint64), then its masters, by name.
      .def("tail_values",
           [](const Learner& l, size_t i) {
             const bitreplay::TailBlock& b = l.tail().blocks()[i];
             nb::dict values;
             bitreplay::TailBlock::each_kept(b, [&]<class T>(const char* name, const bitreplay::Buffer<T>& kept, int32_t) {
               values[name] = Result<T>({kept.data(), kept.size()}, {kept.size()}).array;
             });
             return values;
           });

  m.def("consolidate", [](const Flat<int32_t>& consolidated, const Flat<int32_t>& trained, const Flat<uint32_t>& past,
                          const Flat<uint32_t>& current) {
    Result<int32_t> weight(view(trained), {trained.size()});
    Result<uint32_t> counts(view(past), {past.size()});
    bitreplay::consolidate(view(consolidated), {weight.data, trained.size()}, {counts.data, past.size()}, view(current),
                           static_cast<int>(trained.size() / past.size()));
    return nb::make_tuple(weight.array, counts.array);
  });
  m.def("isa", [] { return std::string(bitreplay::kernels().isa); });
  m.def("memory", [] { return nb::make_tuple(MemoryMeter::current.load(), MemoryMeter::peak.load()); });
  m.def("reset_memory_peak", [] { MemoryMeter::peak.store(MemoryMeter::current.load()); });
}
