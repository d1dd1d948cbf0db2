#include "core/training_program.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/conversion.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"

namespace capstan {
namespace {

constexpr int64_t kScalarCount = sizeof(kernels::StepScalars) / sizeof(double);
static_assert(sizeof(kernels::StepScalars) == kScalarCount * sizeof(double));

std::string tree_name(int level, const char* what) { return fmt::format("tree.{}.{}", level, what); }

}  // namespace

TrainingProgram::TrainingProgram(const Mesh& mesh, const Device& device, const TrainingSpec& spec)
    : spec_(spec), program_(mesh, device, spec.plan) {
  model_ = std::make_unique<Decoder>(spec.model, program_.parameters(), "", mesh.size(Axis::tp));
  if (spec.training) gradients_ = gradient_placements();
  layout_ = flat_layout(program_.parameters(), master_dtype(), mesh, gradients_, mesh.size(Axis::dp));
  model_->declare_constants(program_.persistent());
  declare_state();
  declare_inputs(program_.persistent());
  if (spec.training) record_train();
  record_evaluate();
  if (has_working()) record_refresh();
}

RecorderOptions TrainingProgram::recorder_options(bool training) const {
  RecorderOptions options{training, activation_dtype(spec_.precision)};
  if (spec_.sequence_parallel) options.stream = with({}, Axis::tp, Shard(1));
  options.stream = effective(options.stream, program_.mesh());
  return options;
}

TensorSpec TrainingProgram::spec_of(const Parameter& parameter, DType dtype) const {
  return {parameter.shape, dtype, effective(parameter.placements, program_.mesh())};
}

/// What the backward pass leaves each parameter's gradient in: read off a tape over tensors that are never allocated.
std::vector<Placements> TrainingProgram::gradient_placements() const {
  PersistentSpace space(program_.mesh());
  const ParameterSet& parameters = program_.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters.at(static_cast<int>(i));
    space.add(parameter.name, spec_of(parameter, activation_dtype(spec_.precision)), Purpose::parameter);
    space.add("gradient." + parameter.name, spec_of(parameter, master_dtype()), Purpose::gradient);
  }
  model_->declare_constants(space);
  declare_inputs(space);
  Recorder recorder(program_.mesh(), space, parameters, recorder_options(true));
  record_loss(recorder, "step.loss_sum");
  record_backward(recorder);
  std::vector<Placements> placements;
  for (size_t i = 0; i < parameters.size(); ++i)
    placements.push_back(
        recorder.spec(recorder.persistent("gradient." + parameters.at(static_cast<int>(i)).name)).placements);
  return placements;
}

/// A flat buffer of this rank, whole views of its parameters, and its runs.
void TrainingProgram::declare_flat(const std::string& name, const std::string& prefix, DType dtype, Purpose purpose) {
  PersistentSpace& space = program_.persistent();
  // The buffer itself is memory of this rank; what it holds is placed by its views.
  const int parent = space.add(name, {{layout_.elements}, dtype}, purpose);
  for (size_t i = 0; i < program_.parameters().size(); ++i) {
    if (layout_.first[i] < 0) continue;
    const Parameter& parameter = program_.parameters().at(static_cast<int>(i));
    TensorSpec spec = spec_of(parameter, dtype);
    if (purpose == Purpose::gradient) spec.placements = gradients_[i];
    space.add_view(prefix + parameter.name, spec, parent, static_cast<size_t>(layout_.first[i]) * bytes_of(dtype));
  }
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    const FlatRun& run = layout_.runs[r];
    space.add_view(fmt::format("{}.run{}", name, r),
                   FlatLayout::spec(run.count, dtype, run.placements, program_.mesh()), parent,
                   static_cast<size_t>(run.first) * bytes_of(dtype));
  }
}

/// The same buffer of which each data rank holds one piece of every run: its parameters are nowhere whole.
void TrainingProgram::declare_shard(const std::string& name, DType dtype, Purpose purpose) {
  PersistentSpace& space = program_.persistent();
  const int64_t ranks = program_.mesh().size(Axis::dp);
  const int parent = space.add(name, {{layout_.elements / ranks}, dtype}, purpose);
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    const FlatRun& run = layout_.runs[r];
    TensorSpec spec = FlatLayout::spec(run.count, dtype, run.placements, program_.mesh());
    spec.placements = with(spec.placements, Axis::dp, Shard(0));
    space.add_view(fmt::format("{}.run{}", name, r), spec, parent,
                   static_cast<size_t>(run.first / ranks) * bytes_of(dtype));
  }
}

