// label: cpu
// Who may write under a .partial name: one at a time, after a killed one, and never what was published.
#include "io/partial_claim.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/outcome.h"
#include "tests/support/temporary_directory.h"

namespace capstan {
namespace {
namespace fs = std::filesystem;
using Kind = PartialClaim::Kind;

class Partial : public ::testing::TestWithParam<Kind> {
 protected:
  std::string refusal() const {
    return support::refusal_of(ExitCode::cannot_create, [&] { PartialClaim(partial_, GetParam()); });
  }
  bool is_clear() const {
    return GetParam() == Kind::file ? fs::is_regular_file(partial_)
                                    : fs::is_directory(partial_) && fs::is_empty(partial_);
  }
  const support::TemporaryDirectory directory_;
  const fs::path partial_ = directory_.path() / "model.partial";
};

TEST_P(Partial, IsHeldByOne) {
  const PartialClaim claim(partial_, GetParam());
  EXPECT_TRUE(is_clear());
  EXPECT_NE(refusal().find("model.partial"), std::string::npos);
  for (const Kind kind : {Kind::file, Kind::directory})  // nor by one that would make something else of it
    EXPECT_THROW(PartialClaim(partial_, kind), Error);
  EXPECT_TRUE(is_clear());
}

TEST_P(Partial, LeftBehindIsUsedAgain) {
  { const PartialClaim killed(partial_, GetParam()); }
  if (GetParam() == Kind::directory) {
    fs::create_directories(partial_ / "deep" / "er");
    write_file_atomically(partial_ / "deep" / "file", "old");
  }
  const PartialClaim claim(partial_, GetParam());
  EXPECT_TRUE(is_clear());
}

TEST_P(Partial, OfAnotherKindMakesRoom) {
  { const PartialClaim killed(partial_, GetParam() == Kind::file ? Kind::directory : Kind::file); }
  { const PartialClaim claim(partial_, GetParam()); }
  EXPECT_TRUE(is_clear());
  fs::remove(partial_);
  write_file_atomically(directory_.path() / "precious", "text");
  fs::create_symlink(directory_.path() / "precious", partial_);
  const PartialClaim claim(partial_, GetParam());
  EXPECT_TRUE(is_clear());
  EXPECT_FALSE(fs::is_symlink(partial_));
  EXPECT_EQ(read_whole_file(directory_.path() / "precious", 10), "text");
}

TEST_P(Partial, ThatWasRenamedLeavesTheNameFree) {
  const PartialClaim first(partial_, GetParam());
  fs::rename(partial_, directory_.path() / "model");
  EXPECT_NE(
      support::refusal_of(ExitCode::cannot_create, [&] { refuse_taken(directory_.path() / "model"); }).find("there"),
      std::string::npos);
  const PartialClaim second(partial_, GetParam());
  EXPECT_TRUE(is_clear());
}

TEST_P(Partial, ThatCannotBeIsRefused) {
  write_file_atomically(directory_.path() / "file", "");
  fs::create_symlink(directory_.path() / "loop", directory_.path() / "loop");
  for (const fs::path& path : {directory_.path() / "file" / "in", directory_.path() / "loop" / "in",
                               directory_.path() / std::string(300, 'n')}) {
    EXPECT_FALSE(support::refusal_of(ExitCode::cannot_create, [&] { PartialClaim(path, GetParam()); }).empty());
    EXPECT_FALSE(support::refusal_of(ExitCode::cannot_create, [&] { refuse_taken(path); }).empty());
  }
  EXPECT_NO_THROW(refuse_taken(directory_.path() / "new"));
  EXPECT_FALSE(support::refusal_of(ExitCode::cannot_create, [&] { refuse_taken(directory_.path() / "loop"); }).empty());
}

INSTANTIATE_TEST_SUITE_P(Kinds, Partial, ::testing::Values(Kind::file, Kind::directory),
                         [](const auto& info) { return info.param == Kind::file ? "File" : "Directory"; });

}  // namespace
}  // namespace capstan
