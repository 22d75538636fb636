// The learner: lessons, predictions, and what it knows as arrays.
#include <nanobind/stl/optional.h>

#include <stdexcept>

#include "binding.h"
#include "network/views.h"
#include "workers.h"

namespace bitreplay::binding {
namespace {

using Images = Array<uint8_t, 4>;

class Locked {
 public:
  Locked() : state_(back([] { return PyGILState_Ensure(); })) {}
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
  ~Locked() { PyGILState_Release(state_); }

 private:
  PyGILState_STATE state_;
};

// Calls progress(phase, done, total), which returns True to give up, and looks for Ctrl-C.
auto make_progress(const nb::object& progress) {
  return [&progress](Phase phase, uint64_t done, uint64_t total) {
    const Locked lock;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (progress.is_none()) return true;
    const char* name = phase == Phase::latents ? "latents" : phase == Phase::tail ? "tail" : "train";
    return !nb::cast<bool>(progress(name, done, total));
  };
}

void make_learner(Learner* self, const ModelFile& model, const nb::dict& settings) {
  const Settings chosen = settings_of(settings);
  const std::span<const TailSource> sources(model.sources);
  new (self) Learner(model.network, chosen, sources.last(std::min(sources.size(), static_cast<size_t>(chosen.train_blocks))));
}

void learn(Learner& l, const Images& images, const Flat<int32_t>& labels, size_t classes, Workers& workers, const nb::object& progress) {
  const auto call = make_progress(progress);
  Unlocked unlock;
  l.learn(view(images), view(labels), classes, workers, call);
}

// pictures(first, count): those images, which are looked at before the next are asked for.
void learn_batches(Learner& l, const nb::object& pictures, size_t batch, const Flat<int32_t>& labels, size_t classes, Workers& workers,
                   const nb::object& progress) {
  const auto call = make_progress(progress);
  nb::object kept;
  const auto ask = [&](size_t first, size_t count) {
    const Locked lock;
    kept = pictures(first, count);
    const auto images = nb::cast<Images>(kept);
    if (images.shape(0) != count || images.size() != count * l.network().image_bytes()) throw std::invalid_argument("images: wrong size");
    return images.data();
  };
  Unlocked unlock;
  l.learn(ask, batch, view(labels), classes, workers, call);
}

void rehearse(Learner& l, Workers& workers, const nb::object& progress) {
  const auto call = make_progress(progress);
  Unlocked unlock;
  l.rehearse(workers, call);
}

nb::object features(const Learner& l, const Images& images, Workers& workers) {
  return filled<int8_t>({images.shape(0), static_cast<size_t>(l.network().feature_count())},
                        [&](std::span<int8_t> values) { l.features(view(images), values, workers); });
}

// Class, probabilities (rows, classes) and, with `unknown`, familiarity of each image.
nb::tuple predict(const Learner& l, const Images& images, Workers& workers, int views, const Unknown* unknown) {
  if (!are_views(views)) throw std::invalid_argument("views: out of range");
  const size_t rows = images.shape(0);
  Result<int32_t> probabilities({rows, l.classes()}), best({rows});
  Result<int64_t> familiarity({unknown ? rows : 0});
  Unlocked unlock;
  l.predict(view(images), views, {best.values, probabilities.values, unknown, familiarity.values}, workers);
  unlock.end();
  return nb::make_tuple(best.array, probabilities.array, unknown ? familiarity.array : nb::none());
}

nb::object classify_rows(const Learner& l, Workers& workers) {
  return filled<int32_t>({l.replay().size()}, [&](std::span<int32_t> best) { l.classify_rows(best, workers); });
}

// Values of each trained block: its weights (shadow int8 or int16, or bits uint64), then its masters, by name.
nb::list tail_of(const Learner& l) {
  nb::list tail;
  for (const TailBlock& block : l.tail().blocks()) {
    nb::dict values;
    TailBlock::each_kept(block, [&](const char* name, const auto& kept, int32_t) { values[name] = array_of(kept, {kept.size()}); });
    tail.append(values);
  }
  return tail;
}

// Weights (K, D), bias (K,) and exponent of LDA.
nb::tuple classifier_of(const Learner& l) {
  const LinearClassifier& c = l.classifier();
  const size_t classes = c.bias.size();
  return nb::make_tuple(array_of(c.weight, {classes, classes == 0 ? 0 : c.weight.size() / classes}), array_of(c.bias, {classes}), c.exponent);
}

// One thing that the learner knows, as a copy: what a state holds, by the names of State in src/bitreplay/state.py, and of the last lesson.
nb::object known(const Learner& l, const std::string& name) {
  const Content content = l.content();
  nb::object found;
  each_array(content, l.settings(), l.network(), l.classes(), l.replay().size(), [&](const char*, const char* its, bool, const auto& values, auto shape) {
    if (name == its) found = array_of(values, {shape.begin(), shape.end()});
  });
  if (found.is_valid()) return found;
  if (name == "tail") return tail_of(l);
  if (name == "classifier") return classifier_of(l);
  nb::dict numbers = numbers_of(content);
  numbers["counted"] = l.counted();
  numbers["flipped"] = l.flipped();
  numbers["worse"] = l.worse();
  numbers["tail_weights"] = l.tail().weights();
  return numbers[name.c_str()];
}

void restore(Learner& l, const nb::dict& state) {
  Values values(state, l.settings(), l.network());
  for (size_t i = 0; i < l.tail().blocks().size(); ++i) {
    TailBlock& block = l.tail().blocks()[i];
    TailBlock::each_kept(block, [&]<class T>(const char* name, Buffer<T>& kept, int32_t) {
      const std::span<const T> from = values.kept<T>(i, name);
      if (from.size() != kept.size()) throw std::invalid_argument(std::string(name) + ": wrong size");
      std::copy(from.begin(), from.end(), kept.begin());
    });
    block.restored();
  }
  Unlocked unlock;
  l.restore(values.content);
  l.prepare();
}

// Bytes of what is kept, and of a lesson (engine/learn/footprint.h); anywhere: at most, on any processor.
nb::dict footprint(const Learner& l, int64_t capacity, int64_t stored, int64_t images, int64_t classes, int threads, bool anywhere) {
  const Footprint of = l.footprint(anywhere ? Layout::anywhere : Layout::here);
  nb::dict bytes;
  bytes["network"] = of.network();
  bytes["head"] = of.head(classes);
  bytes["tail"] = of.tail(classes);
  bytes["replay"] = of.replay(capacity, classes);
  bytes["kept"] = of.kept(capacity, classes);
  bytes["lesson"] = of.lesson({capacity, stored, images, classes, threads});
  return bytes;
}

}  // namespace

void bind_learner(nb::module_& m) {
  // Threads that stay, for one call at a time.
  nb::class_<Workers>(m, "Workers").def(nb::init<int>());

  // What tells pictures that show none of the known classes (docs/method.md, 4.5).
  nb::class_<Unknown>(m, "Unknown").def("threshold", &Unknown::threshold);

  nb::class_<Learner>(m, "Learner")
      .def("__init__", &make_learner, nb::keep_alive<1, 2>())
      .def("learn", &learn, nb::arg("images"), nb::arg("labels"), nb::arg("classes"), nb::arg("workers"), nb::arg("progress").none())
      .def("learn_batches", &learn_batches)
      .def("rehearse", &rehearse, nb::arg("workers"), nb::arg("progress").none())
      .def("features", &features)
      .def("predict", &predict, nb::arg("images"), nb::arg("workers"), nb::arg("views") = 1, nb::arg("unknown").none() = nb::none())
      .def("unknown", &Learner::unknown, nb::call_guard<Unlocked>())
      .def("classify_rows", &classify_rows)
      .def("__getitem__", &known)
      .def("restore", &restore)
      // The bytes of its state file.
      .def("content",
           [](const Learner& l, const ModelFile& model, bool carries, const nb::list& names) {
             return state_bytes(model, carries, l.settings(), names, l.content(), [&](Tensors& tensors) { add_tail(tensors, l.tail()); });
           })
      .def("footprint", &footprint, nb::arg("capacity"), nb::arg("stored"), nb::arg("images"), nb::arg("classes"), nb::arg("threads"), nb::arg("anywhere") = false)
      .def("prediction_bytes", [](const Learner& l, int64_t images, int views, int threads) {
        return l.footprint().prediction(images, views, threads, static_cast<int64_t>(l.classes()));
      });
}

}  // namespace bitreplay::binding
