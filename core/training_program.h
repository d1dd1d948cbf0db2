#pragma once
// TrainingProgram: everything a run of a decoder needs, as one Program: flat state (masters, working copies, gradients,
// moments), inputs, and the plans `train` and `evaluate`. One step, in parts of plan `train`:
//   begin     control vector summed over the data ranks (weights of the step's tokens, stop requests), and what follows
//             from it for the step
//   forward, backward   once per microbatch and chunk, as the schedule of the pipeline has it (one stage: in turn);
//             gradients and loss add up ("ordered": through the summation tree)
//   update    gradients and loss reduced, norm, clip, AdamW, working copies
// In a step nothing waits for the device: what comes of it is taken by take_outcome, when the next one may be queued.
// A rank plans the chunks of its own stage: the tape of the whole model is recorded and cut (core/passes/cut.h).
// A gradient is reduced over exactly the axes on which the backward pass leaves it Partial; which these are is found by
// recording the pass once before state is laid out, never listed (gradient_placements).
// Ordered reduction: microbatch m's sums are folded like the carries of a binary counter (parts carry/store at level
// k), so 2^a microbatches on 2^b ranks sum in one tree whatever a and b.

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "core/flat_layout.h"
#include "core/models/decoder.h"
#include "core/ops/optimizer.h"
#include "core/passes/cut.h"
#include "core/program.h"
#include "core/queued_reads.h"
#include "core/schedule.h"

namespace capstan {

enum class Precision { fp64, fp32, bf16, fp16 };
constexpr DType activation_dtype(Precision p) {
  constexpr DType types[] = {DType::f64, DType::f32, DType::bf16, DType::f16};
  return types[static_cast<int>(p)];
}

/// Of fp16; the rule itself is in kernels/optimizer.h.
struct LossScaleSpec {
  double initial = 65536.0, minimum = 1.0;
  int64_t window = 2000;  ///< good steps until it is doubled
};
/// What the next step begins with.
struct LossScale {
  double scale = 1.0, good_steps = 0.0;
};

struct TrainingSpec {
  DecoderConfig model;
  AdamWSpec optimizer;
  Precision precision = Precision::fp32;
  LossScaleSpec loss_scale{};  ///< fp16 only
  int64_t microbatch = 1;      ///< sequences of one rank at a time
  int64_t microbatches = 1;    ///< per rank and step
  uint64_t seed = 1;
  PlanOptions plan;
  bool sequence_parallel = false;  ///< the residual stream is divided over tp by tokens
  int zero = 0;  ///< divided over dp, not over rep: 1 masters and moments, 2 gradients too, 3 parameters too
  ScheduleKind schedule = ScheduleKind::one_forward_one_backward;
  int interleave = 1;                       ///< chunks of a stage, when the schedule is interleaved
  std::shared_ptr<const Schedule> table{};  ///< instead: a checked schedule, which the programs of a job share
  bool training = true;                     ///< false: only evaluate is planned, without gradients and moments
  bool separate_documents = true;
};

/// The table of this spec, or the one that its schedule makes for so many stages; checked.
std::shared_ptr<const Schedule> schedule_of(const TrainingSpec& spec, int stages);

/// Slots of step.control and of step.report, f64.
enum ControlSlot : int { kWeightSum, kStopRequests, kSavesWriting, kControlSlots };
enum ReportSlot : int { kLossSum, kOwnSquares, kBadRanks };  ///< from kBadRanks on: one flag per data rank
enum EvaluationSlot : int { kEvaluationLoss, kEvaluationWeights, kEvaluationBytes, kEvaluationSlots };

/// Part of a state tensor that this rank holds: `runs` runs of `count` elements of the logical tensor, `stride` apart
/// from `first` on, one after another at `data`.
struct StatePiece {
  int64_t first = 0, count = 0, runs = 1, stride = 0;
  void* data = nullptr;
};

/// What varies from step to step.
struct StepSetting {
  double learning_rate = 0.0;
  double clip = 0.0;        ///< 0: none
  double weights = 0.0;     ///< sum of loss weights over this rank's microbatches
  uint64_t random_key = 0;  ///< of this step's dropout
  bool stop = false;        ///< this rank was asked to stop
  bool saving = false;      ///< this rank still writes a checkpoint
};

struct StepOutcome {
  double loss_sum = 0.0;       ///< over all ranks
  double gradient_norm = 0.0;  ///< before clipping
  bool skipped = false;        ///< the norm was not finite: nothing was changed
  std::vector<int> bad_ranks;  ///< whose own loss was not finite
  double own_square = 0.0;  ///< mean over data ranks of |gradient of a rank's own mean loss|^2; see knows_own_gradients
  double loss_scale = 1.0;  ///< of this step
  double next_loss_scale = 1.0;  ///< of the step behind it
  bool overflowed = false;       ///< skipped, with nothing wrong but a loss scale that can still be lowered, and was
  double weights = 0.0;          ///< sum of loss weights over all ranks and microbatches
  bool stop = false;             ///< some rank was asked to
  bool saving = false;           ///< some rank still wrote a checkpoint when the step began
};

class TrainingProgram {
 public:
  TrainingProgram(const Mesh& mesh, const Device& device, const TrainingSpec& spec);

