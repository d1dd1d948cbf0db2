#pragma once
// The product of all layouts as rows of levels, and what each is compared with: {gpt, llama} x tp x sequence parallel x
// pp x schedule x cp x dp x ZeRO x recomputation, on at most 16 ranks. Four data ranks are two replicas of two, among
// which ZeRO divides.

#include "tests/parallel/covering_array.h"
#include "tests/parallel/layout_twin.h"

namespace capstan::testing {

enum Factor { kModel, kTp, kSequence, kPp, kSchedule, kCp, kDp, kZero, kRecompute };
inline const std::vector<int> kLevels{2, 3, 2, 3, 4, 2, 3, 4, 4};

/// A factor that does nothing stands at its first level.
inline bool allowed(const Row& row) {
  const bool tp = row[kTp] > 0, pp = row[kPp] > 0, dp = row[kDp] > 0;
  if ((row[kSequence] > 0 && !tp) || (row[kSchedule] > 0 && !pp) || (row[kZero] > 0 && !dp)) return false;
  // Of four data ranks each has two microbatches: too few to go round four stages.
  if (row[kDp] == 2 && row[kPp] == 2 && static_cast<ScheduleKind>(row[kSchedule]) == ScheduleKind::interleaved)
    return false;
  return (1 << row[kTp]) * (1 << row[kPp]) * (1 << row[kCp]) * (1 << row[kDp]) <= 16;
}

inline Layout layout_of(const Row& row) {
  Layout layout;
  layout.tp = 1 << row[kTp], layout.sequence_parallel = row[kSequence] > 0;
  layout.pp = 1 << row[kPp], layout.schedule = static_cast<ScheduleKind>(row[kSchedule]);
  layout.interleave = layout.schedule == ScheduleKind::interleaved ? 2 : 1;
  layout.cp = 1 << row[kCp], layout.dp = 1 << row[kDp];
  layout.zero_ranks = layout.dp == 4 ? 2 : 0;
  layout.zero = row[kZero], layout.recompute = static_cast<Recompute::Policy>(std::min(row[kRecompute], 2));
  if (row[kRecompute] == 3) layout.recompute_layers = 3;  // the fourth, on whatever stage, is kept
  int sum = 0;  // where data ranks are several, rows take turns at how their sums travel
  for (const int level : row) sum += level;
  if (layout.dp > 1) layout.beside = static_cast<Beside>(sum % 3);
  return layout;
}

/// Two layers for each chunk at most: as many as any layout needs.
inline DecoderConfig model_of(const Row& row, int64_t layers) {
  DecoderConfig model = row[kModel] == 0 ? tiny_gpt() : tiny_llama();
  model.layers = layers, model.context = 16;
  return model;
}

constexpr int64_t kProductBatch = 8;

/// Five steps in fp64 on the reference kernels, against one rank.
inline void expect_row_is_its_twin(const Row& row) {
  const Layout layout = layout_of(row);
  const int64_t layers = layout.pp * layout.interleave > 4 ? 8 : 4;
  static std::map<std::pair<int, int64_t>, TwinOutcome> known;
  const std::pair<int, int64_t> key{row[kModel], layers};
  const TrainingSpec spec = tiny_spec(model_of(row, layers));
  if (!known.contains(key)) known[key] = train_twin(spec, {}, kernels::reference_backend(), 1, kProductBatch);
  SCOPED_TRACE(name_of(layout) + (row[kModel] == 0 ? " of gpt" : " of llama"));
  const TwinOutcome many =
      train_twin(spec, layout, kernels::reference_backend(), layout.dp == 4 ? 2 : 4, kProductBatch);
  expect_twins(known.at(key), many, 1e-12, 1e-9);
}

}  // namespace capstan::testing
