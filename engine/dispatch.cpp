// Chooses the kernel table once: the processor's best, or what BITREPLAY_ISA asks for.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace bitreplay {
namespace {

#if defined(BITREPLAY_HAVE_AVX2)
constexpr char kNames[] = "scalar or avx2 or avx512 (where the processor has it)";
#elif defined(BITREPLAY_HAVE_NEON)
constexpr char kNames[] = "scalar or neon";
#else
constexpr char kNames[] = "scalar";
#endif

[[maybe_unused]] const Kernels& require(bool available, const Kernels& table) {
  if (available) return table;
  throw std::runtime_error(std::string("BITREPLAY_ISA: ") + table.isa + " is not available on this processor; unset it or use scalar");
}

const Kernels& choose() {
  const char* asked = std::getenv("BITREPLAY_ISA");
  const std::string isa = asked ? asked : "";
  if (isa == "scalar") return kernels_scalar();
#ifdef BITREPLAY_HAVE_AVX2
  if (isa == "avx512" || (isa.empty() && has_avx512())) return require(has_avx512(), kernels_avx512());
  if (isa == "avx2" || (isa.empty() && has_avx2())) return require(has_avx2(), kernels_avx2());
#endif
#ifdef BITREPLAY_HAVE_NEON
  if (isa == "neon" || isa.empty()) return kernels_neon();
#endif
  if (isa.empty()) return kernels_scalar();
  throw std::runtime_error(std::string("BITREPLAY_ISA: expected ") + kNames + ", got " + isa);
}

}  // namespace

#ifdef BITREPLAY_HAVE_AVX2
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2");
}

bool has_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512bitalg");
}
#endif

const Kernels& kernels() {
  static const Kernels& table = choose();
  return table;
}

}  // namespace bitreplay
