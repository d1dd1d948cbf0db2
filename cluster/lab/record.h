#pragma once
// RunRecord: all that one training run leaves behind, in one flat row. Every field is declared once in record_fields()
// with its name, unit and sentence; the HDF5 table, CSV, JSON and the fits follow from that list and know no field by
// name. A number that is not known is NaN (real) or -1 (integer). Rule: `run` is the key: a store holds it once.

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <variant>
#include <vector>

namespace capstan {

struct RunRecord {
  static constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

  // what it was
  std::string run, sweep, kind, status = "done", reason, parent, directory;
  int64_t attempts = 1, exit_code = 0;
  // the model
  std::string preset, positions, norm, activation;
  int64_t layers = -1, width = -1, heads = -1, kv_heads = -1, head_size = -1, hidden = -1, context = -1,
          vocabulary = -1, tied = -1;
  int64_t n_embedding = -1, n_positions = -1, n_head = -1, n_blocks = -1, n_total = -1;
  // FLOP
  double flops_token_half = kUnknown, flops_token_whole = kUnknown, flops_token_executed = kUnknown,
         flops_token_6n = kUnknown, flops_token_6n_blocks = kUnknown, flops_token_hoffmann = kUnknown,
         flops_token_deepseek = kUnknown;
  double flops_half = kUnknown, flops_whole = kUnknown, flops_6nd = kUnknown;
  // data
  double tokens = kUnknown, unique_tokens = kUnknown, epochs = kUnknown;
  std::string corpus, tokenizer;
  // how it was trained
  std::string optimizer = "adamw", schedule, precision, reduction;
  double learning_rate = kUnknown, weight_decay = kUnknown, beta1 = kUnknown, beta2 = kUnknown, epsilon = kUnknown,
         clip = kUnknown, dropout = kUnknown, minimum_ratio = kUnknown, decay_fraction = kUnknown;
  int64_t seed = -1, steps = -1, warmup_steps = -1, cooldown_step = -1, global_batch = -1, batch_tokens = -1;
  // what came out
  double train_loss = kUnknown, loss = kUnknown, bits_per_byte = kUnknown, noise_scale = kUnknown;
  int64_t evaluation_samples = -1;
  // where and how fast
  std::string version, layout, device;
  int64_t ranks = -1, threads = -1;
  double seconds = kUnknown, forecast_seconds = kUnknown, tokens_per_second = kUnknown, finished_at = kUnknown;

  bool done() const { return status == "done"; }
};

struct RecordField {
  using Member = std::variant<std::string RunRecord::*, int64_t RunRecord::*, double RunRecord::*>;
  const char* name;
  const char* unit;
  const char* sentence;
  Member member;
  size_t bytes;  ///< of text in the store: longer text is cut
};
const std::vector<RecordField>& record_fields();

/// Throws Error(bad_data) naming what is wrong with a row that came from a file: no key, control characters, numbers
/// out of range. `where` stands first in the message.
void check_record(const RunRecord& record, const std::string& where);

/// RFC 4180, a header and one line a record; numbers with all their digits, unknown ones empty.
std::string records_csv(const std::vector<RunRecord>& records);
/// {"fields": {name: {unit, meaning}}, "records": [{...}]}; unknown numbers are null.
std::string records_json(const std::vector<RunRecord>& records);
/// One record as a JSON object.
std::string record_json(const RunRecord& record);

}  // namespace capstan
