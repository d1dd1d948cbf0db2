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
  layout_ = flat_layout(program_.parameters(), master_dtype(), mesh, gradients_);
  model_->declare_constants(program_.persistent());
  declare_state();
  declare_inputs(program_.persistent());
  if (spec.training) record_train();
  record_evaluate();
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

void TrainingProgram::declare_run_views(const std::string& flat, DType dtype) {
  PersistentSpace& space = program_.persistent();
  const int parent = space.find(flat);
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    const FlatRun& run = layout_.runs[r];
    space.add_view(fmt::format("{}.run{}", flat, r),
                   FlatLayout::spec(run.count, dtype, run.placements, program_.mesh()), parent,
                   static_cast<size_t>(run.first) * bytes_of(dtype));
  }
}

void TrainingProgram::declare_buckets(int gradients) {
  PersistentSpace& space = program_.persistent();
  const DType dtype = master_dtype();
  for (size_t b = 0; b < layout_.buckets.size(); ++b) {
    const FlatBucket& bucket = layout_.buckets[b];
    const size_t offset = static_cast<size_t>(bucket.first) * bytes_of(dtype);
    const std::string name = fmt::format("gradients.bucket{}", b);
    space.add_view(name, FlatLayout::spec(bucket.count, dtype, bucket.gradients, program_.mesh()), gradients, offset);
    space.add_view(name + ".reduced", FlatLayout::spec(bucket.count, dtype, bucket.placements, program_.mesh()),
                   gradients, offset);
  }
}

void TrainingProgram::declare_state() {
  PersistentSpace& space = program_.persistent();
  const DType master = master_dtype(), working = activation_dtype(spec_.precision);
  const auto flat = [&](const std::string& name, const std::string& prefix, DType dtype, Purpose purpose) {
    // The buffer itself is memory of this rank; what it holds is placed by its views.
    const int parent = space.add(name, {{layout_.elements}, dtype}, purpose);
    for (size_t i = 0; i < program_.parameters().size(); ++i) {
      if (layout_.first[i] < 0) continue;
      const Parameter& parameter = program_.parameters().at(static_cast<int>(i));
      TensorSpec spec = spec_of(parameter, dtype);
      if (purpose == Purpose::gradient) spec.placements = gradients_[i];
      space.add_view(prefix + parameter.name, spec, parent, static_cast<size_t>(layout_.first[i]) * bytes_of(dtype));
    }
    return parent;
  };
  flat("parameters", "", master, Purpose::parameter);
  if (working != master) flat("working", "working.", working, Purpose::working);
  declare_run_views("parameters", master);
  if (working != master) declare_run_views("working", working);
  if (!spec_.training) return;
  const int gradients = flat("gradients", "gradient.", master, Purpose::gradient);
  declare_run_views("gradients", master);
  declare_buckets(gradients);
  for (const char* moment : {"moment1", "moment2"}) {
    flat(moment, std::string(moment) + ".", master, Purpose::moment);
    declare_run_views(moment, master);
  }
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

/// All-reduces in place over every axis on which `name` is Partial: the same memory, in the end named `name`.reduced.
/// Nothing where no sum is owed.
void reduce_in_place(Recorder& recorder, const std::string& name) {
  PersistentSpace& space = recorder.persistent_space();
  const std::string target = name + ".reduced";
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

}  // namespace

void TrainingProgram::record_loss(Recorder& recorder, const std::string& sum) const {
  const Value hidden = model_->hidden(recorder, decoder_inputs(recorder));
  cross_entropy(recorder, model_->logits(recorder, hidden), recorder.persistent("input.targets"),
                recorder.persistent("input.loss_weights"), recorder.persistent(sum), spec_.model.vocabulary);
}

/// The square sum of all gradients: a bucket that is sharded counts on each rank what it holds, and these are summed
/// over its axes; one that is whole on every rank counts once.
void TrainingProgram::record_norm(Recorder& recorder) {
  PersistentSpace& space = program_.persistent();
  const std::string total = "step.square_sum";
  std::vector<std::pair<Placements, std::string>> sums;  // by the axes that divide a bucket
  for (size_t b = 0; b < layout_.buckets.size(); ++b) {
    Placements owed = layout_.buckets[b].placements;
    for (Placement& placement : owed)
      if (placement.is_shard()) placement = Partial;
    const auto found = std::find_if(sums.begin(), sums.end(), [&](const auto& sum) { return sum.first == owed; });
    const std::string name = found != sums.end()    ? found->second
                             : owed == Placements{} ? total
                                                    : fmt::format("{}.of_shards{}", total, sums.size());
    if (space.find(name) < 0)
      space.add_view(name + ".reduced", {{1}, DType::f64}, space.add(name, {{1}, DType::f64, owed}, Purpose::scalar),
                     0);
    record_square_sum(recorder, recorder.persistent(fmt::format("gradients.bucket{}.reduced", b)),
                      recorder.persistent(name), found == sums.end());
    if (found == sums.end()) sums.push_back({owed, name});
  }
  const bool whole = std::any_of(sums.begin(), sums.end(), [&](const auto& sum) { return sum.second == total; });
  bool first = !whole;
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
  for (size_t b = 0; b < layout_.buckets.size(); ++b) reduce_in_place(recorder, fmt::format("gradients.bucket{}", b));
  record_norm(recorder);
  const bool working = activation_dtype(spec_.precision) != master_dtype();
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    AdamWSpec optimizer = spec_.optimizer;
    if (!layout_.runs[r].decay) optimizer.weight_decay = 0.0;
    const auto run = [&](const char* flat) { return recorder.persistent(fmt::format("{}.run{}", flat, r)); };
    record_adamw(recorder, optimizer, run("gradients"), run("parameters"), run("moment1"), run("moment2"),
                 working ? run("working") : Value{});
  }
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
    void* values = program_.address(parameter.name);
    each_local_run(spec_of(parameter, master_dtype()), program_.mesh(), [&](int64_t global, int64_t local, int64_t n) {
#pragma omp parallel for if (n > 4096)
      for (int64_t j = 0; j < n; ++j) {
        const double value = initial_value(parameter, spec_.seed, global + j);
        if (master_dtype() == DType::f64)
          static_cast<double*>(values)[local + j] = value;
        else
          static_cast<float*>(values)[local + j] = static_cast<float>(value);
      }
    });
  }
  refresh_working_copies();
}

void TrainingProgram::refresh_working_copies() {
  if (activation_dtype(spec_.precision) == master_dtype()) return;
  const float* masters = program_.at<float>("parameters");
  BFloat16* working = program_.at<BFloat16>("working");
#pragma omp parallel for
  for (int64_t i = 0; i < layout_.elements; ++i) working[i] = BFloat16(masters[i]);
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
