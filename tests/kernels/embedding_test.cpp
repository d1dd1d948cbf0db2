// label: cpu
// Table look-up with its gradient: repeated ids, rows never looked up, the added positions.
#include "kernels/embedding.h"

#include "tests/kernels/kernel_case_suite.h"

namespace capstan::kernels::testing {
namespace {

KernelCase embedding_case(int64_t rows, int64_t entries, int64_t width, bool add) {
  KernelCase c;
  c.any_alignment = true;
  c.name = std::to_string(rows) + "_of_" + std::to_string(entries) + "x" + std::to_string(width) + (add ? "_add" : "");
  Stage& f = c.forward;
  f.inputs = {{"ids", Kind::i32, random_ids("ids", rows, entries)},
              {"table", Kind::element, random_values("table", entries * width)}};
  f.outputs = {{"y", Kind::element, sized(rows * width)}};
  if (add) {
    f.inputs.push_back({"add", Kind::element, random_values("add", rows * width)});
    f.aliases = {{"y", "add"}};
  }
  f.run = [=](const Call& call) {
    call.backend.embedding({call.at.get<const int32_t>("ids"), call.at.at("table"), call.at.at("add"), call.at.at("y"),
                            rows, entries, width, call.dtype});
  };
  Stage& b = c.backward;
  b.inputs = {saved("ids", Kind::i32), {"d_y", Kind::element, random_values("d_y", rows * width)}};
  b.outputs = {{.name = "d_table",
                .kind = Kind::accumulation,
                .values = sized(entries * width),
                .accumulates = true,
                .gradient_of = {"table"},
                .floor = 1e-3}};
  b.scratch = [=](const Backend& backend, DType) { return backend.embedding_backward_scratch(rows, entries); };
  b.run = [=](const Call& call) {
    call.backend.embedding_backward({call.at.get<const int32_t>("ids"), call.at.at("d_y"), call.at.at("d_table"),
                                     call.accumulate, rows, entries, width, call.dtype, call.scratch});
  };
  c.formula = [=](const Values& in) {
    std::vector<double> y;
    for (int64_t i = 0; i < rows * width; ++i) {
      const auto id = static_cast<int64_t>(in.at("ids")[static_cast<size_t>(i / width)]);
      y.push_back(in.at("table")[static_cast<size_t>(id * width + i % width)] +
                  (add ? in.at("add")[static_cast<size_t>(i)] : 0.0));
    }
    return Values{{"y", y}};
  };
  return c;
}

/// The same look-up formed over `shards` equal shards of the table, each adding what it has.
KernelCase sharded_case(int64_t rows, int64_t entries, int64_t width, bool add, int64_t shards) {
  KernelCase c = embedding_case(rows, entries, width, add);
  c.name += "_in_" + std::to_string(shards);
  const int64_t part = entries / shards;
  const auto shard_of = [=](void* table, int64_t i, DType dtype) {
    return static_cast<char*>(table) + static_cast<size_t>(i * part * width) * bytes_of(dtype);
  };
  c.forward.run = [=](const Call& call) {
    for (int64_t i = 0; i < shards; ++i)
      call.backend.embedding({call.at.get<const int32_t>("ids"), shard_of(call.at.at("table"), i, call.dtype),
                              i > 0 ? call.at.at("y") : call.at.at("add"), call.at.at("y"), rows, part, width,
                              call.dtype, i * part, entries});
  };
  c.backward.run = [=](const Call& call) {
    for (int64_t i = 0; i < shards; ++i)
      call.backend.embedding_backward({call.at.get<const int32_t>("ids"), call.at.at("d_y"),
                                       shard_of(call.at.at("d_table"), i, accumulation_of(call.dtype)), call.accumulate,
                                       rows, part, width, call.dtype, call.scratch, i * part, entries});
  };
  return c;
}

std::vector<KernelCase> embedding_cases() {
  std::vector<KernelCase> cases;
  for (const bool add : {false, true}) {
    cases.push_back(embedding_case(1, 1, 1, add));
    cases.push_back(embedding_case(2, 3, 17, add));
    cases.push_back(embedding_case(17, 2, 63, add));
    cases.push_back(embedding_case(64, 257, 64, add));
    cases.push_back(embedding_case(257, 65, 3, add));
    cases.push_back(embedding_case(300, 5000, 8, add));
    cases.push_back(embedding_case(300, 40, 257, add));  // these are shared out to threads
    cases.push_back(embedding_case(600, 101, 100, add));
    cases.push_back(sharded_case(64, 256, 64, add, 2));
    cases.push_back(sharded_case(257, 64, 3, add, 4));
    cases.push_back(sharded_case(300, 40, 257, add, 2));
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Embedding, KernelSuite, all_of(embedding_cases()));

TEST(EmbeddingGradient, DoesNotChangeWithTheNumberOfThreads) {
  const KernelCase c = embedding_case(600, 101, 300, false);
  for (const Backend& backend : all_backends()) {
    std::vector<std::vector<uint8_t>> results;
    for (const int threads : {1, 2, 5}) {
      omp_set_num_threads(threads);
      const Values values = rounded_inputs(c.backward, backward_inputs(c, inputs_of(c.forward)), DType::f32);
      results.push_back(run_stage(c.backward, backend, DType::f32, values).bytes.at("d_table"));
    }
    EXPECT_TRUE(results[0] == results[1] && results[0] == results[2]) << backend.instruction_set;
  }
}

TEST(Embedding, ReferenceRefusesAnIdOutsideTheTable) {
  const KernelCase c = embedding_case(2, 3, 4, false);
  Values values = inputs_of(c.forward);
  for (const double bad : {-1.0, 3.0}) {
    values["ids"][1] = bad;
    EXPECT_THROW(run_stage(c.forward, reference_backend(), DType::f32, values), std::out_of_range);
  }
}

}  // namespace
}  // namespace capstan::kernels::testing
