// Parts of the core by themselves: the network, sums, a replay memory, the convolution that training uses off the device.
#include <stdexcept>

#include "binding.h"
#include "learn/conv_trainer.h"

namespace bitreplay::binding {
namespace {

void refuse_unless(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

nb::object latents_of(const Network& network, const Array<uint8_t, 4>& images) {
  const size_t words = network.latent_words();
  return filled<uint64_t>({images.shape(0), words}, [&](std::span<uint64_t> latents) {
    Scratch scratch = network.make_scratch();
    for (size_t i = 0; i < images.shape(0); ++i) network.latent(images.data() + i * network.image_bytes(), latents.data() + i * words, scratch);
  });
}

nb::object features_of(const Network& network, const Array<uint64_t, 2>& latents) {
  const auto width = static_cast<size_t>(network.feature_count());
  return filled<int8_t>({latents.shape(0), width}, [&](std::span<int8_t> features) {
    Scratch scratch = network.make_scratch();
    for (size_t i = 0; i < latents.shape(0); ++i) network.features(latents.data() + i * network.latent_words(), features.data() + i * width, scratch);
  });
}

void add_rows(Statistics& s, const Array<int8_t, 2>& rows, const Flat<int32_t>& labels, size_t classes) {
  refuse_unless(rows.shape(0) == labels.size() && rows.shape(1) == static_cast<size_t>(s.width()), "rows: expected features (N, width) and as many labels");
  refuse_unless(std::ranges::all_of(view(labels), [&](int32_t label) { return label >= 0 && static_cast<size_t>(label) < classes; }),
                "labels: expected 0 to classes - 1");
  Unlocked unlock;
  if (classes > s.classes()) s = Statistics(s, classes);
  for (size_t i = 0; i < labels.size(); ++i) s.add(rows.data() + i * rows.shape(1), static_cast<size_t>(labels.data()[i]));
}

nb::tuple classifier_of(const Statistics& s, double shrinkage, double pseudo_pictures, double variance) {
  refuse_unless(std::ranges::all_of(s.count(), [](int64_t n) { return n >= 1; }), "solve: expected rows of every class");
  const LinearClassifier found = solve(s, {shrinkage, pseudo_pictures, variance});
  return nb::make_tuple(array_of(found.weight, {s.classes(), static_cast<size_t>(s.width())}), array_of(found.bias, {s.classes()}), found.exponent);
}

struct Memory {
  Memory(size_t capacity, size_t words, size_t further, uint64_t s, int64_t most, bool of_features)
      : rows(capacity, words, further), seed(s), near{most, of_features} {}

  void offer(const Array<uint64_t, 2>& offered, const Flat<int32_t>& labels, size_t classes) {
    refuse_unless(offered.shape(1) == rows.row_words() && offered.shape(0) == labels.size(), "rows: wrong size");
    const std::vector<uint8_t> all(labels.size(), 1);
    rows.commit(rows.plan(offered.data(), view(labels), all, classes, seed, near), offered.data());
  }

  Replay rows;
  uint64_t seed;
  bitreplay::Near near;
};

// Values (N, H, W, C) and weights (C, 9, C).
Batch batch_of(const Array<float, 4>& x, const Array<float, 3>& weight) {
  const size_t channels = x.shape(3);
  refuse_unless(channels >= 1 && channels <= 1024 && weight.shape(0) == channels && weight.shape(1) == 9 && weight.shape(2) == channels,
                "weight: expected (C, 9, C) for values (N, H, W, C), C at most 1024");
  for (size_t i = 0; i < 3; ++i) refuse_unless(x.shape(i) >= 1 && x.shape(i) <= 65535, "expected values (N, H, W, C), each from 1 to 65535");
  refuse_unless(x.shape(1) * x.shape(2) <= 65535, "expected maps of at most 65535 pixels: sums have 32 bits");
  return {static_cast<int>(x.shape(0)), static_cast<int>(x.shape(1)), static_cast<int>(x.shape(2)), static_cast<int>(channels)};
}

nb::tuple conv_forward(ConvTrainer& trainer, const Array<float, 4>& x, const Array<float, 3>& weight, float clip) {
  const Batch batch = batch_of(x, weight);
  const auto words = static_cast<size_t>(batch.words());
  Result<float> z({x.shape(0), x.shape(1), x.shape(2), x.shape(3)});
  Result<uint64_t> bits({x.shape(0), x.shape(1), x.shape(2), words}), gate({x.shape(0), x.shape(1), x.shape(2), words});
  Unlocked unlock;
  trainer.forward(batch, x.data(), weight.data(), clip, bits.values.data(), gate.values.data(), z.values.data());
  unlock.end();
  return nb::make_tuple(z.array, bits.array, gate.array);
}

nb::tuple conv_backward(ConvTrainer& trainer, const Array<float, 4>& g, const Array<uint64_t, 4>& bits, const Array<uint64_t, 4>& gate,
                        const Array<float, 3>& weight, int gradient_bits) {
  const Batch batch = batch_of(g, weight);
  refuse_unless(gradient_bits >= 8 && gradient_bits <= 16, "gradient_bits: expected 8 to 16");
  for (const auto* packed : {&bits, &gate}) {
    refuse_unless(packed->shape(0) == g.shape(0) && packed->shape(1) == g.shape(1) && packed->shape(2) == g.shape(2) &&
                      packed->shape(3) == static_cast<size_t>(batch.words()),
                  "bits, gate: expected what forward gave for these rows");
  }
  Result<float> dx({g.shape(0), g.shape(1), g.shape(2), g.shape(3)}), dw({weight.shape(0), 9, weight.shape(0)});
  Unlocked unlock;
  trainer.backward(batch, g.data(), bits.data(), gate.data(), weight.data(), gradient_bits, dx.values.data(), dw.values.data());
  unlock.end();
  return nb::make_tuple(dx.array, dw.array);
}

}  // namespace

void bind_parts(nb::module_& m) {
  nb::class_<Network>(m, "Network")
      .def_prop_ro("image_size", &Network::image_size)
      .def_prop_ro("feature_count", &Network::feature_count)
      .def_prop_ro("feature_bits", &Network::feature_bits)
      .def_prop_ro("latent_words", &Network::latent_words)
      .def_prop_ro("latent_bits", &Network::latent_bits)
      .def_prop_ro("has_cut", &Network::has_cut)
      .def("near", &Network::near)
      .def_prop_ro("bytes", [](const Network& n) { return n.bytes(); })
      .def_prop_ro("scratch_bytes", [](const Network& n) { return n.scratch_bytes(); })
      .def("latents", &latents_of)
      .def("features_of_latents", &features_of);

  // The sums of docs/method.md, 4; for benchmarks, and for tests with sums that no pictures have.
  nb::class_<Statistics>(m, "Statistics")
      .def(nb::init<int>())
      .def("add", &add_rows)
      .def("restore",
           [](Statistics& s, const Flat<int64_t>& count, const Array<int64_t, 2>& sums, const Flat<int64_t>& moment, int64_t saturated) {
             s.restore(view(count), {{}, view(sums)}, {{}, view(moment)}, saturated);
           })
      .def_prop_ro("count", [](const Statistics& s) { return array_of(s.count(), {s.classes()}); })
      .def_prop_ro("sums", [](const Statistics& s) { return array_of(s.sums(), {s.classes(), static_cast<size_t>(s.width())}); })
      .def_prop_ro("moment", [](const Statistics& s) { return array_of(s.moment(), {s.moment().size()}); })
      .def_prop_ro("saturated", &Statistics::saturated)
      .def("solve", &classifier_of);

  // A replay memory alone, for merging; the last two: Near of engine/learn/near_equal.h.
  nb::class_<Memory>(m, "Memory")
      .def(nb::init<size_t, size_t, size_t, uint64_t, int64_t, bool>(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg("of_features") = false)
      .def("offer", &Memory::offer)
      .def("rows",
           [](const Memory& memory) {
             const size_t words = memory.rows.row_words(), size = memory.rows.size();
             return array_of(std::span(memory.rows.row(0), size * words), {size, words});
           })
      .def("labels", [](const Memory& memory) { return array_of(memory.rows.labels(), {memory.rows.size()}); });

  nb::class_<ConvTrainer>(m, "ConvTrainer").def(nb::init<int>()).def("forward", &conv_forward).def("backward", &conv_backward);
}

}  // namespace bitreplay::binding
