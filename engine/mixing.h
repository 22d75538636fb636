// How the logits of the frozen branch and of the trained one make one (docs/method.md, 7.7).
#pragma once

#include <cstdint>

namespace bitreplay {

inline constexpr int kMixingBits = 16;
inline constexpr int64_t kMostMixing = int64_t{1} << 20;

// logit = frozen * l(frozen) + branch * l(trained); 16 fraction bits each.
struct Mixing {
  int64_t frozen = int64_t{1} << kMixingBits;
  int64_t branch = 0;
};

}  // namespace bitreplay
