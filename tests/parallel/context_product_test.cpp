// label: slow
// The whole product of layouts with context parallelism, each its unsharded twin.

#include "tests/parallel/context_twin.h"

namespace capstan::testing {
namespace {

using Case = std::tuple<ContextModel, int, int, bool, int, Policy>;  // cp, tp, sequence parallel, data, recomputation

/// data: -1 one rank, else the stage of ZeRO over two.
Layout layout_of(const Case& c) {
  const auto [model, cp, tp, sequence_parallel, data, recompute] = c;
  Layout layout = context(cp, tp, data < 0 ? 1 : 2);
  layout.sequence_parallel = sequence_parallel && tp > 1, layout.recompute = recompute;
  layout.zero = std::max(data, 0);
  return layout;
}

class ContextProduct : public ::testing::TestWithParam<Case> {};

TEST_P(ContextProduct, AreTheirTwins) {
  if (std::get<3>(GetParam()) && std::get<2>(GetParam()) == 1) return;  // there is nothing to divide
  expect_context_is_its_twin(std::get<0>(GetParam()), layout_of(GetParam()));
}

std::string name_of_case(const ::testing::TestParamInfo<Case>& test) {
  constexpr const char* names[] = {"gpt_", "llama_", "window_"};
  return names[std::get<0>(test.param)] + name_of(layout_of(test.param)) + (std::get<3>(test.param) ? "_s" : "");
}

INSTANTIATE_TEST_SUITE_P(Contexts, ContextProduct,
                         ::testing::Combine(::testing::Values(kGpt, kLlama, kWindow), ::testing::Values(2, 4),
                                            ::testing::Values(1, 2), ::testing::Bool(),
                                            ::testing::Values(-1, 0, 1, 2, 3),
                                            ::testing::Values(Policy::none, Policy::selective, Policy::full)),
                         name_of_case);

}  // namespace
}  // namespace capstan::testing
