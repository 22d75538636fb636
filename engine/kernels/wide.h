// BITREPLAY_WIDE before a plain loop: it is compiled once for each width of vectors, and the processor chooses when the library is loaded.  For loops
// whose result is the same at any width: integers, or floats with one chain of operations a value.  Where that is not to be had, once.
#pragma once

#include <cstddef>  // of a C library that says which it is

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__) && !defined(BITREPLAY_DEVICE) && !defined(BITREPLAY_SCALAR)
#define BITREPLAY_WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define BITREPLAY_WIDE
#endif
