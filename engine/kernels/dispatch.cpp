// Chooses the kernel table once: the processor's best, or what BITREPLAY_ISA asks for.
#include <cstdlib>
#include <cstring>

#include "error.h"
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

[[maybe_unused]] const Kernels& require_isa(bool available, const Kernels& table) {
  if (available) return table;
  fail(Error::environment, "BITREPLAY_ISA: {} is not available on this processor; unset it or use scalar", {table.isa});
}

const Kernels& choose() {
  const char* asked = std::getenv("BITREPLAY_ISA");
  const bool any = asked == nullptr || *asked == '\0';
  const auto is = [&](const char* isa) { return !any && std::strcmp(asked, isa) == 0; };
  if (is("scalar")) return kernels_scalar();
#ifdef BITREPLAY_HAVE_AVX2
  if (is("avx512") || (any && has_avx512())) return require_isa(has_avx512(), kernels_avx512());
  if (is("avx2") || (any && has_avx2())) return require_isa(has_avx2(), kernels_avx2());
#endif
#ifdef BITREPLAY_HAVE_NEON
  if (any || is("neon")) return kernels_neon();
#endif
  if (any) return kernels_scalar();
  fail(Error::environment, "BITREPLAY_ISA: expected {}, got {}", {kNames, asked});
}

}  // namespace

#ifdef BITREPLAY_HAVE_AVX2
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2");
}

bool has_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vpopcntdq") &&
         __builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("bmi2");
}
#endif

const Kernels& kernels() {
  static const Kernels& table = choose();
  return table;
}

}  // namespace bitreplay