void TrainingProgram::declare_gradient_runs() {
  PersistentSpace& space = program_.persistent();
  const int parent = space.find("gradients");
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    const FlatRun& run = layout_.runs[r];
    const size_t offset = static_cast<size_t>(run.first) * bytes_of(master_dtype());
    const std::string name = fmt::format("gradients.run{}", r);
    space.add_view(name + ".owed", FlatLayout::spec(run.count, master_dtype(), run.gradients, program_.mesh()), parent,
                   offset);
    space.add_view(name + ".used", FlatLayout::spec(run.used, master_dtype(), run.placements, program_.mesh()), parent,
                   offset);
  }
}

void TrainingProgram::declare_state() {
  const DType master = master_dtype(), working = activation_dtype(spec_.precision);
  if (has_working()) declare_flat("working", "working.", working, Purpose::working);
  if (state_divided())
    declare_shard("parameters", master, Purpose::parameter);
  else
    declare_flat("parameters", "", master, Purpose::parameter);
  if (!spec_.training) return;
  declare_flat("gradients", "gradient.", master, Purpose::gradient);
  declare_gradient_runs();
  for (const char* moment : {"moment1", "moment2"})
    if (state_divided())
      declare_shard(moment, master, Purpose::moment);
    else
      declare_flat(moment, std::string(moment) + ".", master, Purpose::moment);
}

void TrainingProgram::declare_inputs(PersistentSpace& space) const {
  const Mesh& mesh = program_.mesh();
  const int ranks = mesh.size(Axis::dp);
  const Placements sharded = effective(with({}, Axis::dp, Shard(0)), mesh);
  const Placements partial = effective(with({}, Axis::dp, Partial), mesh);
  const Shape shape{spec_.microbatch * ranks, spec_.model.context};
  for (const char* name : {"input.tokens", "input.targets", "input.positions", "input.document_ids"})
    space.add(name, {shape, DType::i32, sharded}, Purpose::input);
  space.add("input.loss_weights", {shape, DType::f32, sharded}, Purpose::input);
  space.add("step.scalars", {{kScalarCount}, DType::f64}, Purpose::scalar);
  space.add("step.random", {{2}, DType::i64}, Purpose::scalar);
  space.add("step.square_sum", {{1}, DType::f64}, Purpose::scalar);
  const auto reduced = [&](const std::string& name, int64_t slots) {
    const int parent = space.add(name, {{slots}, DType::f64, partial}, Purpose::scalar);
    space.add_view(name + ".reduced", {{slots}, DType::f64}, parent, 0);
    return parent;
  };
  // Data ranks count each sample once; a request to stop may reach any rank.
  const int control = reduced("step.control", kControlSlots);
  Placements others = effective({Replicate, Partial, Partial, Partial, Partial}, mesh);
  for (const char* name : {"step.stop_requests", "step.stop_requests.reduced"}) {
    space.add_view(name, {{1}, DType::f64, others}, control, kStopRequests * sizeof(double));
    others = {};
  }
  const int report = reduced("step.report", kBadRanks + ranks);
  space.add_view("step.loss_sum", {{1}, DType::f64, partial}, report, kLossSum * sizeof(double));
  const int evaluation = reduced("evaluate.report", kEvaluationSlots);
  space.add_view("evaluate.loss_sum", {{1}, DType::f64, partial}, evaluation, kEvaluationLoss * sizeof(double));
}

DecoderInputs TrainingProgram::decoder_inputs(Recorder& recorder) const {
  DecoderInputs inputs;
  inputs.tokens = recorder.persistent("input.tokens");
  inputs.positions = recorder.persistent("input.positions");
  if (spec_.separate_documents) inputs.document_ids = recorder.persistent("input.document_ids");
  return inputs;
}

int TrainingProgram::tree_levels() const {
  if (spec_.plan.reduction != Reduction::ordered || !spec_.training) return 0;
  return std::bit_width(static_cast<uint64_t>(spec_.microbatches)) - 1;
}

void TrainingProgram::record_tree(Recorder& recorder) {
  PersistentSpace& space = program_.persistent();
  for (int level = 0; level < tree_levels(); ++level) {
    for (const char* sum : {"gradients", "step.report"}) {
      TensorSpec spec = space.at(space.find(sum)).spec;
      const std::string kept = tree_name(level, sum);
      space.add(kept, spec, Purpose::reduction);
      recorder.set_part(Part::carry, level);
      add_into(recorder, recorder.persistent(kept), recorder.persistent(sum), recorder.persistent(sum));
      recorder.set_part(Part::store, level);
      copy_into(recorder, recorder.persistent(sum), recorder.persistent(kept));
    }
  }
}

