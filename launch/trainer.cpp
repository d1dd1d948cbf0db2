#include "launch/trainer.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/config/config_reader.h"
#include "core/config/config_writer.h"
#include "core/error.h"
#include "core/failpoint.h"
#include "io/file_system.h"
#include "launch/data_report.h"
#include "launch/evaluator.h"
#include "launch/joint_error.h"
#include "launch/program_state.h"

namespace capstan {
namespace {

int threads_set_for(const TrainConfig& train, Communicator& world) {
  const int threads = threads_for(train, world);
  omp_set_num_threads(threads);
  return threads;
}

}  // namespace

Trainer::Trainer(RunConfig config, Watch& watch, const StopSignal& stop, Console& console)
    : config_(std::move(config)),
      world_(watch.world()),
      recorder_(watch.recorder()),
      stop_(stop),
      console_(console),
      directory_(config_.run.dir),
      mesh_(mesh_of(config_.layout, world_.rank())),
      threads_(threads_set_for(config_.train, world_)),
      device_(config_.train, world_),
      groups_(mesh_, world_, device_, config_.layout.overlap, config_.train.reduction),
      save_(world_) {
  require_equal(world_, canonical(config_), "config");
  leave_if_asked();
  open_corpora();
  leave_if_asked();
  make_program();
  plan_digest_ = agreed_digest(world_, mesh_, training_->digest());
  leave_if_asked();
  require_memory(config_, world_, recorder_, memory_need());
  on_all_ranks(world_, [&] { make_directory(); });
  announce();
  resume();
  start_record();
}

Trainer::~Trainer() = default;

/// The signal may have reached a single rank, and none may leave while another waits for it. Collective.
void Trainer::leave_if_asked() {
  failpoint("train.start");
  int32_t asked = stop_.requested() ? 1 : 0;
  world_.all_reduce(&asked, 1, DType::i32, ReduceOp::max, Reduction::fast);
  if (asked != 0) throw StoppedAtStart{};
}

void Trainer::make_directory() {
  if (world_.rank() != 0) return;
  directory_.create();
  if (!directory_.lock())
    console_.say("warning  this file system has no locks: a second job in the same run directory is not noticed");
}

/// On this rank; nobody is talked to.
void Trainer::open_own_corpora() {
  std::vector<std::shared_ptr<const Corpus>> corpora;
  for (const std::string& path : config_.data.corpora) corpora.push_back(Corpus::open(path));
  const int64_t vocabulary = corpora.at(0)->tokenizer().vocabulary();
  if (config_.model.vocabulary == 0) config_.model.vocabulary = vocabulary;
  if (config_.model.vocabulary < vocabulary)
    throw Error::make(
        ExitCode::config,
        "model.vocabulary is {}, but the tokenizer of {} has {} tokens; leave model.vocabulary out or raise it",
        config_.model.vocabulary, config_.data.corpora[0], vocabulary);
  const uint64_t seed = static_cast<uint64_t>(config_.train.seed);
  train_stream_ = std::make_unique<CorpusStream>(corpora, Split::train, config_.model.context, seed,
                                                 stream_options(config_), training_objective(config_));
  validation_stream_ = std::make_unique<CorpusStream>(corpora, Split::validation, config_.model.context, seed,
                                                      StreamOptions{}, training_objective(config_));
  state_.tokenizer = corpora[0]->tokenizer().hash();
}

void Trainer::open_corpora() {
  on_all_ranks(world_, [&] { open_own_corpora(); });
  require_equal(world_, train_stream_->digest() + validation_stream_->digest(), "corpus");
}

void Trainer::make_program() {
  on_all_ranks(world_, [&] {
    training_ = std::make_unique<TrainingProgram>(mesh_, groups_.device(), training_spec(config_, true));
    feed_ = std::make_unique<DataFeed>(*train_stream_, config_.train.microbatch * config_.accumulation(), mesh_);
  });
  device_.agree_on_products(world_);
  const Plan& plan = training_->program().plan("train");
  std::array<double, 2> flops{};
  for (const Part part : {Part::forward, Part::backward, Part::weights})
    for (const bool again : {false, true})
      flops[again] += static_cast<double>(config_.accumulation()) * plan.flops(part, again);
  world_.all_reduce(flops.data(), flops.size(), DType::f64, ReduceOp::sum, Reduction::ordered);
  step_flops_ = flops[0] / world_.size(), step_flops_done_ = flops[1] / world_.size();
}

/// In the run directory, now that it is there, no other job's, and not refused: a run that is refused, or has its steps
/// already, changes nothing.
void Trainer::start_record() {
  const bool goes_on = state_.step < config_.train.steps;
  const std::string why = goes_on ? recorder_.attach(flight_file(directory_.flights(), world_.rank())) : "";
  if (!why.empty()) console_.say("warning  where a rank stands is not kept in a file: " + why);
  recorder_.observe(training_->program());
}

uint64_t Trainer::planned_samples() const {
  return state_.samples + static_cast<uint64_t>(std::max<int64_t>(config_.train.steps - state_.step, 0)) *
                              static_cast<uint64_t>(config_.train.global_batch);
}

/// The stream goes on where the checkpoint's ledger says, also when the settings of the data have changed.
void Trainer::continue_data() {
  if (train_stream_->continue_from(state_.ledger, state_.samples, planned_samples()))
    console_.say(fmt::format(
        "resume   the order of the data changes at sample {}: what was read of each corpus is not read again in its "
        "epoch",
        state_.samples));
  if (state_.ledger.segments.empty() && state_.samples > 0)
    console_.say("resume   this checkpoint has no ledger of samples: the order of the data begins anew");
  require_equal(world_, train_stream_->digest(), "ledger of samples");
}

std::string Trainer::numerics() const {
  return fmt::format("capstan {} backend {} isa {} threads {} microbatch {} dp {} precision {} plan {}",
                     CAPSTAN_VERSION, device_.backend().name, device_.backend().instruction_set, threads_,
                     config_.train.microbatch, config_.layout.dp, name_of(config_.train.dtype()), plan_digest_);
}

MemoryNeed Trainer::memory_need() const {
  const Program& program = training_->program();
  MemoryNeed need;
  if (device_.runtime() == nullptr)
    need.plan = static_cast<double>(program.persistent_bytes() + program.transient_bytes());
  need.copy = static_cast<double>(BackgroundSave::copy_bytes(*training_));
  need.outside =
      static_cast<double>(feed_->bytes() + train_stream_->memory_bytes() + validation_stream_->memory_bytes());
  need.shared = groups_.part_of_shared_bytes();
  return need;
}

void Trainer::draw_weights() {
  int64_t blocks = training_->initial_blocks();  // of the rank that has most to draw
  for (const std::string& other : gather_strings(world_, std::to_string(blocks)))
    blocks = std::max<int64_t>(blocks, std::stoll(other));
  training_->allocate_and_initialise(blocks, [&] { leave_if_asked(); });
  moved_by_nccl_ = groups_.use(training_->program());
}

void Trainer::resume() {
  CommunicatorGroup group(world_);
  std::vector<std::string> complaints;
  std::optional<Checkpoint> checkpoint = open_newest_good(directory_.checkpoints(), complaints, group);
  for (const std::string& complaint : complaints) console_.say("warning  " + complaint);
  on_all_ranks(world_, [&] {
    const size_t finished = find_checkpoints(directory_.checkpoints()).size();  // a .partial is none
    if (!checkpoint && finished > 0)  // to begin anew would end in deleting what might yet be repaired
      throw Error::make(ExitCode::bad_data,
                        "{} holds {} checkpoint{}, and none of them can be used; move them away to begin anew, or "
                        "choose another run.dir",
                        directory_.checkpoints().string(), finished, finished == 1 ? "" : "s");
  });
  state_.numerics = numerics();
  TrainingState found;
  on_all_ranks(world_, [&] {
    if (!checkpoint) return;
    found = TrainingState::from_json(checkpoint->state(), checkpoint->path().string());
    check_resumed(found);
  });
  leave_if_asked();
  draw_weights();
  if (checkpoint) {
    load_state(*training_, *checkpoint, found.weights_only, [&] { leave_if_asked(); });
    if (training_->scales_loss() && found.loss_scale > 0.0)
      training_->set_loss_scale({found.loss_scale, found.good_steps});
    const TrainingState now = state_;
    state_ = found;
    training_->set_updates(found.updates);
    state_.numerics = now.numerics;
    state_.tokenizer = now.tokenizer;
    state_.weights_only = false;
    saved_ = true;
    console_.say(found.weights_only
                     ? fmt::format("weights  from {}, converted; training begins", checkpoint->path().string())
                     : fmt::format("resume   from {} at step {}", checkpoint->path().string(), state_.step));
  }
  state_.config = write_effective(config_);
  continue_data();
  state_.ledger = train_stream_->ledger();
  state_.corpus = train_stream_->digest();
  announce_data(planned_samples());
  world_.barrier();
  if (world_.rank() != 0) return;
  const uint64_t moved = RunLog::resume(directory_.metrics(), static_cast<uint64_t>(state_.step));
  if (moved > 0) console_.say(fmt::format("resume   {} lines of metrics after that step were moved aside", moved));
  directory_.write_config(config_);
  log_ = std::make_unique<RunLog>(directory_.metrics());
  if (state_.step < config_.train.steps) write_data();  // a finished run is left as it is
}

void Trainer::check_resumed(const TrainingState& found) const {
  const bool comes_without = found.weights_only && found.tokenizer.empty();
  if (found.tokenizer != state_.tokenizer && !comes_without)
    throw Error::make(
        ExitCode::config,
        "the checkpoint in {} was trained with another tokenizer (hash {}) than that of {} (hash {}); use the "
        "corpus it was trained on, or another run.dir",
        directory_.checkpoints().string(), found.tokenizer, config_.data.corpora[0], state_.tokenizer);
  const RunConfig before = parse_run_config(found.config, "config of the checkpoint");
  std::string refused;
  for (const ConfigDifference& difference : resume_differences(before, config_)) {
    // Weights that were never trained here fix the model and nothing else.
    if (found.weights_only && difference.key.rfind("model.", 0) != 0) continue;
    const std::string text = fmt::format("{}: {} -> {}", difference.key, difference.before, difference.after);
    if (difference.on_resume == OnResume::fixed)
      refused += "\n  " + text;
    else
      console_.say("resume   changed " + text);
  }
  if (before.model.context != config_.model.context && config_.model.has_table_of_context())
    refused += fmt::format("\n  model.context: {} -> {} ({}: there is one vector for each place)", before.model.context,
                           config_.model.context,
                           config_.model.query_layer ? "model.query_layer" : "model.positions is learned");
  if (!refused.empty())
    throw Error::make(ExitCode::config,
                      "these keys may not change when a run is resumed:{}\nput them back, or choose another run.dir",
                      refused);
  if (found.numerics != state_.numerics && !found.weights_only)
    console_.say(fmt::format(
        "resume   results will not be bitwise those of an uninterrupted run:\n           then {}\n           now  {}",
        found.numerics, state_.numerics));
}

void Trainer::evaluate(MetricsLine& line) {
  enter(Phase::evaluate);
  failpoint("train.evaluate");
  const Evaluation result = capstan::evaluate(*training_, *validation_stream_, config_.train.evaluate_samples);
  enter(Phase::log);
  last_validation_ = result.loss();
  line.push_back({"validation_loss", result.loss()});
  line.push_back({"validation_bits_per_byte", result.bits_per_byte()});
}

/// What the run has learnt so far starts on its way to the disk; training goes on.
void Trainer::begin_save() {
  CAPSTAN_CHECK(queued_.empty(), "a step is under way behind step {}, whose state is to be saved", state_.step);
  if (saved_) return;
  finish_save();
  enter(Phase::save);
  if (log_) log_->sync();
  world_.all_reduce(&blank_, 1, DType::i64, ReduceOp::sum, Reduction::fast);
  state_.blank_tokens += static_cast<uint64_t>(std::exchange(blank_, 0));
  if (training_->scales_loss())
    state_.loss_scale = training_->loss_scale().scale, state_.good_steps = training_->loss_scale().good_steps;
  save_.start(directory_.checkpoints(), static_cast<uint64_t>(state_.step), *training_, state_.to_json());
  write_data();
  saved_ = true;
}

void Trainer::finish_save() {
  if (!save_.under_way()) return;
  enter(Phase::save);
  const SaveResult result = save_.commit(static_cast<int>(config_.checkpoint.keep));
  for (const std::string& warning : result.warnings) console_.say("warning  " + warning);
}

int Trainer::run() {
  if (state_.step >= config_.train.steps) {
    console_.say(
        fmt::format("done     the run has its {} steps already; raise train.steps to go on", config_.train.steps));
    return 0;
  }
  const int64_t ahead = config_.train.steps_ahead;
  steps_ahead_ = ahead != TrainConfig::kStepsAheadAutomatic ? static_cast<size_t>(ahead) : device_.runtime() ? 1 : 0;
  if (device_.runtime() != nullptr)
    meter_ = DeviceMeter([runtime = device_.runtime()] { return runtime->state(); }, &recorder_.gpus());
  std::string source;
  product_rate_ = device_.product_rate(activation_dtype(precision_of(config_.train)), source);
  if (device_.runtime() != nullptr)
    console_.say(fmt::format("MFU      is the share {}, {:.0f} TFLOP/s a GPU", source, product_rate_ * 1e-12));
  while (state_.step < config_.train.steps) {
    while (may_queue()) queue_step();
    const StepResult result = take_step();
    enter(Phase::log);
    count_step(result);
    log_step(result);
    end_if_hopeless(result);
    stops_ = stops_ || result.stop;
    if (result.written) finish_save();
    if (!queued_.empty()) continue;
    const bool ends = stops_ || state_.step == config_.train.steps;
    if (ends || due(config_.checkpoint.every)) begin_save();
    if (ends) finish_save();
    if (stops_ && state_.step < config_.train.steps) {
      console_.say(fmt::format(
          "stopped  on request at step {}; checkpoint in {}. Start the same command again to go on.", state_.step,
          (directory_.checkpoints() / checkpoint_name(static_cast<uint64_t>(state_.step))).string()));
      return static_cast<int>(ExitCode::checkpointed);
    }
  }
  announce_data(0);
  console_.say(fmt::format("done     {} steps, {} tokens; run directory {}", state_.step, state_.tokens,
                           directory_.path().string()));
  return 0;
}

}  // namespace capstan
