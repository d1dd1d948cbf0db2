// label: cpu
// Which layers have a window, from lists that may be anybody's: what is unrolled is bounded by the layers.
#include "io/weights/layer_kinds.h"

#include <gtest/gtest.h>

#include "tests/support/outcome.h"

namespace capstan {
namespace {

std::vector<bool> windows(const std::string& list, int64_t layers) {
  const LayerKinds kinds{"global", "local", true};
  return windows_of_kinds(parse_json(list, "list"), kinds, layers, [](const auto& wanted, const auto& got) {
    return Error::make(ExitCode::bad_data, "wanted {}, got {}", wanted, got);
  });
}

std::string refusal(const std::string& list, int64_t layers) {
  return support::refusal_of(ExitCode::bad_data, [&] { windows(list, layers); });
}

TEST(LayerKinds, AreUnrolled) {
  EXPECT_EQ(windows(R"(["global", [["local"], 2], [["global"], 0]])", 3), (std::vector<bool>{false, true, true}));
}

TEST(LayerKinds, OfAPeriodOfNothingAreRefused) {
  for (const char* list : {R"([[[], 1], "global"])", R"([[[], 0], "global"])", R"([[[], 65536]])"})
    EXPECT_NE(refusal(list, 1).find("a period of no layers"), std::string::npos) << list;
}

TEST(LayerKinds, AreNoMoreThanThereAreLayers) {
  for (const char* list : {R"(["global", "global", "global"])", R"([[["global"], 3]])", R"([[["global"], 1e300]])",
                           R"(["global", [["global"], 2]])", R"([[["global", "local", "x"], 1]])"})
    EXPECT_FALSE(refusal(list, 2).empty()) << list;
  EXPECT_NE(refusal(R"(["global"])", 2).find("got 1"), std::string::npos);
  EXPECT_FALSE(refusal(R"([["global", 2]])", 2).empty());
}

}  // namespace
}  // namespace capstan
