// label: cpu
// Attention where kernels change their shape: heads wider than 128, tiles of many rows, rows whose addresses are not
// multiples of 16 bytes, segments that begin and end inside tiles, each with all that goes by distance.
#include "tests/kernels/kernel_case_attention.h"
#include "tests/kernels/kernel_case_suite.h"

namespace capstan::kernels::testing {
namespace {

/// Ids of `length` tokens, a new one at each multiple of `every`.
std::vector<double> documents_of(int64_t length, int64_t every) {
  std::vector<double> ids;
  for (int64_t t = 0; t < length; ++t) ids.push_back(static_cast<double>(t / every));
  return ids;
}

AttentionSetting setting(std::string name, int64_t length, int64_t heads, int64_t kv_heads, int64_t size) {
  return {.name = std::move(name),
          .queries = length,
          .keys = length,
          .heads = heads,
          .kv_heads = kv_heads,
          .head_size = size};
}

std::vector<KernelCase> wide_cases() {
  std::vector<AttentionSetting> all;
  for (const int64_t size : {129, 200, 256}) all.push_back(setting("wide_" + std::to_string(size), 37, 2, 1, size));
  AttentionSetting rich = setting("wide_with_everything", 70, 2, 1, 136);
  rich.query_documents = rich.key_documents = documents_of(70, 29);
  rich.alibi = true, rich.table = 20, rich.relative = 40, rich.dropout = 0.2, rich.window = 33;
  all.push_back(rich);
  rich.name = "wide_full_with_gaps";
  rich.causal = false, rich.gap = 3, rich.head_size = 131;
  all.push_back(rich);
  AttentionSetting decode = setting("wide_decode", 70, 10, 1, 160);
  decode.queries = 2, decode.key_lengths = {51}, decode.with_logsumexp = false;
  all.push_back(decode);
  // More than one tile of rows, whatever its size; rows of 32 and 96 elements fill groups of dims.
  AttentionSetting tall = setting("tiles_of_rows", 150, 2, 1, 32);
  all.push_back(tall);
  tall.name = "tiles_of_documents";
  tall.query_documents = tall.key_documents = documents_of(150, 13);
  all.push_back(tall);
  tall.name = "tiles_of_documents_with_bias";
  tall.alibi = true, tall.table = 30, tall.dropout = 0.1;
  all.push_back(tall);
  AttentionSetting window = setting("tiles_of_a_window", 140, 1, 1, 96);
  window.causal = false, window.window = 40;
  all.push_back(window);
  std::vector<KernelCase> cases;
  for (const AttentionSetting& s : all) cases.push_back(attention_case(s));
  return cases;
}

INSTANTIATE_TEST_SUITE_P(AttentionWide, KernelSuite, all_of(wide_cases()));

}  // namespace
}  // namespace capstan::kernels::testing
