// label: cpu
// Cross-entropy: padded vocabulary, weights, rows that do not count, large logits, sums over several calls.
#include "kernels/cross_entropy.h"

#include <cstring>

#include "tests/kernels/kernel_case_suite.h"

namespace capstan::kernels::testing {
namespace {

struct CrossEntropySetting {
  int64_t rows, vocabulary, padded;
  double scale = 3.0;      ///< of the logits
  bool some_zero = false;  ///< every third row has weight 0 and an impossible target
};

Values cross_entropy_formula(const CrossEntropySetting& s, const Values& in) {
  Values out;
  double sum = 0;
  for (int64_t r = 0; r < s.rows; ++r) {
    long double total = 0;
    for (int64_t i = 0; i < s.vocabulary; ++i) {
      total += std::exp(static_cast<long double>(in.at("logits")[static_cast<size_t>(r * s.padded + i)]));
    }
    const double weight = in.at("weights")[static_cast<size_t>(r)];
    const auto logsumexp = static_cast<double>(std::log(total));
    const int64_t target = weight == 0 ? 0 : static_cast<int64_t>(in.at("targets")[static_cast<size_t>(r)]);
    const double nll = weight == 0 ? 0 : logsumexp - in.at("logits")[static_cast<size_t>(r * s.padded + target)];
    out["logsumexp"].push_back(logsumexp);
    out["nll"].push_back(nll);
    sum += weight * nll;
  }
  out["loss_sum"] = {sum};
  return out;
}

std::vector<double> logits_of(const CrossEntropySetting& s) {
  std::vector<double> logits = random_values("logits", s.rows * s.padded, s.scale);
  for (int64_t i = 0; i < s.rows * s.padded; ++i) {
    if (i % s.padded >= s.vocabulary) logits[static_cast<size_t>(i)] = std::nan("");
  }
  return logits;
}

KernelCase cross_entropy_case(const CrossEntropySetting& s) {
  KernelCase c;
  c.any_alignment = true;
  c.name = std::to_string(s.rows) + "x" + std::to_string(s.vocabulary) + "_of_" + std::to_string(s.padded) +
           (s.some_zero ? "_zero_weights" : "") + (s.scale > 10 ? "_large" : "");
  std::vector<double> targets = random_ids("targets", s.rows, s.vocabulary);
  std::vector<double> weights = random_values("weights", s.rows, 0.5);
  for (size_t r = 0; r < weights.size(); ++r) {
    weights[r] = std::round((weights[r] + 0.75) * 64) / 64;
    if (s.some_zero && r % 3 == 1) weights[r] = 0, targets[r] = r % 2 == 0 ? -100 : 1 << 30;
  }
  Stage& f = c.forward;
  f.inputs = {
      {"logits", Kind::element, logits_of(s)}, {"targets", Kind::i32, targets}, {"weights", Kind::f32, weights}};
  f.outputs = {{.name = "logsumexp", .kind = Kind::accumulation, .values = sized(s.rows), .floor = 1.0},
               {.name = "nll", .kind = Kind::accumulation, .values = sized(s.rows), .floor = 1.0},
               {.name = "loss_sum", .kind = Kind::f64, .values = sized(1), .accumulates = true, .floor = 1.0}};
  f.run = [s](const Call& call) {
    const Bindings& at = call.at;
    call.backend.cross_entropy({at.at("logits"), at.get<const int32_t>("targets"), at.get<const float>("weights"),
                                at.at("logsumexp"), at.at("nll"), at.get<double>("loss_sum"), call.accumulate, s.rows,
                                s.vocabulary, s.padded, call.dtype});
  };
  Stage& b = c.backward;
  b.inputs = {saved("logits"),
              saved("targets", Kind::i32),
              saved("weights", Kind::f32),
              saved("logsumexp", Kind::accumulation),
              {"d_loss_sum", Kind::f64, {0.37}}};
  b.outputs = {{.name = "d_logits",
                .values = sized(s.rows * s.padded),
                .starts_as = "logits",
                .gradient_of = {"logits"},
                .floor = 1e-3}};
  b.run = [s](const Call& call) {
    const Bindings& at = call.at;
    call.backend.cross_entropy_backward(
        {at.at("d_logits"), at.get<const int32_t>("targets"), at.get<const float>("weights"), at.at("logsumexp"),
         at.get<const double>("d_loss_sum"), s.rows, s.vocabulary, s.padded, call.dtype});
  };
  c.formula = [s](const Values& in) { return cross_entropy_formula(s, in); };
  return c;
}

/// Columns [first, first + count) of a row-major matrix, from or to where they lie dense.
void copy_columns(const Backend& backend, void* matrix, void* dense, bool out, int64_t rows, int64_t columns,
                  int64_t first, int64_t count, size_t size) {
  void* at = static_cast<char*>(matrix) + static_cast<size_t>(first) * size;
  const size_t run = static_cast<size_t>(count) * size, stride = static_cast<size_t>(columns) * size;
  if (out) {
    backend.copy({at, dense, run, rows, stride, run});
  } else {
    backend.copy({dense, at, run, rows, run, stride});
  }
}

/// The same loss and gradient formed over `shards` equal shards of the columns, some of them perhaps all padding.
KernelCase sharded_case(const CrossEntropySetting& s, int64_t shards) {
  KernelCase c = cross_entropy_case(s);
  c.name += "_in_" + std::to_string(shards);
  const int64_t columns = s.padded / shards;
  const auto meant = [=](int64_t first) { return std::clamp<int64_t>(s.vocabulary - first, 0, columns); };
  c.forward.run = [=](const Call& call) {
    const Bindings& at = call.at;
    const size_t size = bytes_of(call.dtype), wide = bytes_of(accumulation_of(call.dtype));
    const size_t statistics = static_cast<size_t>(s.rows * shards * kCrossEntropyStatistics) * wide;
    const BackendMemory all(call.backend, statistics), mine(call.backend, statistics);
    const BackendMemory logits(call.backend, static_cast<size_t>(s.rows * columns) * size);
    for (int64_t i = 0; i < shards; ++i) {
      copy_columns(call.backend, at.at("logits"), logits.at(), true, s.rows, s.padded, i * columns, columns, size);
      call.backend.cross_entropy_statistics({logits.at(), at.get<const int32_t>("targets"), mine.at(), s.rows,
                                             meant(i * columns), columns, i * columns, call.dtype});
      copy_columns(call.backend, all.at(), mine.at(), false, s.rows, shards * kCrossEntropyStatistics,
                   i * kCrossEntropyStatistics, kCrossEntropyStatistics, wide);
    }
    call.backend.cross_entropy_combine({all.at(), at.get<const int32_t>("targets"), at.get<const float>("weights"),
                                        at.at("logsumexp"), at.at("nll"), at.get<double>("loss_sum"), call.accumulate,
                                        s.rows, shards, s.vocabulary, call.dtype});
  };
  c.backward.run = [=](const Call& call) {
    const Bindings& at = call.at;
    const size_t size = bytes_of(call.dtype);
    const BackendMemory logits(call.backend, static_cast<size_t>(s.rows * columns) * size);
    for (int64_t i = 0; i < shards; ++i) {
      copy_columns(call.backend, at.at("d_logits"), logits.at(), true, s.rows, s.padded, i * columns, columns, size);
      call.backend.cross_entropy_backward({logits.at(), at.get<const int32_t>("targets"),
                                           at.get<const float>("weights"), at.at("logsumexp"),
                                           at.get<const double>("d_loss_sum"), s.rows, meant(i * columns), columns,
                                           call.dtype, i * columns, s.vocabulary});
      copy_columns(call.backend, at.at("d_logits"), logits.at(), false, s.rows, s.padded, i * columns, columns, size);
    }
  };
  return c;
}

std::vector<KernelCase> cross_entropy_cases() {
  std::vector<KernelCase> cases;
  for (const CrossEntropySetting& s : {CrossEntropySetting{1, 1, 1},
                                       {2, 3, 3},
                                       {3, 2, 8},
                                       {17, 63, 64},
                                       {5, 257, 257},
                                       {64, 65, 80},
                                       {9, 17, 17, 3.0, true},
                                       {63, 257, 320, 3.0, true},
                                       {4, 64, 64, 80.0},
                                       {3, 5003, 5056},
                                       {33, 2500, 2528}}) {
    cases.push_back(cross_entropy_case(s));
  }
  for (const int64_t shards : {2, 4}) {
    cases.push_back(sharded_case({17, 63, 64}, shards));
    cases.push_back(sharded_case({9, 17, 48, 3.0, true}, shards));  // the last shard of 4 is nothing but padding
    cases.push_back(sharded_case({4, 64, 64, 80.0}, shards));
    cases.push_back(sharded_case({3, 5003, 5056}, shards));
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(CrossEntropy, KernelSuite, all_of(cross_entropy_cases()));

TEST(CrossEntropy, LargeLogitsNeitherOverflowNorVanish) {
  const CrossEntropySetting s{2, 3, 3};
  const KernelCase c = cross_entropy_case(s);
  Values values = inputs_of(c.forward);
  values["logits"] = {1e4, 0, -1e4, -3e4, -3e4, -3e4};
  values["targets"] = {0, 1};
  values["weights"] = {1, 1};
  for (const Backend& backend : all_backends()) {
    const Values got = run_stage(c.forward, backend, DType::f32, values).values;
    EXPECT_NEAR(got.at("nll")[0], 0.0, 1e-6) << backend.instruction_set;
    EXPECT_NEAR(got.at("nll")[1], std::log(3.0), 2e-2) << backend.instruction_set;  // 3e4 has a spacing of 2e-3
  }
}

TEST(CrossEntropy, RowsWithoutWeightGetAZeroGradient) {
  const KernelCase c = cross_entropy_case({9, 17, 20, 3.0, true});
  const Values values = rounded_inputs(c.backward, backward_inputs(c, inputs_of(c.forward)), DType::f32);
  for (const Backend& backend : all_backends()) {
    const std::vector<double> d = run_stage(c.backward, backend, DType::f32, values).values.at("d_logits");
    for (size_t i = 0; i < d.size(); ++i) {
      if (i / 20 % 3 == 1 || i % 20 >= 17) {
        EXPECT_EQ(d[i], 0.0) << backend.instruction_set << " at " << i;
      }
    }
  }
}

TEST(CrossEntropy, LossScaleMultipliesTheGradient) {
  const CrossEntropySetting s{9, 17, 20, 3.0, true};
  const KernelCase c = cross_entropy_case(s);
  for (const Backend& backend : all_backends()) {
    for (const DType dtype : backend.dtypes) {
      const Values values = rounded_inputs(c.backward, backward_inputs(c, inputs_of(c.forward)), dtype);
      const std::vector<double> plain = run_stage(c.backward, backend, dtype, values).values.at("d_logits");
      Stage scaled = c.backward;
      const double scale = 64.0;
      scaled.run = [&](const Call& call) {
        CrossEntropyBackwardArgs args;
        args.logits = call.at.at("d_logits"), args.targets = call.at.get<const int32_t>("targets");
        args.weights = call.at.get<const float>("weights"), args.logsumexp = call.at.at("logsumexp");
        args.gradient_scale = call.at.get<const double>("d_loss_sum"), args.loss_scale = &scale;
        args.rows = s.rows, args.vocabulary = s.vocabulary, args.padded = s.padded, args.dtype = call.dtype;
        call.backend.cross_entropy_backward(args);
      };
      std::vector<double> want = plain, got = run_stage(scaled, backend, dtype, values).values.at("d_logits");
      for (double& d : want) d *= scale;
      // A power of two moves no bit but those that f16 has lost below its smallest numbers.
      expect_close(got, want, dtype == DType::f16 ? 5e-4 : 0.0, 0.0, backend.name);
    }
  }
}

TEST(CrossEntropy, ReferenceRefusesATargetOutsideTheVocabulary) {
  const KernelCase c = cross_entropy_case({2, 3, 4});
  Values values = inputs_of(c.forward);
  for (const double bad : {-1.0, 3.0}) {
    values["targets"][0] = bad;
    EXPECT_THROW(run_stage(c.forward, reference_backend(), DType::f32, values), std::out_of_range);
  }
}

}  // namespace
}  // namespace capstan::kernels::testing