  const TrainingSpec& spec() const { return spec_; }
  const Decoder& model() const { return *model_; }
  Program& program() { return program_; }
  const Program& program() const { return program_; }
  DType master_dtype() const { return accumulation_of(activation_dtype(spec_.precision)); }
  const FlatLayout& layout() const { return layout_; }
  const Schedule& schedule() const { return schedule_; }
  /// For each layer its chunk of the pipeline.
  const std::vector<int>& chunk_of_layers() const { return chunk_of_layer_; }
  /// What crosses between stages in plan `train`: the same list on all of them.
  const std::vector<ChannelSpec>& paths() const { return paths_; }
  /// Whether this rank's stage ends in the loss: it alone counts samples.
  bool has_loss() const { return view_.holds(schedule_.chunks - 1); }
  /// Each rank of dp holds a piece of the sums; own gradients are whole only while their unit is at work.
  bool gradients_divided() const { return state_divided() && spec_.zero > 1; }
  /// The gradients of a data rank's own samples stand whole in its buffer until they are reduced: the noise between
  /// ranks can be told from the signal.
  bool knows_own_gradients() const {
    const Mesh& mesh = program_.mesh();
    return spec_.training && mesh.data_ranks() > 1 && mesh.data_ranks() == mesh.ranks() && !gradients_divided();
  }
  /// Stages that hold this parameter, ascending: one, or the two ends for a tied table.
  const std::vector<int>& holders(int parameter) const { return holders_[static_cast<size_t>(parameter)]; }

  /// Takes the arena, fills constants and the seed's initial parameters. Collective. For a large model that takes
  /// minutes: `between` is called `calls` times in all, of which initial_blocks() after blocks of as many values and
  /// the rest when all are drawn, each time at the same point on ranks that agree on `calls`; it may throw, which
  /// leaves the program of no use.
  void allocate_and_initialise(int64_t calls = 0, const std::function<void()>& between = {});
  /// How often allocate_and_initialise calls between at the least: once for each kInitialBlock bytes.
  int64_t initial_blocks() const;
  /// Working copies from masters: after parameters were loaded or set. Collective.
  void refresh_working_copies();

  /// One step: begin it (weights and votes are summed over the ranks), play the schedule's forwards and backwards, end
  /// it, take its outcome. place(m) writes the inputs of microbatch m (address(name, m)); it is called once for each,
  /// in ascending order, before the first action of m. reduce: gradients may be on their way to the other ranks when it
  /// returns; else they are this rank's own until end_step.
  void begin_step(const StepSetting& setting);
  void run_microbatches(const std::function<void(int64_t m)>& place, bool reduce = true);
  void end_step();
  /// Waits for the oldest step that was ended and not taken; of these there may be two.
  StepOutcome take_outcome();
  size_t outcomes() const { return reads_ ? reads_->outstanding() : 0; }
  StepOutcome finish_step() {
    end_step();
    return take_outcome();
  }
  /// Equal on the ranks of one stage: plans, layout and schedule.
  std::string digest() const;
  /// Replays plan `evaluate` on the inputs in place (of microbatch 0).
  void evaluate_microbatch();

  /// The same on all ranks. Between steps.
  LossScale loss_scale() const;
  void set_loss_scale(const LossScale& value);
  /// Steps that changed the parameters: t of AdamW is one more. Between steps.
  int64_t updates() const;
  void set_updates(int64_t updates);
  bool scales_loss() const { return spec_.precision == Precision::fp16; }

  /// What this rank holds of parameter i (prefix "") or of its "moment1.", "moment2."; padding left out. Before memory
  /// is taken, without data.
  std::vector<StatePiece> state_pieces(const std::string& prefix, int parameter) const;
  /// Axes on which the ranks hold different elements of that state tensor; on the others they hold the same.
  bool divides_state(int parameter, Axis axis) const;
  /// Names of the state that a checkpoint holds: parameters, moment1.*, moment2.*, in declared order.
  std::vector<std::string> state_names() const;

