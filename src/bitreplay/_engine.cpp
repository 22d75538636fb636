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
#include <tuple>
#include <utility>
#include <vector>

#include "learn/conv_trainer.h"
#include "fixed_point.h"
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

// What a state keeps of a trained block: name, dtype, number of values, largest magnitude.
nb::list kept_values(int channels, int weight_bits, bool threshold, bool activation) {
  const bool has[] = {true, threshold, activation};
  const size_t taps = static_cast<size_t>(channels) * 9;
  bitreplay::TailBlock block;
  if (weight_bits == 1) block.bits = bitreplay::Buffer<uint64_t>(taps * static_cast<size_t>(bitreplay::words_for(channels)));
  if (weight_bits == 8) block.shadow8 = bitreplay::Buffer<int8_t>(taps * static_cast<size_t>(channels));
  if (weight_bits == 16) block.shadow16 = bitreplay::Buffer<int16_t>(taps * static_cast<size_t>(channels));
  bitreplay::TailBlock::each_master(block, [&](const bitreplay::Master& what, auto& master, auto&) {
    if (has[what.part]) master = bitreplay::Buffer<int32_t>(static_cast<size_t>(channels));
  });
  nb::list kept;
  bitreplay::TailBlock::each_kept(block, [&]<class T>(const char* name, const bitreplay::Buffer<T>& values, int32_t most) {
    const std::string dtype = (std::is_signed_v<T> ? "int" : "uint") + std::to_string(8 * sizeof(T));
    kept.append(nb::make_tuple(name, dtype, values.size(), most == 0 ? UINT64_MAX : static_cast<uint64_t>(most)));
  });
  return kept;
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
  m.def("kept_values", &kept_values);

  nb::class_<Network>(m, "Network")
      .def(nb::init<int>())
      .def("add_conv",
           [](Network& n, int in, int out, int kernel, int stride, bool depthwise, bool relu, int shift, const Flat<int8_t>& weight,
              const Flat<int16_t>& multiplier, const Flat<int64_t>& bias) {
             n.add_conv(in, out, kernel, stride, depthwise, relu, shift, view(weight), view(multiplier), view(bias));
           })
      .def("add_block",
           [](Network& n, int channels, int shift, const Flat<uint64_t>& weight, const Flat<int16_t>& mean,
              const Flat<int16_t>& multiplier, const Flat<int32_t>& bias, bool relu, const Flat<int16_t>& threshold,
              const Flat<int16_t>& alpha, const Flat<int16_t>& beta, const Flat<int16_t>& high, const Flat<int16_t>& low) {
             n.add_block(channels, shift, view(weight), view(mean), view(multiplier), view(bias),
                         {relu, view(threshold), view(alpha), view(beta), view(high), view(low)});
           })
      .def("add_pool", &Network::add_pool)
      .def("add_down",
           [](Network& n, int in, int out, int shift, const Flat<uint64_t>& weight, const Flat<int16_t>& mean,
              const Flat<int16_t>& multiplier, const Flat<int32_t>& bias, bool relu, const Flat<int16_t>& threshold,
              const Flat<int16_t>& alpha, const Flat<int16_t>& beta, const Flat<int16_t>& high, const Flat<int16_t>& low,
              int shortcut_shift, const Flat<uint64_t>& shortcut_weight, const Flat<int16_t>& shortcut_multiplier,
              const Flat<int64_t>& shortcut_bias) {
             n.add_down(in, out, shift, view(weight), view(mean), view(multiplier), view(bias),
                        {shortcut_shift, view(shortcut_weight), view(shortcut_multiplier), view(shortcut_bias)},
                        {relu, view(threshold), view(alpha), view(beta), view(high), view(low)});
           })
      .def("set_cut", [](Network& n, const Flat<int32_t>& threshold, const Flat<uint8_t>& direction,
                         const Flat<int16_t>& alpha) { n.set_cut(view(threshold), view(direction), view(alpha)); })
      .def("set_features",
           [](Network& n, int pool_shift, int shift, int feature_bits, const Flat<int32_t>& pool_multiplier,
              const Flat<int8_t>& weight, const Flat<int16_t>& multiplier, const Flat<int64_t>& bias, bool relu) {
             n.set_features(pool_shift, shift, feature_bits, view(pool_multiplier), view(weight), view(multiplier), view(bias), relu);
           })
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
             memory.rows.commit(memory.rows.plan(rows.data(), view(labels), offered, classes, memory.seed, memory.near), rows.data());
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
      .def("__init__", [](Learner* self, const Network& network, const nb::dict& settings, const nb::list& sources) {
        const bitreplay::Settings chosen = settings_of(settings);
        std::vector<Flat<int8_t>> shadows;  // keep the arrays alive
        std::vector<bitreplay::TailSource> tail_sources;
        for (const nb::handle source : sources) {
          const auto [shadow, exponent, approx, clip, train_high] = nb::cast<std::tuple<Flat<int8_t>, int, bool, int32_t, bool>>(source);
          shadows.push_back(shadow);
          tail_sources.push_back({view(shadow), {exponent, approx, clip, train_high}});
        }
        new (self) Learner(network, chosen, tail_sources);
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
      // values: of a state file, by the names of src/bitreplay/state.py.
      .def("restore",
           [](Learner& l, const nb::dict& values) {
             const auto get = [&]<class T>(const char* name, T) { return nb::cast<Flat<T>>(values[name]); };
             const auto rows = get("rows", uint64_t{}), seen = get("seen", uint64_t{});
             const auto labels = get("labels", uint16_t{});
             const auto count = get("count", int64_t{}), sums = get("sums", int64_t{});
             const auto weight = get("weight", int32_t{}), tail_weight = get("tail_weight", int32_t{});
             const auto past_count = get("past_count", uint32_t{});
             bitreplay::Content content;
             content.experience = nb::cast<uint64_t>(values["experience"]);
             content.rows = view(rows);
             content.labels = view(labels);
             content.seen = view(seen);
             content.count = view(count);
             content.sums.wide = view(sums);
             content.saturated = nb::cast<int64_t>(values["saturated"]);
             content.weight = view(weight);
             content.past_count = view(past_count);
             content.tail_weight = view(tail_weight);
             std::tie(content.mixing.frozen, content.mixing.branch) = nb::cast<std::tuple<int64_t, int64_t>>(values["mixing"]);
             Flat<int32_t> narrow;
             Flat<int64_t> wide;
             if (nb::try_cast(values["moment"], narrow, false)) {
               content.moment.narrow = view(narrow);
             } else {
               wide = nb::cast<Flat<int64_t>>(values["moment"]);
               content.moment.wide = view(wide);
             }
             Unlocked unlock;
             l.restore(content);
             l.prepare();
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
           })
      .def("restore_tail", [](Learner& l, size_t i, const nb::dict& values) {
        bitreplay::TailBlock& b = l.tail().blocks()[i];
        bitreplay::TailBlock::each_kept(b, [&]<class T>(const char* name, bitreplay::Buffer<T>& kept, int32_t) {
          const auto array = nb::cast<Flat<T>>(values[name]);
          if (array.size() != kept.size()) throw std::invalid_argument(std::string(name) + ": wrong size");
          std::copy_n(array.data(), array.size(), kept.data());
        });
        b.restored();
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
