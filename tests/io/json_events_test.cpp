// label: cpu
// Strict JSON: what is accepted, what is refused and how the refusal reads.
#include "io/json_events.h"

#include <cmath>

#include "tests/io/checkpoint_testing.h"

namespace capstan::testing {
namespace {

TEST(JsonEvents, ValuesComeBack) {
  const JsonValue root =
      parse_json(R"( {"a": [1, -2, 3.5, "x\u00e9\n", true, null], "b": {"c": 18446744073709551615}} )", "t");
  const JsonValue::Array& a = root.member("a").array("a");
  ASSERT_EQ(a.size(), 6u);
  EXPECT_EQ(a[0].count("a"), 1u);
  EXPECT_EQ(std::get<int64_t>(a[1].content()), -2);
  EXPECT_EQ(a[2].number("a"), 3.5);
  EXPECT_EQ(a[3].text("a"), "x\xc3\xa9\n");
  EXPECT_TRUE(std::get<bool>(a[4].content()));
  EXPECT_TRUE(std::isnan(a[5].number("a")));
  EXPECT_EQ(root.member("b").member("c").count("c"), UINT64_MAX);
  EXPECT_EQ(root.find("z"), nullptr);
}

TEST(JsonEvents, DecimalsAreRoundedCorrectly) {
  uint64_t x = 88172645463325252ull;
  for (int i = 0; i < 20000; ++i) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    double value;
    std::memcpy(&value, &x, sizeof value);
    if (!std::isfinite(value)) continue;
    const std::string text = fmt::format("{:.16e}", value);
    const double got = parse_json(text, "t").number("n");
    ASSERT_EQ(std::memcmp(&got, &value, sizeof value), 0) << text;
  }
}

TEST(JsonEvents, RefusesWhatIsNotStrict) {
  const struct {
    std::string text, word;
  } cases[] = {{"", "JSON"},
               {"   ", "JSON"},
               {"{", "JSON"},
               {"{\"a\":1,}", "JSON"},
               {"[1,]", "JSON"},
               {"{'a':1}", "JSON"},
               {"{\"a\":01}", "JSON"},
               {"{\"a\":+1}", "JSON"},
               {"{\"a\":.5}", "JSON"},
               {"{\"a\":NaN}", "JSON"},
               {"{\"a\":1} x", "more"},
               {"{} {}", "more"},
               {"// c\n{}", "JSON"},
               {"\"\xff\"", "JSON"},
               {"\"a\nb\"", "JSON"},
               {"{\"a\":1,\"b\":{\"a\":1},\"a\":2}", "'a' appears twice"},
               {"{\"a\":1,\"\\u0061\":2}", "'a' appears twice"},
               {"1e999", "does not fit"},
               {std::string(100000, '['), "deep"},
               {"{\"" + std::string(2000, 'k') + "\":1}", "name of at most"}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.text.substr(0, 60));
    expect_error(ExitCode::bad_data, {"some file", c.word}, [&] { parse_json(c.text, "some file"); });
  }
  JsonLimits few;
  few.values = 3;
  few.string_bytes = 4;
  expect_error(ExitCode::bad_data, {"3 values"}, [&] { parse_json("[1,2,3]", "t", few); });
  expect_error(ExitCode::bad_data, {"4 bytes"}, [&] { parse_json("[\"12345\"]", "t", few); });
}

TEST(JsonEvents, AccessorsTeach) {
  const JsonValue root = parse_json(R"({"n": 1.0, "s": "x", "m": -1, "big": 18446744073709551616})", "t");
  for (const char* name : {"n", "s", "m", "big"})
    expect_error(ExitCode::bad_data, {name, "whole number", "got"}, [&] { root.member(name).count(name); });
  expect_error(ExitCode::bad_data, {"'none'"}, [&] { root.member("none"); });
  expect_error(ExitCode::bad_data, {"an array", "a string"}, [&] { root.member("s").array("s"); });
}

TEST(JsonEvents, RawMembers) {
  const std::string text =
      R"( { "a" : [1, {"b": "}]\"", "state":0}], "state" : { "x" : "\\" , "y":[ 1.50 ] } , "z":-1e5 })";
  parse_json(text, "t");
  EXPECT_EQ(raw_json_member(text, "state"), R"({ "x" : "\\" , "y":[ 1.50 ] })");
  EXPECT_EQ(raw_json_member(text, "z"), "-1e5");
  EXPECT_EQ(raw_json_member(text, "a"), R"([1, {"b": "}]\"", "state":0}])");
  EXPECT_EQ(raw_json_member(text, "b"), "");
  EXPECT_EQ(raw_json_member("{}", "b"), "");
  EXPECT_EQ(raw_json_member("[1]", "b"), "");
}

TEST(JsonEvents, QuoteRoundTrips) {
  std::string all;
  for (int c = 0; c < 128; ++c) all += static_cast<char>(c);
  EXPECT_EQ(parse_json(json_quote(all), "t").text("t"), all);
}

}  // namespace
}  // namespace capstan::testing