namespace {

/// All-reduces in place over every axis on which `name` is Partial: the same memory, in the end named `target`. Nothing
/// where no sum is owed.
void reduce_in_place(Recorder& recorder, const std::string& name, const std::string& target) {
  PersistentSpace& space = recorder.persistent_space();
  const Placements wanted = space.at(space.find(target)).spec.placements;
  std::string current = name;
  for (const Axis axis : kAllAxes) {
    TensorSpec spec = space.at(space.find(current)).spec;
    if (!on(spec.placements, axis).is_partial()) continue;
    spec.placements = with(spec.placements, axis, Replicate);
    const std::string next =
        spec.placements == wanted ? target : fmt::format("{}.reduced_over_{}", name, capstan::name_of(axis));
    if (space.find(next) < 0) space.add_view(next, spec, space.find(name), 0);
    recorder.convert_into(recorder.persistent(current), axis, Replicate, recorder.persistent(next));
    current = next;
  }
}
void reduce_in_place(Recorder& recorder, const std::string& name) {
  reduce_in_place(recorder, name, name + ".reduced");
}

}  // namespace

namespace {

/// Each data rank casts its piece of every run of masters; together they are the working copies.
void gather_working(Recorder& recorder, size_t runs, DType dtype) {
  for (size_t r = 0; r < runs; ++r)
    recorder.convert_into(cast(recorder, recorder.persistent(fmt::format("parameters.run{}", r)), dtype), Axis::dp,
                          Replicate, recorder.persistent(fmt::format("working.run{}", r)));
}

}  // namespace

void TrainingProgram::record_loss(Recorder& recorder, const std::string& sum) const {
  const Value hidden = model_->hidden(recorder, decoder_inputs(recorder));
  cross_entropy(recorder, model_->logits(recorder, hidden), recorder.persistent("input.targets"),
                recorder.persistent("input.loss_weights"), recorder.persistent(sum), spec_.model.vocabulary);
}

/// A run of gradients with no sum owed. Fast: each data rank is left with one piece (reduce-scatter; other sums are
/// then formed of the piece), whatever the stage of ZeRO, so that all stages sum and count alike. Ordered: whole on
/// all.
Value TrainingProgram::reduced_gradient(Recorder& recorder, size_t run) {
  const std::string name = fmt::format("gradients.run{}", run);
  if (spec_.plan.reduction == Reduction::ordered) {
    reduce_in_place(recorder, name + ".owed", name);
    return recorder.persistent(name);
  }
  if (layout_.runs[run].gradients == layout_.runs[run].placements) return recorder.persistent(name);
  Value value = recorder.convert(recorder.persistent(name + ".owed"), Axis::dp, Shard(0));
  for (const Axis axis : kAllAxes)
    if (on(recorder.spec(value).placements, axis).is_partial()) value = recorder.convert(value, axis, Replicate);
  return value;
}

/// The square sum of all gradients: a run that is divided counts on each rank what it holds, and these are summed over
/// its axes; one that is whole on every rank counts once. Ordered sums leave padding out, which varies with the ranks.
void TrainingProgram::record_norm(Recorder& recorder, const std::vector<Value>& gradients) {
  PersistentSpace& space = program_.persistent();
  const std::string total = "step.square_sum";
  std::vector<std::pair<Placements, std::string>> sums;  // by the axes that divide a run
  for (size_t r = 0; r < gradients.size(); ++r) {
    const bool ordered = spec_.plan.reduction == Reduction::ordered;
    const Value value = ordered ? recorder.persistent(fmt::format("gradients.run{}.used", r)) : gradients[r];
    Placements owed = recorder.spec(value).placements;
    for (Placement& placement : owed)
      if (placement.is_shard()) placement = Partial;
    const auto found = std::find_if(sums.begin(), sums.end(), [&](const auto& sum) { return sum.first == owed; });
    const std::string name = found != sums.end()    ? found->second
                             : owed == Placements{} ? total
                                                    : fmt::format("{}.of_shards{}", total, sums.size());
    if (space.find(name) < 0)
      space.add_view(name + ".reduced", {{1}, DType::f64}, space.add(name, {{1}, DType::f64, owed}, Purpose::scalar),
                     0);
    record_square_sum(recorder, value, recorder.persistent(name), found == sums.end());
    if (found == sums.end()) sums.push_back({owed, name});
  }
  bool first = std::none_of(sums.begin(), sums.end(), [&](const auto& sum) { return sum.second == total; });
  for (const auto& [owed, name] : sums) {
    if (name == total) continue;
    reduce_in_place(recorder, name);
    const Value shards = recorder.persistent(name + ".reduced"), sum = recorder.persistent(total);
    if (first)
      copy_into(recorder, shards, sum);
    else
      add_into(recorder, shards, sum, sum);
    first = false;
  }
  record_clip(recorder, recorder.persistent(total));
}

