// label: cpu
// Every table is complete, the CPU table is not the reference in disguise, and a forced instruction set is what runs.
#include "kernels/backend.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/kernels/kernel_backends.h"

namespace capstan::kernels::testing {
namespace {

struct Entry {
  std::string name;
  const void* address;
};

template <typename Result, typename... Args>
const void* address_of(Result (*function)(Args...)) {
  return reinterpret_cast<const void*>(function);
}

/// An entry that holds more than a pointer stands for itself.
template <typename Result, typename... Args>
const void* address_of(const std::function<Result(Args...)>& function) {
  using Pointer = Result (*)(Args...);
  if (const Pointer* pointer = function.template target<Pointer>()) return address_of(*pointer);
  return function ? &function : nullptr;
}

std::vector<Entry> entries_of(const Backend& b) {
  const auto address = [](const auto& entry) { return address_of(entry); };
  return {
      {"prepare_matmul", address(b.prepare_matmul)},
      {"fuses", address(b.fuses)},
      {"bias_gradient_scratch", address(b.bias_gradient_scratch)},
      {"bias_gradient", address(b.bias_gradient)},
      {"activation", address(b.activation)},
      {"activation_backward", address(b.activation_backward)},
      {"norm", address(b.norm)},
      {"norm_backward_scratch", address(b.norm_backward_scratch)},
      {"norm_backward", address(b.norm_backward)},
      {"attention_scratch", address(b.attention_scratch)},
      {"attention", address(b.attention)},
      {"attention_backward_scratch", address(b.attention_backward_scratch)},
      {"attention_backward", address(b.attention_backward)},
      {"rotary", address(b.rotary)},
      {"embedding", address(b.embedding)},
      {"embedding_backward_scratch", address(b.embedding_backward_scratch)},
      {"embedding_backward", address(b.embedding_backward)},
      {"dropout", address(b.dropout)},
      {"cross_entropy", address(b.cross_entropy)},
      {"cross_entropy_backward", address(b.cross_entropy_backward)},
      {"cross_entropy_statistics", address(b.cross_entropy_statistics)},
      {"cross_entropy_combine", address(b.cross_entropy_combine)},
      {"copy", address(b.copy)},
      {"fill", address(b.fill)},
      {"add", address(b.add)},
      {"scale", address(b.scale)},
      {"cast", address(b.cast)},
      {"not_finite", address(b.not_finite)},
      {"cache_append", address(b.cache_append)},
      {"begin_step", address(b.begin_step)},
      {"square_sum_scratch", address(b.square_sum_scratch)},
      {"square_sum", address(b.square_sum)},
      {"clip", address(b.clip)},
      {"adamw", address(b.adamw)},
  };
}

// A new entry of the table makes this fail until entries_of names it.
static_assert(sizeof(Backend) == 2 * sizeof(std::string) + sizeof(std::vector<DType>) + 29 * sizeof(void*) +
                                     5 * sizeof(std::function<void()>));

TEST(BackendTable, EveryEntryIsThere) {
  for (const Backend& backend : all_backends()) {
    const std::vector<Entry> entries = entries_of(backend);
    EXPECT_EQ(entries.size(), 34u);
    std::set<const void*> distinct;
    for (const Entry& e : entries) {
      EXPECT_NE(e.address, nullptr) << backend.name << " " << backend.instruction_set << ": " << e.name;
      distinct.insert(e.address);
    }
    EXPECT_FALSE(backend.name.empty());
    EXPECT_FALSE(backend.instruction_set.empty());
  }
}

TEST(BackendTable, CpuUsesNoReferenceKernel) {
  const std::vector<Entry> reference = entries_of(reference_backend());
  for (const Backend& backend : cpu_backends()) {
    const std::vector<Entry> entries = entries_of(backend);
    for (size_t i = 0; i < entries.size(); ++i) {
      const std::set<std::string> plain{"copy", "fill", "not_finite", "begin_step"};
      if (plain.contains(entries[i].name)) continue;  // nothing to gain there
      EXPECT_NE(entries[i].address, reference[i].address) << backend.instruction_set << ": " << entries[i].name;
    }
  }
}

TEST(BackendTable, AForcedInstructionSetIsTheOneThatRuns) {
  EXPECT_FALSE(cpu_backends().empty());
  std::set<const void*> kernels;
  for (const char* name : kInstructionSets) {
    try {
      const Backend forced = cpu_backend(name);
      EXPECT_EQ(forced.name, "cpu");
      EXPECT_EQ(forced.instruction_set, name);
      if (std::string(name) == "avx512_bf16") continue;  // differs from avx512 in the products only
      EXPECT_TRUE(kernels.insert(reinterpret_cast<const void*>(forced.norm)).second) << name << " runs another's code";
    } catch (const std::invalid_argument& refusal) {
      EXPECT_NE(std::string(refusal.what()).find(name), std::string::npos) << refusal.what();
    }
  }
  EXPECT_EQ(cpu_backend().instruction_set, cpu_backends().back().instruction_set) << "the best is the default";
  EXPECT_THROW(cpu_backend("avx9000"), std::invalid_argument);
}

TEST(BackendTable, DtypesAreThePromisedOnes) {
  EXPECT_EQ(reference_backend().dtypes, (std::vector<DType>{DType::f64, DType::f32, DType::bf16, DType::f16}));
  for (const Backend& backend : cpu_backends()) {
    const std::set<DType> dtypes(backend.dtypes.begin(), backend.dtypes.end());
    EXPECT_TRUE(dtypes.count(DType::f32) == 1 && dtypes.count(DType::bf16) == 1) << backend.instruction_set;
  }
}

}  // namespace
}  // namespace capstan::kernels::testing
