// label: plan
// Choices of algorithms: remembered, shared between ranks, and read from files that somebody spoilt.
#include "kernels/product_choices.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/support/temporary_directory.h"

namespace capstan::kernels::testing {
namespace {

using Words = std::array<uint64_t, 8>;

class Directory {
 public:
  std::string path() const { return directory_ / "cache"; }  // not there yet

 private:
  const support::TemporaryDirectory directory_;
};

std::string read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

ProductChoices opened(const std::string& directory, const std::string& hardware = "A100 8.0 108 cublasLt 1") {
  ProductChoices choices(directory);
  choices.open(hardware);
  return choices;
}

TEST(ProductChoices, AreRememberedByDeviceAndLibrary) {
  const Directory directory;
  ProductChoices first = opened(directory.path());
  first.put("m1 n2 k3", Words{1, 2, ~0ull}, 1.5e-5);
  first.put("m4 n5 k6", Words{9}, 0.0);  // never timed
  EXPECT_EQ(first.save(), "");
  const ProductChoices again = opened(directory.path());
  ASSERT_NE(again.find("m1 n2 k3"), nullptr);
  EXPECT_EQ(again.find("m1 n2 k3")->algorithm, (Words{1, 2, ~0ull}));
  EXPECT_EQ(again.find("m1 n2 k3")->seconds, 1.5e-5);
  EXPECT_EQ(again.size(), 1u) << "a guess is not worth remembering";
  EXPECT_EQ(opened(directory.path(), "A100 8.0 108 cublasLt 2").size(), 0u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), {}), 1) << "nothing is left aside";
}

TEST(ProductChoices, SavingKeepsWhatOthersSaved) {
  const Directory directory;
  ProductChoices first = opened(directory.path()), second = opened(directory.path());
  first.put("x", Words{1}, 1.0);
  second.put("y", Words{2}, 2.0);
  EXPECT_EQ(first.save(), "");
  EXPECT_EQ(second.save(), "");
  EXPECT_EQ(opened(directory.path()).size(), 2u);
}

TEST(ProductChoices, TheLowestRankThatKnowsAProductDecides) {
  ProductChoices ranks[3];
  for (int r = 0; r < 3; ++r) {
    ranks[r].open("A100");
    if (r > 0) ranks[r].put("second stage", Words{static_cast<uint64_t>(10 + r)}, 1.0);
    ranks[r].put("everywhere", Words{static_cast<uint64_t>(r)}, 1.0 + r);
  }
  const std::shared_ptr<const ProductChoice> held = ranks[2].find("everywhere");
  const int before = held->number;
  const std::string bytes[] = {ranks[0].to_bytes(), ranks[1].to_bytes(), ranks[2].to_bytes()};
  for (ProductChoices& rank : ranks) {
    rank.settle();
    for (const std::string& other : bytes) EXPECT_TRUE(rank.take(other));
  }
  EXPECT_EQ(held->algorithm, Words{0}) << "who holds the entry sees the change";
  EXPECT_GT(held->number, before);
  EXPECT_EQ(ranks[2].find("second stage")->algorithm, Words{11});
  for (const ProductChoices& rank : ranks) EXPECT_EQ(rank.to_bytes(), ranks[0].to_bytes());
  ProductChoices other;
  other.open("H100");
  EXPECT_FALSE(other.take(bytes[0]));
  EXPECT_EQ(other.size(), 0u);
}

TEST(ProductChoices, SpoiltLinesAreLost) {
  const Directory directory;
  ProductChoices first = opened(directory.path());
  for (int i = 0; i < 5; ++i) first.put("m" + std::to_string(i), Words{static_cast<uint64_t>(i)}, 1.0);
  ASSERT_EQ(first.save(), "");
  const std::string whole = read(first.path());
  for (size_t at = 0; at < whole.size(); ++at) {
    for (const char to : {'\0', '\n', '\t', 'f', '\xff'}) {
      if (whole[at] == to) continue;
      std::string spoilt = whole;
      spoilt[at] = to;
      ProductChoices choices;
      choices.open(first.hardware());
      choices.take(spoilt);
      ASSERT_LT(choices.size(), 5u) << at;
      for (int i = 0; i < 5; ++i) {
        const auto found = choices.find("m" + std::to_string(i));
        ASSERT_TRUE(found == nullptr || *found == *first.find("m" + std::to_string(i))) << at;
      }
    }
    ProductChoices cut;
    cut.open(first.hardware());
    cut.take(std::string_view(whole).substr(0, at));
    ASSERT_LE(cut.size(), 5u);
  }
  std::ofstream(first.path(), std::ios::app) << std::string(1 << 20, 'x') << "\n\n\t\t\t\n";
  EXPECT_EQ(opened(directory.path()).size(), 5u);
  std::ofstream(first.path(), std::ios::app) << std::string(17 << 20, 'x');  // larger than any such file
  EXPECT_EQ(opened(directory.path()).size(), 0u);
}

TEST(ProductChoices, WhereNothingCanBeWrittenTheReasonIsTold) {
  const Directory directory;
  std::ofstream(directory.path()) << "a file";  // where the directory should be
  ProductChoices choices = opened(directory.path());
  choices.put("x", Words{1}, 1.0);
  EXPECT_NE(choices.save().find(directory.path()), std::string::npos) << choices.save();
  ProductChoices nowhere = opened("");
  EXPECT_EQ(nowhere.save(), "");
}

TEST(ProductChoices, TheDirectoryIsTheUsersOwnFirst) {
  const char* names[] = {"CAPSTAN_CACHE", "XDG_CACHE_HOME", "HOME"};
  std::string before[3];
  for (int i = 0; i < 3; ++i)
    if (const char* value = std::getenv(names[i])) before[i] = value;
  ::setenv("CAPSTAN_CACHE", "/c", 1), ::setenv("XDG_CACHE_HOME", "/x", 1), ::setenv("HOME", "/h", 1);
  EXPECT_EQ(ProductChoices::default_directory(), "/c");
  ::unsetenv("CAPSTAN_CACHE");
  EXPECT_EQ(ProductChoices::default_directory(), "/x/capstan");
  ::unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(ProductChoices::default_directory(), "/h/.cache/capstan");
  ::unsetenv("HOME");
  EXPECT_EQ(ProductChoices::default_directory(), "");
  for (int i = 0; i < 3; ++i)
    if (!before[i].empty()) ::setenv(names[i], before[i].c_str(), 1);
}

}  // namespace
}  // namespace capstan::kernels::testing
