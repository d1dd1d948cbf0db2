// label: plan
// CSV from strangers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/scaling/random.h"
#include "cluster/scaling/table.h"
#include "tests/support/outcome.h"

namespace capstan::scaling {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string complaint(const std::string& text) {
  return support::outcome_of([&] {
           const Csv csv = parse_csv(text, "t.csv");
           measurements_from(csv, with_usual_names({}, csv.header), "t.csv");
         })
      .message;
}

TEST(ScalingCsv, QuotesLineBreaksAndMark) {
  const Csv csv = parse_csv(
      "\xef\xbb\xbf"
      "a,\"b \"\"x\"\"\",c\r\n1,\"two\r\nlines\",3\n4,,\"\"\r\n\r\n",
      "t");
  EXPECT_THAT(csv.header, ElementsAre("a", "b \"x\"", "c"));
  ASSERT_EQ(csv.rows.size(), 2u);
  EXPECT_THAT(csv.rows[0], ElementsAre("1", "two\r\nlines", "3"));
  EXPECT_THAT(csv.rows[1], ElementsAre("4", "", ""));
  EXPECT_THAT(csv.lines, ElementsAre(2u, 4u));
}

TEST(ScalingCsv, WhatIsWrongIsSaidWithItsLine) {
  EXPECT_THAT(complaint(""), HasSubstr("t.csv is empty"));
  EXPECT_THAT(complaint("n,d,loss\n"), HasSubstr("header but no rows"));
  EXPECT_THAT(complaint("n,d,loss\n1,2,3\n1,2\n"), HasSubstr("t.csv:3: 2 fields where the header has 3"));
  EXPECT_THAT(complaint("n,d,loss\n1,2,3\n\n1,2,3\n"), HasSubstr("t.csv:3: 1 fields"));
  EXPECT_THAT(complaint("n,d,loss\n1,\"2,3\n4,5,6\n"), HasSubstr("the quote opened on line 2 is never closed"));
  EXPECT_THAT(complaint("n,d,loss\n1,2\"x\",3\n"), HasSubstr("t.csv:2: a quote inside a field"));
  EXPECT_THAT(complaint("n,d,loss\n1,\"2\"x,3\n"), HasSubstr("t.csv:2: text follows a closing quote"));
  EXPECT_THAT(complaint("n,d,loss\r1,2,3\r"), HasSubstr("carriage return"));
  EXPECT_THAT(complaint(std::string("n,d,loss\n1,2,3\0\n", 17)), HasSubstr("zero byte"));
  EXPECT_THAT(complaint("n,d,loss\n1,2,nan\n"), HasSubstr("t.csv:2: column 'loss': 'nan' is not a finite number"));
  EXPECT_THAT(complaint("n,d,loss\n1,2,1e999\n"), HasSubstr("not a finite number"));
  EXPECT_THAT(complaint("n,d,loss\n1,2,3 4\n"), HasSubstr("not a finite number"));
  EXPECT_THAT(complaint("n,d,loss\n1,-2,3\n"), HasSubstr("t.csv:2: D is -2"));
  EXPECT_THAT(complaint("n,d,loss,loss\n1,2,3,4\n"), HasSubstr("stands twice"));
  EXPECT_THAT(complaint("n,d,perplexity\n1,2,3\n"), HasSubstr("which column is the loss"));
  EXPECT_EQ(complaint("n,d,loss\n1e6, +2E9 ,3\n"), "");
}

TEST(ScalingCsv, AnyBytesEndInAnErrorOrATable) {
  Random random(8, 8);
  const std::string alphabet = "01,\"\n\r e.-n\xff\0";
  for (int trial = 0; trial < 20000; ++trial) {
    std::string text = "n,d,loss\n";
    for (size_t i = random.below(60); i-- > 0;) text += alphabet[random.below(alphabet.size())];
    complaint(text);
  }
}

TEST(ScalingTable, TokensComeFromFlopsAndRunsFromNames) {
  const Csv csv = parse_csv("Model Size,Training FLOP,loss,run\n10,600,3,a\n10,1200,2,\"a\"\n20,600,3,b\n", "t");
  const Measurements m = measurements_from(csv, with_usual_names({}, csv.header), "t");
  EXPECT_THAT(m.tokens, ElementsAre(10, 20, 5));
  EXPECT_THAT(m.run, ElementsAre(0, 0, 1));
  EXPECT_EQ(m.runs(), 2);
}

}  // namespace
}  // namespace capstan::scaling
