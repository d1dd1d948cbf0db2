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
  model_ = std::make_unique<Decoder>(spec.model, program_.parameters());
  layout_ = flat_layout(program_.parameters(), master_dtype());
  model_->declare_constants(program_.persistent());
  declare_state();
  declare_inputs();
  if (spec.training) record_train();
  record_evaluate();
}

void TrainingProgram::declare_run_views(const std::string& flat, DType dtype) {
  PersistentSpace& space = program_.persistent();
  const int parent = space.find(flat);
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    TensorSpec spec{{layout_.runs[r].count}, dtype};
    space.add_view(fmt::format("{}.run{}", flat, r), spec, parent,
                   static_cast<size_t>(layout_.runs[r].first) * bytes_of(dtype));
  }
}

void TrainingProgram::declare_state() {
  PersistentSpace& space = program_.persistent();
  const DType master = master_dtype(), working = activation_dtype(spec_.precision);
  const auto flat = [&](const std::string& name, const std::string& prefix, DType dtype, Purpose purpose,
                        Placements placements) {
    const int parent = space.add(name, {{layout_.elements}, dtype, placements}, purpose);
    for (size_t i = 0; i < program_.parameters().size(); ++i)
      if (layout_.first[i] >= 0)
        space.add_view(prefix + program_.parameters().at(static_cast<int>(i)).name,
                       {program_.parameters().at(static_cast<int>(i)).shape, dtype, placements}, parent,
                       static_cast<size_t>(layout_.first[i]) * bytes_of(dtype));
    return parent;
  };
  flat("parameters", "", master, Purpose::parameter, {});
  if (working != master) flat("working", "working.", working, Purpose::working, {});
  declare_run_views("parameters", master);
  if (working != master) declare_run_views("working", working);
  if (!spec_.training) return;
  const Placements partial = program_.mesh().size(Axis::dp) > 1 ? with({}, Axis::dp, Partial) : Placements{};
  const int gradients = flat("gradients", "gradient.", master, Purpose::gradient, partial);
  space.add_view("gradients.reduced", {{layout_.elements}, master}, gradients, 0);
  declare_run_views("gradients", master);
  for (const char* moment : {"moment1", "moment2"}) {
    flat(moment, std::string(moment) + ".", master, Purpose::moment, {});
    declare_run_views(moment, master);
  }
}

void TrainingProgram::declare_inputs() {
  PersistentSpace& space = program_.persistent();
  const int ranks = program_.mesh().size(Axis::dp);
  const Placements sharded = ranks > 1 ? with({}, Axis::dp, Shard(0)) : Placements{};
  const Placements partial = ranks > 1 ? with({}, Axis::dp, Partial) : Placements{};
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
  reduced("step.control", kControlSlots);
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

/// An all-reduce over dp in place: `name` becomes `name`.reduced, the same memory. The identity on one rank.
void reduce_in_place(Recorder& recorder, const std::string& name) {
  if (recorder.mesh().size(Axis::dp) == 1) return;
  recorder.record_into(make_conversion(Axis::dp, Partial, Replicate), {recorder.persistent(name)},
                       {recorder.persistent(name + ".reduced")}, Accumulate::never);
}

}  // namespace

void TrainingProgram::record_train() {
  Recorder recorder = program_.recorder({true, activation_dtype(spec_.precision)});
  recorder.set_part(Part::begin);
  reduce_in_place(recorder, "step.control");

  recorder.set_part(Part::forward);
  const Value hidden = model_->hidden(recorder, decoder_inputs(recorder));
  cross_entropy(recorder, model_->logits(recorder, hidden), recorder.persistent("input.targets"),
                recorder.persistent("input.loss_weights"), recorder.persistent("step.loss_sum"),
                spec_.model.vocabulary);
  record_backward(recorder);
  record_tree(recorder);

  recorder.set_part(Part::update);
  recorder.set_scope("");
  reduce_in_place(recorder, "step.report");
  reduce_in_place(recorder, "gradients");
  const Value sum = recorder.persistent("step.square_sum");
  record_square_sum(recorder, recorder.persistent("gradients.reduced"), sum, true);
  record_clip(recorder, sum);
  const bool working = activation_dtype(spec_.precision) != master_dtype();
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    AdamWSpec optimizer = spec_.optimizer;
    if (!layout_.runs[r].decay) optimizer.weight_decay = 0.0;
    const auto run = [&](const char* flat) { return recorder.persistent(fmt::format("{}.run{}", flat, r)); };
    record_adamw(recorder, optimizer, run("gradients"), run("parameters"), run("moment1"), run("moment2"),
                 working ? run("working") : Value{});
  }
  program_.add("train", std::move(recorder.tape()));
}

void TrainingProgram::record_evaluate() {
  Recorder recorder = program_.recorder({false, activation_dtype(spec_.precision)});
  const Value hidden = model_->hidden(recorder, decoder_inputs(recorder));
  cross_entropy(recorder, model_->logits(recorder, hidden), recorder.persistent("input.targets"),
                recorder.persistent("input.loss_weights"), recorder.persistent("evaluate.loss_sum"),
                spec_.model.vocabulary);
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
    const int64_t count = element_count(parameter.shape);
    void* values = program_.address(parameter.name);
#pragma omp parallel for
    for (int64_t j = 0; j < count; ++j) {
      const double value = initial_value(parameter, spec_.seed, j);
      if (master_dtype() == DType::f64)
        static_cast<double*>(values)[j] = value;
      else
        static_cast<float*>(values)[j] = static_cast<float>(value);
    }
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
