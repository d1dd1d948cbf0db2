// label: cpu
#include "io/printable.h"

#include <gtest/gtest.h>

namespace capstan {
namespace {

TEST(Printable, ControlsAndBrokenBytesAreMarks) {
  using namespace std::string_literals;
  EXPECT_EQ(printable("wte.weight"), "wte.weight");
  EXPECT_EQ(printable("\x1b[31mred\n\x7f\0end"s), "?[31mred???end");
  EXPECT_EQ(printable("a\xc2\x9b"
                      "b"),
            "a?b");                                   // CSI as one character
  EXPECT_EQ(printable("a\xe2\x80\xaetxt"), "a?txt");  // text turned round
  EXPECT_EQ(printable("\x9b\xff\xc3"), "???");
  EXPECT_EQ(printable("\xc3\xa9\xe4\xb8\xad"), "\xc3\xa9\xe4\xb8\xad");
}

TEST(Printable, IsCutBetweenCharacters) {
  EXPECT_EQ(printable(std::string(80, 'x')), std::string(80, 'x'));
  EXPECT_EQ(printable(std::string(81, 'x')), std::string(80, 'x') + "...");
  EXPECT_EQ(printable("abc\xc3\xa9", 4), "abc...");
}

TEST(Printable, MessagesKeepTheirLines) {
  EXPECT_EQ(without_controls("one\n  two\x1b[2J\n"), "one\n  two?[2J\n");
  EXPECT_EQ(without_controls(""), "");
  EXPECT_EQ(without_controls(std::string(500, 'x')), std::string(500, 'x'));
}

}  // namespace
}  // namespace capstan
