// Every head table equals the plain one, and that one the functions of head.h, on sizes around its tiles and on extreme values.
#include <cstdio>
#include <string>
#include <vector>

#include "check_values.h"
#include "kernels/gradient_table.h"
#include "kernels/head_kernels.h"

namespace bitreplay::check {
namespace {

std::vector<const HeadTable*> head_tables() {
  std::vector<const HeadTable*> tables;
#ifdef BITREPLAY_HAVE_AVX2
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) tables.push_back(&head_avx2());
  if (has_gradient_avx512()) tables.push_back(&head_avx512());
#endif
#ifdef BITREPLAY_HAVE_NEON
  tables.push_back(&head_neon());
#endif
  return tables;
}

class HeadCheck {
 public:
  explicit HeadCheck(const HeadTable& table) : fast_(table) {}

  void run(const HeadBatch& batch, Pattern pattern) {
    what_ = std::string(fast_.isa) + ", " + std::to_string(batch.rows) + " rows, " + std::to_string(batch.width) + " wide, " +
            std::to_string(batch.classes) + " classes, pattern " + std::to_string(static_cast<int>(pattern));
    Source random{2000000 + static_cast<uint64_t>(g_checks)};
    const auto rows = static_cast<size_t>(batch.rows), width = static_cast<size_t>(batch.width),
               classes = static_cast<size_t>(batch.classes);
    const auto features = values<int8_t>(rows * width, 127, pattern, random);
    auto forward = values<int16_t>(classes * width, 32767, pattern, random);
    if (pattern == Pattern::low) std::fill_n(forward.data(), forward.size(), INT16_MIN);
    for (const int feature_bits : {0, 4, 5, 7, 12}) {
      both<int64_t>(rows * classes, "head_logits", [&](const HeadTable& t, int64_t* out) {
        t.logits(batch, features.data(), forward.data(), feature_bits, out);
      });
    }
    for (const int magnitude : {4, 16, 19, 21, 24, 40}) {
      const auto scores = values<int64_t>(rows * classes, int64_t{1} << magnitude, pattern, random);
      const auto prior = values<int64_t>(classes, 500000, Pattern::random, random);
      for (const int ghosts : {0, 1, 8}) {
        both<int64_t>(scores.size(), "head_softmax", [&](const HeadTable& t, int64_t* out) {
          std::copy_n(scores.data(), scores.size(), out);
          t.softmax(batch, out, prior.data(), ghosts);
        });
      }
    }
    auto g = values<int16_t>(rows * classes, 32767, pattern, random);
    if (pattern == Pattern::low) std::fill_n(g.data(), g.size(), INT16_MIN);
    both<int32_t>(classes * width, "head_weight_gradient", [&](const HeadTable& t, int32_t* out) {
      Exact<uint8_t> scratch(static_cast<size_t>(head_scratch(batch)));
      t.weight_gradient(batch, features.data(), g.data(), out, scratch.data());
    });
    both<int64_t>(rows * width, "head_input_gradient",
                  [&](const HeadTable& t, int64_t* out) { t.input_gradient(batch, g.data(), forward.data(), out); });
    const auto dw = values<int32_t>(width, INT32_MAX, pattern, random);
    const auto weight = values<int32_t>(width, INT32_MAX, pattern, random);
    for (const int64_t rate : {int64_t{0}, int64_t{37}, int64_t{1} << 20, int64_t{INT32_MAX}, int64_t{1} << 31}) {
      Exact<int32_t> plain = weight, fast = weight;
      Exact<int16_t> plain_forward(width), fast_forward(width);
      head_scalar().descend({plain.data(), width}, dw.data(), rate, plain_forward.data());
      fast_.descend({fast.data(), width}, dw.data(), rate, fast_forward.data());
      expect(plain == fast && plain_forward == fast_forward, "head_descend");
    }
  }

 private:
  template <class T, class F>
  void both(size_t size, const char* name, F&& f) {
    Exact<T> plain(size), fast(size);
    f(head_scalar(), plain.data());
    f(fast_, fast.data());
    expect(plain == fast, name);
  }
  void expect(bool condition, const char* name) { check::expect(condition, condition ? std::string() : name + (": " + what_)); }

  const HeadTable& fast_;
  std::string what_;
};

void check_head(HeadCheck& check) {
  for (const Pattern pattern : kAllPatterns) {
    for (const HeadBatch& batch :
         {HeadBatch{1, 1, 1}, HeadBatch{2, 15, 3}, HeadBatch{3, 16, 4}, HeadBatch{7, 33, 5}, HeadBatch{5, 100, 13},
          HeadBatch{4, 512, 2}, HeadBatch{3, 1030, 9}, HeadBatch{128, 64, 50}, HeadBatch{2, 9000, 2}, HeadBatch{2, 65, 600}}) {
      check.run(batch, pattern);
    }
  }
  check.run({512, 32, 3}, Pattern::low);
}

}  // namespace

void check_heads() {
  for (const HeadTable* table : head_tables()) {
    HeadCheck check(*table);
    check_head(check);
    std::printf("%s head equals scalar\n", table->isa);
  }
}

}  // namespace bitreplay::check
