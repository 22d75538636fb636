// Model and state files: bytes in, bytes out; the formats are the core's.
#include <stdexcept>
#include <tuple>
#include <unordered_set>

#include "binding.h"

namespace bitreplay::binding {
namespace {

File open_file(const Source& source, const char* kind) {
  nb::gil_scoped_release unlock;
  File file(source.bytes.buf, static_cast<size_t>(source.bytes.len), kind, source.where.c_str());
  file.verify();
  return file;
}

std::string digest_of(const File& file) { return {file.digest(), 64}; }

std::string text_of(const Json& text) {
  std::string utf8(text.is_string() ? text.copy(nullptr, 0) : 0, '\0');
  if (!utf8.empty()) text.copy(utf8.data(), utf8.size());
  return utf8;
}

// A state file: its metadata at once, its arrays, as views, with the model.
struct StateFile {
  StateFile(nb::object bytes, const nb::str& name)
      : content(std::move(bytes)), source(content, name), file(open_file(source, "state")), head(file), model(file.take_bytes("model")) {
    std::unordered_set<std::string> known;
    for (Entries entries(head.names); entries.next();) {
      const std::string text = text_of(entries.value);
      if (!bitreplay::is_name(text) || !known.insert(text).second) {
        fail(Error::format, "{}: names: expected at most {} different names", {file.where(), head.settings.max_classes});
      }
      names.append(nb::str(text.data(), text.size()));
    }
  }

  nb::dict settings() const {
    nb::dict values;
    for_each_setting(head.settings, [&]<class T>(const Setting& setting, T value) {
      if constexpr (std::is_same_v<T, HeadKind>) {
        values[setting.name] = kHeadNames[static_cast<int>(value)];
      } else {
        values[setting.name] = value;
      }
    });
    return values;
  }

