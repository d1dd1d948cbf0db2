// The update part of plan train: gradients and loss reduced, norm, clip, AdamW, working copies.

#include <algorithm>

#include "core/error.h"
#include "core/ops/conversion.h"
#include "core/ops/elementwise.h"
#include "core/ops/transfer.h"
#include "core/reduce_in_place.h"
#include "core/training_program.h"

namespace capstan {
namespace {

std::string run_name(const char* flat, size_t run) { return fmt::format("{}.run{}", flat, run); }

/// Each rank of dp casts its piece of every run of masters; together they are the working copies.
void gather_working(Recorder& recorder, const FlatLayout& layout, DType dtype) {
  for (size_t r = 0; r < layout.runs.size(); ++r)
    if (layout.runs[r].held)
      recorder.convert_into(cast(recorder, recorder.persistent(run_name("parameters", r)), dtype), Axis::dp, Replicate,
                            recorder.persistent(run_name("working", r)));
}

/// The axes over which a sum of a tensor so placed is still owed.
Placements owed_of(Placements placements) {
  for (Placement& placement : placements)
    if (placement.is_shard()) placement = Partial;
  return placements;
}

}  // namespace

/// A run of gradients with no sum owed. Fast: each rank of dp is left with one piece (reduce-scatter; other sums, over
/// replicas first, are then formed of the piece), whatever the stage of ZeRO, so that all stages sum and count alike.
/// Ordered, or with nobody to share pieces with: whole on all, summed in place.
Value TrainingProgram::reduced_gradient(Recorder& recorder, size_t index) {
  const std::string name = run_name("gradients", index);
  const FlatRun& run = layout_.runs[index];
  const auto parameter = std::find(layout_.run_of.begin(), layout_.run_of.end(), static_cast<int>(index));
  const bool shared = holders(static_cast<int>(parameter - layout_.run_of.begin())).size() > 1;
  if (ordered() || program_.mesh().size(Axis::dp) == 1) {
    reduce_in_place(recorder, run_name("gradients.owed", index), name);
    if (shared) sum_over_ends(recorder, recorder.persistent(name), recorder.persistent(name));
    return recorder.persistent(name);
  }
  Value value = recorder.persistent(name);
  if (gradients_divided() || run.gradients != run.placements) {
    if (!gradients_divided())
      value = recorder.convert(recorder.persistent(run_name("gradients.owed", index)), Axis::dp, Shard(0));
    for (const Axis axis : kAllAxes)
      if (on(recorder.spec(value).placements, axis).is_partial()) value = recorder.convert(value, axis, Replicate);
  }
  return shared ? sum_over_ends(recorder, value) : value;
}

/// The axes on which the ranks' square sums of a run are to be added: those that divide it, and the stages, of which
/// one has it.
Placements TrainingProgram::owed_by(const FlatRun& run) const {
  const Mesh& mesh = program_.mesh();
  Placements owed = owed_of(run.placements);
  if (!ordered() && on(run.gradients, Axis::dp).is_partial()) owed = with(owed, Axis::dp, Partial);
  return effective(with(owed, Axis::pp, Partial), mesh);
}

/// The square sum of all gradients. Every run has a cell of its own, in a table of the runs that are divided alike; the
/// tables are summed over the axes that divide them, and the cells are added up in the order of the runs. So the norm
/// has the same bits on however many stages of a pipeline the runs lie. Ordered sums leave padding out, which varies
/// with the ranks. A run that two stages hold counts on the first.
void TrainingProgram::record_norm(Recorder& recorder, const std::vector<Value>& gradients) {
  PersistentSpace& space = program_.persistent();
  const int64_t runs = static_cast<int64_t>(layout_.runs.size());
  std::vector<Placements> tables;
  for (const FlatRun& run : layout_.runs)
    if (std::find(tables.begin(), tables.end(), owed_by(run)) == tables.end()) tables.push_back(owed_by(run));
  Value total;
  for (size_t t = 0; t < tables.size(); ++t) {
    const std::string name = fmt::format("step.square_sums.{}", t);
    const int parent = space.add(name, {{runs}, DType::f64, tables[t]}, Purpose::scalar);
    for (size_t r = 0; r < layout_.runs.size(); ++r) {
      if (!gradients[r].present() || owed_by(layout_.runs[r]) != tables[t]) continue;
      const std::string cell = run_name(name.c_str(), r);
      space.add_view(cell, {{1}, DType::f64, tables[t]}, parent, r * sizeof(double));
      record_square_sum(recorder, ordered() ? recorder.persistent(run_name("gradients.used", r)) : gradients[r],
                        recorder.persistent(cell));
    }
    Value sums = recorder.persistent(name);
    for (const Axis axis : kAllAxes)
      if (on(tables[t], axis).is_partial()) sums = recorder.convert(sums, axis, Replicate);
    total = total.present() ? add(recorder, total, sums) : sums;
  }
  record_clip(recorder, total);
}

void TrainingProgram::record_update(Recorder& recorder) {
  if (knows_own_gradients())
    record_square_sum(recorder, recorder.persistent("gradients.own"), recorder.persistent("step.own_squares"),
                      recorder.persistent("step.own_weight"));
  reduce_in_place(recorder, "step.report");
  const int stage = view_.stage;
  std::vector<Value> gradients(layout_.runs.size()), counted(layout_.runs.size());
  for (size_t i = 0; i < layout_.run_of.size(); ++i) {
    const size_t run = static_cast<size_t>(layout_.run_of[i]);
    if (layout_.run_of[i] < 0 || !layout_.runs[run].held || gradients[run].present()) continue;
    gradients[run] = reduced_gradient(recorder, run);
    if (holders_[i].front() == stage) counted[run] = gradients[run];
  }
  record_norm(recorder, counted);
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    if (!gradients[r].present()) continue;
    const auto run = [&](const char* flat) { return recorder.persistent(run_name(flat, r)); };
    Value gradient = gradients[r];
    if (state_divided())
      gradient = recorder.convert(gradient, Axis::dp, Shard(0));
    else if (on(recorder.spec(gradient).placements, Axis::dp).is_shard())
      recorder.convert_into(gradient, Axis::dp, Replicate, run("gradients")), gradient = run("gradients");
    AdamWSpec optimizer = spec_.optimizer;
    if (!layout_.runs[r].decay) optimizer.weight_decay = 0.0;
    record_adamw(recorder, optimizer, gradient, run("parameters"), run("moment1"), run("moment2"),
                 has_working() && !state_divided() ? run("working") : Value{});
  }
  if (state_divided() && !parameters_divided()) gather_working(recorder, layout_, activation_dtype(spec_.precision));
}

/// Working copies from masters, wherever these are.
void TrainingProgram::record_refresh() {
  Recorder recorder = program_.recorder(recorder_options(false));
  recorder.set_part(Part::update);
  if (state_divided()) {
    gather_working(recorder, layout_, activation_dtype(spec_.precision));
  } else {
    for (size_t r = 0; r < layout_.runs.size(); ++r)
      if (layout_.runs[r].held)
        copy_into(recorder, recorder.persistent(run_name("parameters", r)),
                  recorder.persistent(run_name("working", r)));
  }
  program_.add("refresh", std::move(recorder.tape()));
}

}  // namespace capstan
