// Checks of gradient.h for bitreplay_check: every instruction set gives the plain functions' results, bit for bit.
#pragma once

#include <cstdint>

namespace bitreplay {

// Returns how many checks passed; exits 1 at the first that fails and names its parameters.
long check_gradients(uint64_t seed);

// Prints the time of each part of a learning step: 178 rows, 512 channels at 4x4, one thread.
void bench_gradients();

}  // namespace bitreplay
