#pragma once
// Schedule: who of a pipeline does what when. A table, for each stage a list of actions (forward, backward or weight
// gradient of one microbatch through one chunk), made by a pure function or read from text, checked before anything
// starts, and then played by one engine that knows no schedule by name.
// Vocabulary: p stages (ranks of axis pp), v chunks on each, m microbatches. Chunk c of the model, counted from the
// embedding on, lies on stage c % p. Backward actions whose schedule splits them form input gradients only; the weight
// gradients are actions of their own.
// Sources: GPipe (Huang et al. 2019); 1F1B (Narayanan et al. 2019, "PipeDream-Flush" 2021); interleaved 1F1B (Narayanan
// et al. 2021, "Efficient large-scale language model training on GPU clusters"); ZB-H1 (Qi et al. 2023, "Zero bubble
// pipeline parallelism"): as many microbatches under way as 1F1B, weight gradients fill the gaps.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace capstan {

enum class ScheduleKind { gpipe, one_forward_one_backward, interleaved, zero_bubble };
/// "gpipe", "1f1b", "interleaved", "zero-bubble"; nothing for any other word.
std::optional<ScheduleKind> schedule_kind(const std::string& name);

/// Messages that fit between two chunks before the sender waits: enough that a stage that is a little ahead computes
/// on.
constexpr int kPathCapacity = 2;

struct Action {
  enum class Kind : uint8_t { forward, backward, weights };
  Kind kind = Kind::forward;
  int microbatch = 0;
  int chunk = 0;  ///< of the model

  bool operator==(const Action&) const = default;
};
struct Schedule {
  int stages = 1;
  int chunks = 1;                            ///< of the model, a multiple of stages
  int microbatches = 1;                      ///< of a step, on one data rank
  bool splits_weights = false;               ///< weight gradients are actions of their own
  std::vector<std::vector<Action>> actions;  ///< by stage
  std::vector<std::string> places{};         ///< by stage: "table.txt:3", where its line stands in a file

  int stage_of(int chunk) const { return chunk % stages; }
  /// As a table has it: "F3", "B0", "W2"; with the stage's own number of the chunk as in "F3.1" where it has several.
  std::string name_of(const Action& action) const;
  /// One line a stage.
  std::string to_text() const;
};

/// Throws Error(config) when microbatches are no multiple of stages and the kind is interleaved with chunks_per_stage
/// above 1; any other kind has one chunk on each stage.
Schedule make_schedule(ScheduleKind kind, int stages, int chunks_per_stage, int microbatches);

/// A table as to_text() writes it: a line for each stage, '#' begins a comment. The number of chunks is the largest
/// named plus one. Throws Error(config) with line and word for what is no action. The table is not checked yet.
Schedule parse_schedule(const std::string& text, int stages, int microbatches, const std::string& origin);

}  // namespace capstan
