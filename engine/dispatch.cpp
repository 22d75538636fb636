// Chooses the kernel table once: the processor's best, or what BITREPLAY_ISA asks for.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace bitreplay {
namespace {

#ifdef BITREPLAY_HAVE_AVX2
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2");
}
#endif

const Kernels& choose() {
  const char* asked = std::getenv("BITREPLAY_ISA");
  const std::string isa = asked ? asked : "";
  if (isa == "scalar") return kernels_scalar();
#ifdef BITREPLAY_HAVE_AVX2
  if (isa.empty() || isa == "avx2") {
    if (has_avx2()) return kernels_avx2();
    if (isa == "avx2") throw std::runtime_error("BITREPLAY_ISA: avx2 is not available on this processor; unset it or use scalar");
  }
#endif
  if (isa.empty()) return kernels_scalar();
  throw std::runtime_error("BITREPLAY_ISA: expected scalar or avx2 (where the processor has it), got " + isa);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& table = choose();
  return table;
}

}  // namespace bitreplay