void TrainingProgram::record_update(Recorder& recorder) {
  reduce_in_place(recorder, "step.report");
  std::vector<Value> gradients;
  for (size_t r = 0; r < layout_.runs.size(); ++r) gradients.push_back(reduced_gradient(recorder, r));
  record_norm(recorder, gradients);
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    const auto run = [&](const char* flat) { return recorder.persistent(fmt::format("{}.run{}", flat, r)); };
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
  if (state_divided()) gather_working(recorder, layout_.runs.size(), activation_dtype(spec_.precision));
}

/// Working copies from masters, wherever these are.
void TrainingProgram::record_refresh() {
  Recorder recorder = program_.recorder(recorder_options(false));
  recorder.set_part(Part::update);
  if (state_divided()) {
    gather_working(recorder, layout_.runs.size(), activation_dtype(spec_.precision));
  } else {
    for (size_t r = 0; r < layout_.runs.size(); ++r)
      copy_into(recorder, recorder.persistent(fmt::format("parameters.run{}", r)),
                recorder.persistent(fmt::format("working.run{}", r)));
  }
  program_.add("refresh", std::move(recorder.tape()));
}

void TrainingProgram::record_train() {
  Recorder recorder = program_.recorder(recorder_options(true));
  recorder.set_part(Part::begin);
  reduce_in_place(recorder, "step.control");
  reduce_in_place(recorder, "step.stop_requests");
  recorder.set_part(Part::forward);
  record_loss(recorder, "step.loss_sum");
  record_backward(recorder);
  record_tree(recorder);
  recorder.set_part(Part::update);
  recorder.set_scope("");
  record_update(recorder);
  program_.add("train", std::move(recorder.tape()));
}

void TrainingProgram::record_evaluate() {
  Recorder recorder = program_.recorder(recorder_options(false));
  record_loss(recorder, "evaluate.loss_sum");
  recorder.set_part(Part::update);
  reduce_in_place(recorder, "evaluate.report");
  program_.add("evaluate", std::move(recorder.tape()));
}

void TrainingProgram::allocate_and_initialise() {
  program_.allocate();
  if (spec_.model.positions == Positions::alibi) {
    const std::vector<float> slopes = model_->alibi_slopes();
    std::memcpy(program_.address("alibi.slopes"), slopes.data(), slopes.size() * sizeof(float));
  }
  for (size_t i = 0; i < program_.parameters().size(); ++i) {
    const Parameter& parameter = program_.parameters().at(static_cast<int>(i));
    for (const StatePiece& piece : state_pieces("", static_cast<int>(i))) {
#pragma omp parallel for
      for (int64_t j = 0; j < piece.count * piece.runs; ++j) {
        const double value =
            initial_value(parameter, spec_.seed, piece.first + j / piece.count * piece.stride + j % piece.count);
        if (master_dtype() == DType::f64)
          static_cast<double*>(piece.data)[j] = value;
        else
          static_cast<float*>(piece.data)[j] = static_cast<float>(value);
      }
    }
  }
  refresh_working_copies();
}

void TrainingProgram::refresh_working_copies() {
  if (has_working()) program_.run("refresh", Part::update);
}

namespace {

/// Adds a run to pieces: to the last one when it goes on at the same distance.
void add_run(std::vector<StatePiece>& pieces, int64_t first, int64_t count, void* data) {
  if (!pieces.empty() && pieces.back().count == count) {
    StatePiece& last = pieces.back();
    if (last.runs == 1) last.stride = first - last.first;
    if (first == last.first + last.runs * last.stride) {
      ++last.runs;
      return;
    }
    if (last.runs == 1) last.stride = 0;
  }
  pieces.push_back({first, count, 1, 0, data});
}

}  // namespace

bool TrainingProgram::divides_state(int parameter, Axis axis) const {
  const Placements placements = effective(program_.parameters().at(parameter).placements, program_.mesh());
  return on(placements, axis).is_shard() || (axis == Axis::dp && state_divided());
}

