// What the parts of the Python binding share: numpy arrays in and out, the interpreter lock.  No algorithm, no default, no format.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "files/model.h"
#include "files/state.h"
#include "learn/learner.h"

namespace bitreplay::binding {

namespace nb = nanobind;

void bind_files(nb::module_& m);
void bind_learner(nb::module_& m);
void bind_parts(nb::module_& m);

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

using Sizes = std::vector<size_t>;

// A new numpy array that owns its memory.
template <class T>
struct Result {
  std::span<T> values;
  nb::object array;

  explicit Result(const Sizes& shape) {
    size_t count = 1;
    for (const size_t s : shape) count *= s;
    auto owner = std::make_unique_for_overwrite<T[]>(count);
    values = {owner.get(), count};
    nb::capsule capsule(owner.release(), [](void* p) noexcept { delete[] static_cast<T*>(p); });
    array = nb::cast(nb::ndarray<nb::numpy, T>(values.data(), shape.size(), shape.data(), capsule));
  }
};

// A new array that fill(values) fills, while other Python threads may run.
template <class T, class F>
nb::object filled(const Sizes& shape, const F& fill) {
  Result<T> result(shape);
  Unlocked unlock;
  fill(result.values);
  unlock.end();
  return result.array;
}

// Values as an array: with an owner a view of them, else a copy.
template <class T>
nb::object array_of(std::span<const T> values, const Sizes& shape, nb::handle owner = {}) {
  static const T kNone{};
  if (owner.is_valid()) return nb::cast(nb::ndarray<nb::numpy, const T>(values.empty() ? &kNone : values.data(), shape.size(), shape.data(), owner));
  Result<T> result(shape);
  std::copy(values.begin(), values.end(), result.values.begin());
  return result.array;
}

inline nb::object array_of(const Integers& values, const Sizes& shape, nb::handle owner = {}) {
  return values.narrow.empty() ? array_of(values.wide, shape, owner) : array_of(values.narrow, shape, owner);
}

template <class T>
nb::object array_of(const Buffer<T>& values, const Sizes& shape) {
  return array_of(std::span<const T>(values), shape);
}

// Settings from numbers, flags and the name of the head, all of them there.
Settings settings_of(const nb::dict& values);

// A file's bytes, and what messages call it.
struct Source {
  Source(const nb::object& content, const nb::str& name);
  ~Source() { PyBuffer_Release(&bytes); }
  Source(const Source&) = delete;

  Py_buffer bytes;
  std::string where;
};

// A model file and its network; shadow weights of the tail stay in the file's bytes.
struct ModelFile {
  ModelFile(const nb::object& content, const nb::str& name);

  Source source;
  File file;
  Network network;
  std::vector<TailSource> sources;  // of the whole tail
};

// The rest of a state that is no value of a block, by its names there.
nb::dict numbers_of(const Content& content);

// The arrays of a state as a dict by these names; keeps them alive.
class Values {
 public:
  Values(const nb::dict& values, const Settings& settings, const Network& network);
  // A value of trained block i.
  template <class T>
  std::span<const T> kept(size_t i, const char* name) {
    return keep(nb::cast<Any<T>>(nb::cast<nb::dict>(values_["tail"][i])[name]));
  }
  Content content;

 private:
  template <class T>
  using Any = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
  template <class T>
  std::span<const T> keep(Any<T> array) {
    kept_.push_back(std::make_shared<Any<T>>(array));
    return {array.data(), array.size()};
  }
  template <class T>
  void read(const char* name, std::span<const T>& to) {
    to = keep(nb::cast<Any<T>>(values_[name]));
  }
  void read(const char* name, Integers& to);

  nb::dict values_;
  std::vector<std::shared_ptr<void>> kept_;
};

// The bytes of a state, whose blocks' tensors add_blocks(tensors) adds.  carries: whether the model file goes into it.
nb::bytes state_bytes(const ModelFile& model, bool carries, const Settings& settings, const nb::list& names, const Content& content,
                      FunctionRef<void(Tensors&)> add_blocks);

}  // namespace bitreplay::binding
