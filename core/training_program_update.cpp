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

template <typename Record>
void beside(Recorder& recorder, Record record) {
  recorder.set_lane(true);
  record();
  recorder.set_lane(false);
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
    const auto reduce = [&] { reduce_in_place(recorder, run_name("gradients.owed", index), name); };
    ordered() ? reduce() : beside(recorder, reduce);
    if (shared) sum_over_ends(recorder, recorder.persistent(name), recorder.persistent(name));
    return recorder.persistent(name);
  }
  Value value = recorder.persistent(name);
  if (!gradients_divided() && run.gradients != run.placements) {
    value = recorder.persistent(run_name("gradients.owed", index));
    const Value piece = recorder.persistent(run_name("gradients.piece", index));
    beside(recorder, [&] { recorder.convert_into(value, Axis::dp, Shard(0), piece); });
    value = piece;
  }
  if (on(recorder.spec(value).placements, Axis::rep).is_partial()) value = summed_over_replicas(recorder, value);
  for (const Axis axis : kAllAxes)
    if (on(recorder.spec(value).placements, axis).is_partial()) value = recorder.convert(value, axis, Replicate);
  if (shared) value = sum_over_ends(recorder, value);
  if (!state_divided() && on(recorder.spec(value).placements, Axis::dp).is_shard())
    gather_whole(recorder, value, index);
  return value;
}

/// Just before the run is reduced, wherever that is: afterwards its place holds the sum. Of the report's cell, which a
/// step begins with 0.
void TrainingProgram::record_own_squares(Recorder& recorder, size_t run) {
  beside(recorder, [&] {
    record_weighted_square_sum(recorder, recorder.persistent(run_name("gradients.own", run)),
                               recorder.persistent("step.own_weight"), recorder.persistent("step.own_scratch"),
                               recorder.persistent("step.own_squares"), Accumulate::always);
  });
}

/// In the place of the piece.
Value TrainingProgram::summed_over_replicas(Recorder& recorder, Value piece) {
  PersistentSpace& space = program_.persistent();
  TensorSpec spec = recorder.spec(piece);
  spec.placements = with(spec.placements, Axis::rep, Replicate);
  const std::string name = recorder.tape().at(piece.id).name;
  space.add_view(name + ".summed", spec, space.find(name), 0);
  const Value sum = recorder.persistent(name + ".summed");
  beside(recorder, [&] { recorder.convert_into(piece, Axis::rep, Replicate, sum); });
  return sum;
}

/// Where every data rank updates all: recorded with the reduction, so that it travels with it.
void TrainingProgram::gather_whole(Recorder& recorder, Value gradient, size_t run) {
  const Value whole = recorder.persistent(run_name("gradients", run));
  beside(recorder, [&] { recorder.convert_into(gradient, Axis::dp, Replicate, whole); });
}

/// Each data rank casts its piece of a run of masters; together they are the working copies. Nothing waits for them
/// before the next step reads them.
void TrainingProgram::gather_working(Recorder& recorder, size_t run) const {
  Value piece = recorder.persistent(run_name("parameters", run));
  const Value whole = recorder.persistent(run_name("working", run));
  if (recorder.spec(piece).dtype != recorder.spec(whole).dtype) {
    copy_into(recorder, piece, recorder.persistent(run_name("working.piece", run)));
    piece = recorder.persistent(run_name("working.piece", run));
  }
  beside(recorder, [&] { recorder.convert_into(piece, Axis::dp, Replicate, whole); });
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
  const int stage = view_.stage;
  std::vector<Value> gradients(layout_.runs.size()), counted(layout_.runs.size());
  for (size_t i = layout_.run_of.size(); i-- > 0;) {  // as the backward pass leaves them
    const size_t run = static_cast<size_t>(layout_.run_of[i]);
    if (layout_.run_of[i] < 0 || !layout_.runs[run].held || gradients[run].present()) continue;
    if (knows_own_gradients()) record_own_squares(recorder, run);
    gradients[run] = reduced_gradient(recorder, run);
    if (holders_[i].front() == stage) counted[run] = gradients[run];
  }
  record_not_finite(recorder, recorder.persistent("step.loss_sum"), recorder.persistent("step.bad_rank"));
  reduce_in_place(recorder, "step.report");
  record_norm(recorder, counted);
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    if (!gradients[r].present()) continue;
    const auto run = [&](const char* flat) { return recorder.persistent(run_name(flat, r)); };
    Value gradient = state_divided() ? recorder.convert(gradients[r], Axis::dp, Shard(0)) : gradients[r];
    if (!state_divided() && on(recorder.spec(gradient).placements, Axis::dp).is_shard()) gradient = run("gradients");
    AdamWSpec optimizer = spec_.optimizer;
    if (!layout_.runs[r].decay) optimizer.weight_decay = 0.0;
    record_adamw(recorder, optimizer, gradient, run("parameters"), run("moment1"), run("moment2"),
                 has_working() && !state_divided() ? run("working") : Value{});
    if (state_divided() && !parameters_divided()) gather_working(recorder, r);
  }
}

/// Working copies from masters, wherever these are.
void TrainingProgram::record_refresh() {
  Recorder recorder = program_.recorder(recorder_options(false));
  recorder.set_part(Part::update);
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    if (!layout_.runs[r].held) continue;
    if (state_divided())
      gather_working(recorder, r);
    else
      copy_into(recorder, recorder.persistent(run_name("parameters", r)), recorder.persistent(run_name("working", r)));
  }
  program_.add("refresh", std::move(recorder.tape()));
}

}  // namespace capstan