std::vector<StatePiece> TrainingProgram::state_pieces(const std::string& prefix, int index) const {
  const Parameter& parameter = program_.parameters().at(index);
  const size_t i = static_cast<size_t>(index), size = bytes_of(master_dtype());
  const TensorSpec spec = spec_of(parameter, master_dtype());
  int64_t begin = 0, end = element_count(local_shape(spec, program_.mesh()));  // of the local part, what is held here
  char* data = nullptr;                                                        // of local element `begin`
  if (state_divided()) {
    const FlatRun& run = layout_.runs[static_cast<size_t>(layout_.run_of[i])];
    const int64_t ranks = program_.mesh().size(Axis::dp), piece = run.count / ranks;
    const int64_t first = run.first + program_.mesh().coordinate(Axis::dp) * piece - layout_.first[i];
    begin = std::max<int64_t>(begin, first), end = std::min(end, first + piece);
    data = program_.at<char>(prefix.empty() ? "parameters" : prefix.substr(0, prefix.size() - 1)) +
           static_cast<size_t>(run.first / ranks + begin - first) * size;
  } else {
    data = program_.at<char>(prefix + parameter.name);
  }
  const int64_t logical = element_count(parameter.logical_shape());
  std::vector<StatePiece> pieces;
  each_local_run(spec, program_.mesh(), [&](int64_t global, int64_t local, int64_t count) {
    const int64_t from = std::max(local, begin), to = std::min({local + count, end, local + logical - global});
    if (from < to) add_run(pieces, global + from - local, to - from, data + static_cast<size_t>(from - begin) * size);
  });
  return pieces;
}

void TrainingProgram::set_step(const StepSetting& setting) {
  kernels::StepScalars& scalars = *program_.at<kernels::StepScalars>("step.scalars");
  scalars = {};
  scalars.learning_rate = setting.learning_rate;
  scalars.correction1 = 1.0 - std::pow(spec_.optimizer.beta1, static_cast<double>(setting.updates + 1));
  scalars.correction2 = 1.0 - std::pow(spec_.optimizer.beta2, static_cast<double>(setting.updates + 1));
  scalars.clip_limit = setting.clip;
  scalars.gradient_scale = setting.weights > 0.0 ? 1.0 / setting.weights : 0.0;
  double* report = program_.at<double>("step.report");
  std::fill(report, report + kBadRanks + program_.mesh().size(Axis::dp), 0.0);
  program_.at<uint64_t>("step.random")[0] = setting.random_key;
}

void TrainingProgram::microbatch(int64_t m) {
  const int levels = tree_levels();
  const bool tree = spec_.plan.reduction == Reduction::ordered;
  const int64_t share = spec_.microbatches * spec_.microbatch;
  program_.at<uint64_t>("step.random")[1] =
      static_cast<uint64_t>(program_.mesh().coordinate(Axis::dp) * share + m * spec_.microbatch);
  program_.run("train", Part::forward, !tree && m > 0);
  program_.run("train", Part::backward, !tree && m > 0);
  if (levels == 0) return;
  int level = 0;
  for (; (m >> level) & 1; ++level) program_.run("train", Part::carry, false, level);
  if (level < levels) program_.run("train", Part::store, false, level);
}

void TrainingProgram::begin() {
  if (program_.has("train", Part::begin)) program_.run("train", Part::begin);
}

StepOutcome TrainingProgram::finish_step() {
  const int ranks = program_.mesh().size(Axis::dp), rank = program_.mesh().coordinate(Axis::dp);
  double* report = program_.at<double>("step.report");
  if (!std::isfinite(report[kLossSum])) report[kBadRanks + rank] = 1.0;
  program_.run("train", Part::update);
  const double* reduced = program_.at<double>("step.report.reduced");
  const kernels::StepScalars& scalars = *program_.at<kernels::StepScalars>("step.scalars");
  StepOutcome outcome{reduced[kLossSum], scalars.gradient_norm, scalars.skip != 0.0, {}};
  for (int i = 0; i < ranks; ++i)
    if (reduced[kBadRanks + i] > 0.0) outcome.bad_ranks.push_back(i);
  return outcome;
}

std::vector<std::string> TrainingProgram::state_names() const {
  std::vector<std::string> names;
  for (const char* prefix : {"", "moment1.", "moment2."})
    for (size_t i = 0; i < program_.parameters().size(); ++i)
      names.push_back(prefix + program_.parameters().at(static_cast<int>(i)).name);
  return names;
}

}  // namespace capstan