  nb::dict read(const ModelFile& of) {
    Content found;
    {
      nb::gil_scoped_release unlock;
      found = read_content(file, head, of.network);
    }
    nb::dict values = numbers_of(found);
    each_array(found, head.settings, of.network, found.seen.size(), found.labels.size(),
               [&](const char*, const char* name, bool, const auto& array, auto shape) { values[name] = array_of(array, {shape.begin(), shape.end()}, content); });
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
  File file;
  StateHead head;
  std::span<const uint8_t> model;  // empty: not carried
  nb::list names;
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

nb::bytes write_state(const ModelFile& model, bool carries, const nb::dict& settings, const nb::list& names, const nb::dict& state) {
  const Settings chosen = settings_of(settings);
  Values values(state, chosen, model.network);
  return state_bytes(model, carries, chosen, names, values.content, [&](Tensors& tensors) {
    const auto blocks = model.network.tail().last(static_cast<size_t>(chosen.train_blocks));
    for (size_t i = 0; i < blocks.size(); ++i) {
      TailBlock::each_kept_of(blocks[i], chosen.weight_bits, [&]<class T>(const char* name, size_t count, int32_t) {
        tensors.add(Name("tail", i, name), values.kept<T>(i, name), {static_cast<int64_t>(count)});
      });
    }
  });
}

nb::bytes write_model(const std::string& network, const std::string& card, const nb::dict& tensors) {
  using Any = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
  std::vector<Any> arrays;
  std::vector<Tensor> room(tensors.size());
  Tensors list(room);
  for (const auto [key, value] : tensors) {
    const Any& array = arrays.emplace_back(nb::cast<Any>(value));
    const auto name = nb::cast<std::string>(key);
    const bool is_signed = array.dtype().code == static_cast<uint8_t>(nb::dlpack::dtype_code::Int);
    if (!is_signed && array.dtype().code != static_cast<uint8_t>(nb::dlpack::dtype_code::UInt)) {
      throw std::invalid_argument("tensor " + name + ": expected whole numbers");
    }
    int type = 0;
    while (kDtypes[type].bytes * 8 != array.dtype().bits || (kDtypes[type].code[0] == 'I') != is_signed) ++type;
    list.add(name.c_str(), static_cast<Type>(type), array.data(), {array.shape_ptr(), array.ndim()});
  }
  list.arrange();
  const auto put = [](const std::string& text) {
    return [&text](Output& out) { out.inside(Text(text.data(), text.data() + text.size()), 1); };
  };
  const auto put_card = put(card), put_network = put(network);
  return written([&](uint8_t* buffer, size_t size) { return write_file("model", {{"card", put_card}, {"network", put_network}}, list, buffer, size); });
}

// What a file's beginning says it is: its kind or "", and its digest.  Nothing is verified.
nb::tuple label_of(const nb::bytes& beginning) {
  const Label label = read_label(beginning.c_str(), beginning.size());
  return nb::make_tuple(label.kind == nullptr ? "" : label.kind, label.digest);
}

bool is_name(nb::handle text) {
  Py_ssize_t size = 0;
  const char* utf8 = PyUnicode_Check(text.ptr()) ? PyUnicode_AsUTF8AndSize(text.ptr(), &size) : nullptr;
  PyErr_Clear();  // half a character
  return utf8 != nullptr && bitreplay::is_name({utf8, static_cast<size_t>(size)});
}

// Of each setting: name, kind, initial value, least, most; as the core takes them.
nb::list settings_table() {
  constexpr const char* kKinds[] = {"count", "word", "flag", "one_of", "head", "fraction8", "fraction16"};
  nb::list table;
  const Settings initial;
  for_each_setting(initial, [&](const Setting& setting, auto value) {
    table.append(nb::make_tuple(setting.name, kKinds[static_cast<int>(setting.kind)], static_cast<uint64_t>(value), setting.least, setting.most));
  });
  return table;
}

}  // namespace

Settings settings_of(const nb::dict& values) {
  Settings settings;
  size_t count = 0;
  for_each_setting(settings, [&]<class T>(const Setting& setting, T& field) {
    if (!values.contains(setting.name)) throw std::invalid_argument(std::string("settings: expected ") + setting.name);
    const nb::object value = values[setting.name];
    if constexpr (std::is_same_v<T, HeadKind>) {
      field = nb::cast<std::string>(value) == kHeadNames[1] ? HeadKind::cwr : HeadKind::lda;
    } else {
      field = nb::cast<T>(value);
    }
    ++count;
  });
  if (count != values.size()) throw std::invalid_argument("settings: expected no others");
  return settings;
}

Source::Source(const nb::object& content, const nb::str& name) {
  // A path may hold what is no UTF-8.
  where = nb::steal<nb::bytes>(PyUnicode_AsEncodedString(name.ptr(), "utf-8", "backslashreplace")).c_str();
  if (PyObject_GetBuffer(content.ptr(), &bytes, PyBUF_SIMPLE) != 0) throw nb::python_error();
  if (reinterpret_cast<uintptr_t>(bytes.buf) % 8 != 0) {
    PyBuffer_Release(&bytes);
    throw std::invalid_argument("content: expected bytes at a multiple of 8");
  }
}

ModelFile::ModelFile(const nb::object& content, const nb::str& name)
    : source(content, name), file(open_file(source, "model")), network(image_size_of(file)), sources(kMaxTail) {
  nb::gil_scoped_release unlock;
  try {
    sources.resize(read_network(file, network, sources));
  } catch (const std::invalid_argument& error) {  // what the core refuses is the file's fault
    throw FileFault((source.where + ": " + error.what()).c_str(), false);
  }
}

nb::dict numbers_of(const Content& content) {
  nb::dict values;
  values["experience"] = content.experience;
  values["saturated"] = content.saturated;
  values["mixing"] = nb::make_tuple(content.mixing.frozen, content.mixing.branch);
  return values;
}

Values::Values(const nb::dict& values, const Settings& settings, const Network& network) : values_(values) {
  content.experience = nb::cast<uint64_t>(values["experience"]);
  content.saturated = nb::cast<int64_t>(values["saturated"]);
  std::tie(content.mixing.frozen, content.mixing.branch) = nb::cast<std::tuple<int64_t, int64_t>>(values["mixing"]);
  each_array(content, settings, network, 0, 0, [&](const char*, const char* name, bool, auto& field, auto) { read(name, field); });
}

void Values::read(const char* name, Integers& to) {
  Any<int32_t> narrow;
  to = {};
  if (nb::try_cast(values_[name], narrow, false)) {
    to.narrow = keep(narrow);
  } else {
    read(name, to.wide);
  }
}

nb::bytes state_bytes(const ModelFile& model, bool carries, const Settings& settings, const nb::list& names, const Content& content,
                      FunctionRef<void(Tensors&)> add_blocks) {
  std::vector<Tensor> room(kStateTensors + kBlockTensors * static_cast<size_t>(settings.train_blocks));
  Tensors tensors(room);
  add_content(tensors, settings, content, model.network);
  add_blocks(tensors);
  if (carries) tensors.add("model", model.file.content());
  std::vector<std::string> texts;
  size_t bytes = 0;
  for (const nb::handle name : names) bytes += texts.emplace_back(nb::cast<std::string>(name)).size();
  Names packed;
  packed.reserve(texts.size(), bytes);
  for (const std::string& text : texts) packed.add(text);
  return written([&](uint8_t* buffer, size_t size) {
    return bitreplay::write_state(tensors, settings, packed, content.experience, model.file.digest(), buffer, size);
  });
}

void bind_files(nb::module_& m) {
  m.attr("MAX_NAME") = kMaxName;
  m.attr("MAX_HEADER") = kMaxHeader;
  m.attr("MAX_LESSONS") = Learner::kMostLessons;
  m.def("settings_table", &settings_table);
  m.def("is_name", &is_name);
  m.def("label_of", &label_of);
  m.def("write_model", &write_model);
  m.def("write_state", &write_state);

  nb::class_<ModelFile>(m, "ModelFile")
      .def(nb::init<const nb::object&, const nb::str&>(), nb::arg("content"), nb::arg("where"))
      .def_ro("network", &ModelFile::network)
      .def_prop_ro("digest", [](const ModelFile& f) { return digest_of(f.file); })
      .def_prop_ro("card", [](const ModelFile& f) { return text_of(f.file.word("card")); });

  nb::class_<StateFile>(m, "StateFile")
      .def(nb::init<nb::object, const nb::str&>(), nb::arg("content"), nb::arg("where"))
      .def_prop_ro("model_digest", [](const StateFile& f) { return f.head.model; })
      // The model file inside, or None; a copy, since it need not lie at a multiple of 8.
      .def("model", [](const StateFile& f) -> nb::object { return f.model.empty() ? nb::none() : nb::object(nb::bytes(f.model.data(), f.model.size())); })
      .def_ro("names", &StateFile::names)
      .def_prop_ro("settings", &StateFile::settings)
      // Once: what a state holds, by the names of State in src/bitreplay/state.py.
      .def("read", &StateFile::read);
}

}  // namespace bitreplay::binding
