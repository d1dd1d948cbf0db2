#include "core/training_program.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "core/backward.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"
#include "core/reduce_in_place.h"
#include "core/schedule_check.h"
#include "core/stages.h"

namespace capstan {
namespace {

std::string tree_name(int level, const std::string& what) { return fmt::format("tree.{}.{}", level, what); }

TrainingSpec with_schedule(TrainingSpec spec, int stages) {
  spec.table = schedule_of(spec, stages);
  return spec;
}

}  // namespace

std::shared_ptr<const Schedule> schedule_of(const TrainingSpec& spec, int stages) {
  const int microbatches = static_cast<int>(std::max<int64_t>(spec.microbatches, 1));
  if (spec.table) {
    CAPSTAN_CHECK(spec.table->stages == stages && spec.table->microbatches == microbatches,
                  "a schedule of {} stages and {} microbatches for {} and {}", spec.table->stages,
                  spec.table->microbatches, stages, microbatches);
    return spec.table;
  }
  auto schedule = std::make_shared<const Schedule>(make_schedule(spec.schedule, stages, spec.interleave, microbatches));
  check(*schedule, kPathCapacity);
  return schedule;
}

TrainingProgram::TrainingProgram(const Mesh& mesh, const Device& device, const TrainingSpec& spec)
    : spec_(with_schedule(spec, mesh.size(Axis::pp))), program_(mesh, device, spec.plan), schedule_(*spec_.table) {
  deal_out_stages();
  model_ = std::make_unique<Decoder>(spec.model, program_.parameters(), "", mesh.size(Axis::tp));
  survey();
  std::vector<bool> mine;
  for (const int chunk : chunk_of_) mine.push_back(chunk >= 0);
  layout_ = flat_layout(program_.parameters(), master_dtype(), mesh, {gradients_, mine, mesh.size(Axis::dp)});
  model_->declare_constants(program_.persistent());
  declare_state();
  declare_inputs(program_.persistent());
  plan_windows();
  if (spec.training) record_train();
  record_evaluate();
  if (has_working() && !parameters_divided()) record_refresh();
}

void TrainingProgram::deal_out_stages() {
  const Mesh& mesh = program_.mesh();
  const int stages = mesh.size(Axis::pp);
  view_ = {mesh.coordinate(Axis::pp), stages, schedule_.splits_weights};
  chunk_of_layer_ = capstan::chunk_of_layers(spec_.model, stages, schedule_.chunks);
}

RecorderOptions TrainingProgram::recorder_options(bool training) const {
  RecorderOptions options{training, activation_dtype(spec_.precision)};
  if (spec_.sequence_parallel) options.stream = with({}, Axis::tp, Shard(1));
  options.stream = effective(options.stream, program_.mesh());
  options.chunk_of_region = chunk_of_layer_;
  return options;
}

/// What has to be known before state can be laid out, read off a tape over tensors that are never allocated: on which
/// stages a parameter is read, and what the backward pass leaves its gradient in.
void TrainingProgram::survey() {
  PersistentSpace space(program_.mesh());
  const ParameterSet& parameters = program_.parameters();
  const auto at = [&](size_t i) -> const Parameter& { return parameters.at(static_cast<int>(i)); };
  for (size_t i = 0; i < parameters.size(); ++i) {
    space.add(at(i).name, spec_of(at(i), activation_dtype(spec_.precision)), Purpose::parameter);
    space.add("gradient." + at(i).name, spec_of(at(i), master_dtype()), Purpose::gradient);
  }
  model_->declare_constants(space);
  declare_inputs(space);
  Recorder recorder(program_.mesh(), space, parameters, recorder_options(spec_.training));
  record_loss(recorder, "step.loss_sum");
  holders_.assign(parameters.size(), {}), chunk_of_.assign(parameters.size(), -1);
  for (const Node& node : recorder.tape().nodes)
    for (const TensorId id : node.inputs) {
      const int parameter = recorder.parameter_of(id);
      if (parameter < 0) continue;
      std::vector<int>& stages = holders_[static_cast<size_t>(parameter)];
      const int stage = schedule_.stage_of(node.chunk);
      if (std::find(stages.begin(), stages.end(), stage) == stages.end()) stages.push_back(stage);
      if (view_.holds(node.chunk)) chunk_of_[static_cast<size_t>(parameter)] = node.chunk;
    }
  for (std::vector<int>& stages : holders_) std::sort(stages.begin(), stages.end());
  if (!spec_.training) return;
  record_backward(recorder);
  find_spread_units(recorder.tape());
  find_units_together(recorder);
  for (size_t i = 0; i < parameters.size(); ++i)
    gradients_.push_back(recorder.spec(recorder.persistent("gradient." + at(i).name)).placements);
}

int TrainingProgram::unit_of_gradient(const Tape& tape, TensorId id) const {
  const ParameterSet& parameters = program_.parameters();
  return parameters.at(parameters.find(tape.at(id).name.substr(std::string("gradient.").size()))).unit;
}

/// Pairs of units, the lower one first, that a node on this rank's chunks needs at once.
void TrainingProgram::find_units_together(Recorder& recorder) {
  const Tape& tape = recorder.tape();
  for (const Node& node : tape.nodes) {
    if (!view_.holds(node.chunk)) continue;
    std::set<int> read, contributed;
    for (size_t k = 0; k < node.inputs.size(); ++k)
      if (const int parameter = recorder.parameter_of(node.inputs[k]); parameter >= 0 && (node.op->reads() & (1u << k)))
        read.insert(program_.parameters().at(parameter).unit);
    for (const TensorId id : node.outputs)
      if (id != kNoTensor && tape.at(id).contributions > 0) contributed.insert(unit_of_gradient(tape, id));
    for (const std::set<int>& units : {read, contributed})
      for (auto a = units.begin(); a != units.end(); ++a)
        for (auto b = std::next(a); b != units.end(); ++b)
          together_.emplace(static_cast<size_t>(*a), static_cast<size_t>(*b));
  }
}

/// Units between whose contributions, on this rank's chunks, come contributions to another unit.
void TrainingProgram::find_spread_units(const Tape& tape) {
  std::vector<bool> left;  // units behind which another one has come
  int current = -1;
  for (const Node& node : tape.nodes)
    for (const TensorId id : node.outputs) {
      if (id == kNoTensor || tape.at(id).contributions == 0 || !view_.holds(node.chunk)) continue;
      const int unit = unit_of_gradient(tape, id);
      const size_t u = static_cast<size_t>(unit);
      if (u >= left.size()) left.resize(u + 1), spread_.resize(std::max(spread_.size(), u + 1));
      if (unit == current) continue;
      if (current >= 0) left[static_cast<size_t>(current)] = true;
      if (left[u]) spread_[u] = true;
      current = unit;
    }
}

DecoderInputs TrainingProgram::decoder_inputs(Recorder& recorder) const {
  DecoderInputs inputs;
  inputs.tokens = recorder.persistent("input.tokens");
  inputs.positions = recorder.persistent("input.positions");
  if (spec_.separate_documents) inputs.document_ids = recorder.persistent("input.document_ids");
  return inputs;
}

void TrainingProgram::record_loss(Recorder& recorder, const std::string& sum) const {
  const Value hidden = model_->hidden(recorder, decoder_inputs(recorder));
  cross_entropy(recorder, model_->logits(recorder, hidden), recorder.persistent("input.targets"),
                recorder.persistent("input.loss_weights"), recorder.persistent(sum), spec_.model.vocabulary);
}

int TrainingProgram::tree_levels() const {
  if (!ordered() || !spec_.training) return 0;
  return std::bit_width(static_cast<uint64_t>(spec_.microbatches)) - 1;
}

/// What folds when: gradients that a backward action leaves, those that a weights action leaves, chunk by chunk, since
/// a schedule may be at other microbatches in each; and the report, which forwards leave.
std::vector<TrainingProgram::Sum> TrainingProgram::sums_of_tree(Recorder& recorder) const {
  std::vector<Sum> sums{{"step.report", report_fold()}};
  const Tape& tape = recorder.tape();
  std::vector<bool> listed(tape.tensors.size());
  for (const Node& node : tape.nodes)
    for (const TensorId id : node.outputs) {
      if (id == kNoTensor || tape.at(id).contributions == 0 || !view_.holds(node.chunk)) continue;
      if (listed[static_cast<size_t>(id)]) continue;
      listed[static_cast<size_t>(id)] = true;
      const bool apart = schedule_.splits_weights && makes_only_gradients(tape, node);
      sums.push_back({tape.at(id).name, fold_of(node.chunk, apart)});
    }
  return sums;
}

void TrainingProgram::record_tree(Recorder& recorder) {
  PersistentSpace& space = program_.persistent();
  const std::vector<Sum> sums = sums_of_tree(recorder);
  for (int level = 0; level < tree_levels(); ++level)
    for (const auto& [sum, fold] : sums) {
      const std::string kept = tree_name(level, sum);
      space.add(kept, space.at(space.find(sum)).spec, Purpose::reduction);
      recorder.set_chunk(fold);
      recorder.set_part(Part::carry, level);
      add_into(recorder, recorder.persistent(kept), recorder.persistent(sum), recorder.persistent(sum));
      recorder.set_part(Part::store, level);
      copy_into(recorder, recorder.persistent(sum), recorder.persistent(kept));
    }
}

/// Plans what of this tape lies on this rank's stage.
void TrainingProgram::add_plan(const std::string& name, Recorder& recorder, const ReplayOrder& order) {
  const std::vector<ChannelSpec> paths = cut(recorder.tape(), view_);
  program_.add(name, std::move(recorder.tape()), paths, order);
  if (name == "train") paths_ = paths;
}

void TrainingProgram::record_train() {
  Recorder recorder = program_.recorder(recorder_options(true));
  recorder.set_part(Part::begin);
  reduce_in_place(recorder, "step.control");
  reduce_in_place(recorder, "step.votes");
  record_begin_step(recorder, spec_.optimizer, recorder.persistent("step.weights"),
                    knows_own_gradients() ? recorder.persistent("step.own_weight") : Value{});
  recorder.set_part(Part::forward);
  record_loss(recorder, "step.loss_sum");
  record_backward(recorder);
  record_tree(recorder);
  recorder.set_chunk(0);
  recorder.set_part(Part::update);
  recorder.set_scope("");
  record_update(recorder);
  add_plan("train", recorder, ReplayOrder(schedule_));
}

void TrainingProgram::record_evaluate() {
  Recorder recorder = program_.recorder(recorder_options(false));
  record_loss(recorder, "evaluate.loss_sum");
  recorder.set_chunk(0);
  recorder.set_part(Part::update);
  reduce_in_place(recorder, "evaluate.report");
  add_plan("evaluate", recorder, {});
}

void TrainingProgram::begin_step(const StepSetting& setting) {
  kernels::StepScalars scalars;
  scalars.learning_rate = setting.learning_rate;
  scalars.clip_limit = setting.clip;
  scalars.loss_scale_window = scales_loss() ? static_cast<double>(spec_.loss_scale.window) : 0.0;
  scalars.minimum_loss_scale = spec_.loss_scale.minimum;
  std::memcpy(program_.write<double>("step.setting"), &scalars, kernels::kSetByHost * sizeof(double));
  double* report = program_.write<double>("step.report");
  std::fill(report, report + kBadRanks + program_.mesh().data_ranks(), 0.0);
  double* control = program_.write<double>("step.control");
  control[kWeightSum] = setting.weights;
  control[kStopRequests] = setting.stop ? 1.0 : 0.0;
  control[kSavesWriting] = setting.saving ? 1.0 : 0.0;
  if (knows_own_gradients()) *program_.write<double>("step.own_weight") = setting.weights;
  random_key_ = setting.random_key;
  program_.run("train", Part::begin);
}

void TrainingProgram::run_microbatches(const std::function<void(int64_t m)>& place, bool reduce) {
  using Kind = Action::Kind;
  const int64_t share = spec_.microbatches * spec_.microbatch, first = program_.mesh().data_rank() * share;
  for (const Action& action : schedule_.actions[static_cast<size_t>(view_.stage)]) {
    const int64_t m = action.microbatch;
    Replay replay{action.chunk, m, !ordered() && m > 0};
    replay.last = reduce && !ordered() && is_last(action);
    if (action.kind == Kind::forward && action.chunk == view_.stage) {
      uint64_t* random = program_.write<uint64_t>("step.random", m);
      random[0] = random_key_, random[1] = static_cast<uint64_t>(first + m * spec_.microbatch);
      place(m);
    }
    constexpr Part parts[] = {Part::forward, Part::backward, Part::weights};
    program_.run("train", parts[static_cast<int>(action.kind)], replay);
    if (action.kind != Kind::forward)
      fold(m, fold_of(action.chunk, action.kind == Kind::weights));
    else if (action.chunk + 1 == schedule_.chunks)
      fold(m, report_fold());
  }
}

/// Of its kind and chunk: the microbatches of each go in ascending order.
bool TrainingProgram::is_last(const Action& action) const { return action.microbatch + 1 == spec_.microbatches; }

/// The carries of a binary counter.
void TrainingProgram::fold(int64_t m, int which) {
  const int levels = tree_levels();
  if (levels == 0 || !program_.has("train", Part::store, 0, which)) return;
  int level = 0;
  for (; ((m >> level) & 1) != 0; ++level) program_.run("train", Part::carry, {which, m, false, level});
  if (level < levels) program_.run("train", Part::store, {which, m, false, level});
}

std::string TrainingProgram::digest() const { return digest_of(program_.digest() + "\n" + schedule_.to_text()); }

void TrainingProgram::evaluate_microbatch() {
  for (int chunk = view_.stage; chunk < schedule_.chunks; chunk += view_.stages)
    program_.run("evaluate", Part::forward, {chunk});
}

void TrainingProgram::end_step() {
  CAPSTAN_CHECK(outcomes() < QueuedReads::kMost, "{} steps were ended and none of their outcomes was taken",
                outcomes());
  program_.run("train", Part::update);
  reads_->queue();
}

StepOutcome TrainingProgram::take_outcome() {
  CAPSTAN_CHECK(outcomes() > 0, "no step was ended whose outcome is still to be taken");
  reads_->take();
  const int ranks = program_.mesh().data_ranks();
  const double *report = reads_->read<double>(kReport), *control = reads_->read<double>(kControl);
  const kernels::StepScalars& scalars = *reads_->read<kernels::StepScalars>(kScalars);
  StepOutcome outcome{report[kLossSum], scalars.gradient_norm, scalars.skip != 0.0, {}, report[kOwnSquares] / ranks};
  outcome.loss_scale = scalars.used_loss_scale, outcome.next_loss_scale = scalars.loss_scale;
  outcome.own_square /= outcome.loss_scale * outcome.loss_scale;
  for (int i = 0; i < ranks; ++i)
    if (report[kBadRanks + i] > 0.0) outcome.bad_ranks.push_back(i);
  // The loss is not scaled: where it is not finite the scale is not to blame.
  outcome.overflowed = outcome.skipped && outcome.bad_ranks.empty() && scalars.loss_scale < scalars.used_loss_scale;
  outcome.weights = control[kWeightSum];
  outcome.stop = control[kStopRequests] > 0.0, outcome.saving = control[kSavesWriting] > 0.0;
  return outcome;
}

}  // namespace capstan
