#include "arena.h"

#include <new>

#include "error.h"
#include "memory.h"

namespace bitreplay {
namespace {

constexpr size_t rounded(size_t bytes) { return (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment; }

}  // namespace

Arena::Arena(void* memory, size_t bytes) {
  const size_t skip = -reinterpret_cast<uintptr_t>(memory) % kBufferAlignment;
  begin_ = top_ = end_ = static_cast<unsigned char*>(memory);
  if (memory == nullptr || skip > bytes) return;
  begin_ = top_ = begin_ + skip;
  end_ = begin_ + (bytes - skip) / kBufferAlignment * kBufferAlignment;
}

void* Arena::allocate(size_t bytes) {
  const auto left = static_cast<size_t>(end_ - top_);
  if (bytes > left || rounded(bytes) > left) fail(Error::memory, "memory: {} bytes more are needed than there are", {rounded(bytes) - left});
  unsigned char* block = top_;
  top_ += rounded(bytes);
  if (static_cast<size_t>(top_ - begin_) > used_peak_) used_peak_ = static_cast<size_t>(top_ - begin_);
  return block;
}

void Arena::free(void* block, size_t bytes) noexcept {
  auto* first = static_cast<unsigned char*>(block);
  unsigned char* last = first + rounded(bytes);
  if (first < begin_ || last > top_ || bytes == 0) return;
  if (last != top_) {
    holes_ = new (block) Hole{last, holes_};
    return;
  }
  top_ = first;
  for (Hole** hole = &holes_; *hole != nullptr;) {  // another hole may have come to the top: look from the start again
    if ((*hole)->end == top_) {
      top_ = reinterpret_cast<unsigned char*>(*hole);
      *hole = (*hole)->next;
      hole = &holes_;
    } else {
      hole = &(*hole)->next;
    }
  }
}

}  // namespace bitreplay
