// The module `bitreplay._engine`: its errors, and what tells how the core runs here.
#include "binding.h"
#include "kernels/kernels.h"

namespace bitreplay::binding {
namespace {

// What is wrong with a file is a FormatError of the package, which has it from here.
void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const FileFault& fault) {
    const nb::object errors = nb::module_::import_("bitreplay.errors");
    PyErr_SetString(nb::object(errors.attr(fault.damaged ? "DamagedError" : "FormatError")).ptr(), fault.what());
  }
}

}  // namespace

NB_MODULE(_engine, m) {
  m.doc() = "The C++ core of bitreplay; use bitreplay.Learner.";
  nb::set_leak_warnings(false);  // frames that a debugger or a test runner keeps are not our leaks
  nb::exception<Cancelled>(m, "Cancelled");
  nb::register_exception_translator(translate);
  bind_parts(m);
  bind_files(m);
  bind_learner(m);
  m.def("isa", [] { return std::string(kernels().isa); });
  // Bytes of all buffers, now and at their highest: for tests.
  m.def("memory", [] { return nb::make_tuple(MemoryMeter::current.load(), MemoryMeter::peak.load()); });
  m.def("reset_memory_peak", [] { MemoryMeter::peak.store(MemoryMeter::current.load()); });
}

}  // namespace bitreplay::binding