 private:
  // training_program.cpp
  void deal_out_stages();
  RecorderOptions recorder_options(bool training) const;
  void survey();
  void find_spread_units(const Tape& tape);
  void find_units_together(Recorder& recorder);
  int unit_of_gradient(const Tape& tape, TensorId id) const;
  void record_loss(Recorder& recorder, const std::string& sum) const;
  DecoderInputs decoder_inputs(Recorder& recorder) const;
  void add_plan(const std::string& name, Recorder& recorder, const ReplayOrder& order);
  void record_train();
  void record_evaluate();
  int tree_levels() const;
  void record_tree(Recorder& recorder);
  struct Sum {
    std::string name;
    int fold = 0;  ///< stands in the place of a chunk in parts carry and store
  };
  std::vector<Sum> sums_of_tree(Recorder& recorder) const;
  int fold_of(int chunk, bool apart) const { return 2 * chunk + (apart ? 1 : 0); }
  int report_fold() const { return 2 * schedule_.chunks; }
  void fold(int64_t m, int which);
  bool is_last(const Action& action) const;

  // training_program_state.cpp
  const kernels::StepScalars& scalars() const { return *program_.read<kernels::StepScalars>("step.scalars"); }
  TensorSpec spec_of(const Parameter& parameter, DType dtype) const;
  void draw_initial(const std::function<void()>& after_block);
  void fill_initial(const Parameter& parameter, const StatePiece& piece, int64_t first, void* to, int64_t count) const;
  void declare_state();
  void declare_inputs(PersistentSpace& space) const;
  struct Place {
    int parent = -1;
    int64_t first = 0;  ///< elements
  };
  using PlaceOf = std::function<Place(const FlatRun&)>;
  void declare_views(const std::string& name, const std::string& prefix, DType dtype, Purpose purpose,
                     const PlaceOf& place_of);
  void declare_flat(const std::string& name, const std::string& prefix, DType dtype, Purpose purpose);
  void declare_shard(const std::string& name, DType dtype, Purpose purpose, bool owed = false);
  void declare_own_piece(const std::string& name, size_t run, int parent, const Placements& placements, DType dtype);
  std::vector<int> windows_of_units(const std::vector<int64_t>& count, bool share_all) const;
  PlaceOf declare_windows(const std::string& name, DType dtype, bool share_all);
  void declare_gradients();
  void plan_windows();

  // training_program_update.cpp
  Value reduced_gradient(Recorder& recorder, size_t run);
  void record_own_squares(Recorder& recorder, size_t run);
  Value summed_over_replicas(Recorder& recorder, Value piece);
  void gather_whole(Recorder& recorder, Value gradient, size_t run);
  void gather_working(Recorder& recorder, size_t run) const;
  Placements owed_by(const FlatRun& run) const;
  void record_norm(Recorder& recorder, const std::vector<Value>& gradients);
  void record_update(Recorder& recorder);
  void record_refresh();

  bool held(int parameter) const;
  bool ordered() const { return spec_.plan.reduction == Reduction::ordered; }
  /// Masters and moments are divided over dp, and every rank reads whole working copies.
  bool state_divided() const { return spec_.training && spec_.zero > 0 && program_.mesh().size(Axis::dp) > 1; }
  bool parameters_divided() const { return state_divided() && spec_.zero > 2; }
  bool has_working() const { return state_divided() || activation_dtype(spec_.precision) != master_dtype(); }

  TrainingSpec spec_;
  Program program_;
  std::unique_ptr<Decoder> model_;
  const Schedule& schedule_;  ///< spec_'s table
  StageView view_;
  std::vector<int> chunk_of_layer_;
  std::vector<std::vector<int>> holders_;  ///< by parameter: stages
  std::vector<int> chunk_of_;              ///< by parameter: which of this rank's chunks reads it, or -1
  std::vector<Placements> gradients_;      ///< by parameter
  std::vector<bool> spread_;               ///< by unit: contributions to others come between those to its gradients
  std::set<std::pair<size_t, size_t>> together_;  ///< units that one node reads, or contributes to
  std::vector<int> window_of_unit_;               ///< of parameters, where they are divided
  FlatLayout layout_;
  std::vector<ChannelSpec> paths_;
  uint64_t random_key_ = 0;  ///< of the step at hand
  enum Read : size_t { kReport, kScalars, kControl };
  std::unique_ptr<QueuedReads> reads_;  ///< what the host takes of a step
};

}  // namespace capstan
