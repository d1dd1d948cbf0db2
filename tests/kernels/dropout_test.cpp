// label: cpu
// Dropout and the generator under it: known answers of Philox, the kept fraction, masks that follow the logical
// element.
#include "kernels/dropout.h"

#include "tests/kernels/kernel_case_suite.h"

namespace capstan::kernels::testing {
namespace {

// The vectors published with the generator (Random123, kat_vectors, philox4x32 with 10 rounds).
TEST(Philox, GivesThePublishedAnswers) {
  EXPECT_EQ(philox(0, 0, 0), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint64_t ones = ~uint64_t{0};
  EXPECT_EQ(philox(ones, ones, ones), (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, WordIsTheElementOfItsBlock) {
  for (uint64_t i = 0; i < 9; ++i) EXPECT_EQ(philox_word(5, 6, i), philox(5, i / 4, 6)[i % 4]);
  EXPECT_LT(unit_float(0xffffffffu), 1.0f);
  EXPECT_EQ(unit_float(0), 0.0f);
}

const uint64_t kKey = 1234567890123456789ull;

/// *first must outlive the stage.
Stage dropout_stage(double p, bool residual, int64_t samples, int64_t elements, const uint64_t* first) {
  Stage stage;
  stage.inputs = {{"x", Kind::element, random_values("x", samples * elements)}};
  stage.outputs = {{"y", Kind::element, sized(samples * elements)}};
  stage.aliases = {{"y", "x"}};
  if (residual) {
    stage.inputs.push_back({"residual", Kind::element, random_values("residual", samples * elements)});
    stage.aliases.push_back({"y", "residual"});
  }
  stage.run = [=](const Call& c) {
    Dropout dropout{.probability = p, .stream = 3, .key = &kKey, .first_sample = first};
    if (p == 0) dropout = {};
    c.backend.dropout({dropout, c.at.at("x"), c.at.at("residual"), c.at.at("y"), samples, elements, c.dtype});
  };
  return stage;
}

const uint64_t kFirst = 7;

std::vector<KernelCase> dropout_cases() {
  std::vector<KernelCase> cases;
  for (const double p : {0.0, 0.1, 0.5, 0.9}) {
    for (const auto& [samples, elements] :
         {std::pair<int64_t, int64_t>{1, 1}, {2, 17}, {3, 63}, {5, 257}, {2, 4096}, {3, 27778}}) {
      if (samples * elements > 10000 && p != 0.1) continue;  // one size that is shared out to threads
      for (const bool residual : {false, true}) {
        KernelCase c;
        c.any_alignment = true;
        c.name = "p" + std::to_string(static_cast<int>(p * 10)) + "_" + std::to_string(samples) + "x" +
                 std::to_string(elements) + (residual ? "_residual" : "");
        c.forward = dropout_stage(p, residual, samples, elements, &kFirst);
        c.formula = [=, elements = elements](const Values& in) {
          std::vector<double> y = in.at("x");
          for (size_t i = 0; i < y.size(); ++i) {
            const uint64_t logical = kFirst * static_cast<uint64_t>(elements) + i;
            const bool kept = philox(kKey, logical / 4, 3)[logical % 4] / 4294967296.0 >= p;
            y[i] = (kept ? y[i] / (1 - p) : 0.0) + (residual ? in.at("residual")[i] : 0.0);
          }
          return Values{{"y", y}};
        };
        // The same function applied to dy is the backward of the dropped branch.
        c.backward = dropout_stage(p, false, samples, elements, &kFirst);
        c.backward.inputs[0] = {"d_y", Kind::element, random_values("d_y", samples * elements)};
        c.backward.outputs[0] = {.name = "d_x", .values = sized(samples * elements), .gradient_of = {"x"}};
        c.backward.aliases = {{"d_x", "d_y"}};
        c.backward.run = [run = c.backward.run](const Call& call) {
          Bindings at;
          at.set("x", call.at.at("d_y"));
          at.set("y", call.at.at("d_x"));
          run({call.backend, call.dtype, at, false, call.scratch});
        };
        cases.push_back(c);
      }
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Dropout, KernelSuite, all_of(dropout_cases()));

TEST(DropoutMask, KeepsTheRightShare) {
  const double p = 0.3;
  const int64_t count = 200000;
  Stage stage = dropout_stage(p, false, 1, count, &kFirst);
  for (const Backend& backend : all_backends()) {
    const auto y = run_stage(stage, backend, DType::f32, {{"x", std::vector<double>(count, 1.0)}}).values.at("y");
    const auto dropped = std::count(y.begin(), y.end(), 0.0);
    EXPECT_NEAR(static_cast<double>(dropped) / count, p, 5 * std::sqrt(p * (1 - p) / count)) << backend.name;
  }
}

TEST(DropoutMask, DoesNotDependOnHowSamplesAreGrouped) {
  const int64_t elements = 77;
  const Stage whole = dropout_stage(0.4, false, 6, elements, &kFirst);
  const Values values = inputs_of(whole);
  for (const Backend& backend : all_backends()) {
    const std::vector<uint8_t> all = run_stage(whole, backend, DType::f32, values).bytes.at("y");
    std::vector<uint8_t> parts;
    for (uint64_t s = 0; s < 6; s += 2) {
      const uint64_t first = kFirst + s;
      const auto begin = values.at("x").begin() + static_cast<std::ptrdiff_t>(s) * elements;
      const Stage part = dropout_stage(0.4, false, 2, elements, &first);
      const auto bytes =
          run_stage(part, backend, DType::f32, {{"x", std::vector<double>(begin, begin + 2 * elements)}}).bytes.at("y");
      parts.insert(parts.end(), bytes.begin(), bytes.end());
    }
    EXPECT_TRUE(parts == all) << backend.instruction_set;
  }
}

TEST(DropoutMask, DoesNotDependOnHowASampleIsDivided) {
  const int64_t samples = 3, elements = 96, shards = 4, part = elements / shards;
  const Stage whole = dropout_stage(0.4, false, samples, elements, &kFirst);
  const Values values = inputs_of(whole);
  for (const Backend& backend : all_backends()) {
    const std::vector<double> all = run_stage(whole, backend, DType::f32, values).values.at("y");
    for (int64_t shard = 0; shard < shards; ++shard) {
      Stage stage = dropout_stage(0.4, false, samples, part, &kFirst);
      stage.run = [=](const Call& c) {
        const Dropout dropout{.probability = 0.4, .stream = 3, .key = &kKey, .first_sample = &kFirst};
        c.backend.dropout(
            {dropout, c.at.at("x"), nullptr, c.at.at("y"), samples, part, c.dtype, shard * part, elements});
      };
      std::vector<double> x;
      for (int64_t i = 0; i < samples * part; ++i)
        x.push_back(values.at("x")[static_cast<size_t>(i / part * elements + shard * part + i % part)]);
      const std::vector<double> y = run_stage(stage, backend, DType::f32, {{"x", x}}).values.at("y");
      for (int64_t i = 0; i < samples * part; ++i)
        EXPECT_EQ(y[static_cast<size_t>(i)], all[static_cast<size_t>(i / part * elements + shard * part + i % part)])
            << backend.instruction_set << " shard " << shard << " at " << i;
    }
  }
}

TEST(DropoutMask, StreamsAndKeysDiffer) {
  const auto kept = [](uint64_t key, uint64_t stream, uint64_t i) {
    return philox_word(key, stream, i) >= 0x80000000u;
  };
  int same_stream = 0, same_key = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    same_stream += kept(kKey, 1, i) == kept(kKey, 2, i);
    same_key += kept(kKey, 1, i) == kept(kKey + 1, 1, i);
  }
  EXPECT_NEAR(same_stream, 500, 80);
  EXPECT_NEAR(same_key, 500, 80);
}

}  // namespace
}  // namespace capstan::kernels::testing
