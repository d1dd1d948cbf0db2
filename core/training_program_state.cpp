// What a training program holds between steps: flat state, inputs, scalars; and which elements of it this rank has.

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/schedule_check.h"
#include "core/training_program.h"

namespace capstan {
TensorSpec TrainingProgram::spec_of(const Parameter& parameter, DType dtype) const {
  return {parameter.shape, dtype, effective(parameter.placements, program_.mesh())};
}

bool TrainingProgram::held(int parameter) const { return chunk_of_[static_cast<size_t>(parameter)] >= 0; }

/// Views of the parameters of all runs held, and of the runs, where `place_of` says that these lie.
void TrainingProgram::declare_views(const std::string& name, const std::string& prefix, DType dtype, Purpose purpose,
                                    const PlaceOf& place_of) {
  PersistentSpace& space = program_.persistent();
  for (size_t i = 0; i < program_.parameters().size(); ++i) {
    const Parameter& parameter = program_.parameters().at(static_cast<int>(i));
    TensorSpec spec = spec_of(parameter, dtype);
    if (purpose == Purpose::gradient) spec.placements = gradients_[i];
    if (!held(static_cast<int>(i))) space.add_absent(prefix + parameter.name, spec, purpose);
    if (layout_.first[i] < 0) continue;
    const FlatRun& run = layout_.runs[static_cast<size_t>(layout_.run_of[i])];
    const Place place = place_of(run);
    space.add_view(prefix + parameter.name, spec, place.parent,
                   static_cast<size_t>(place.first + layout_.first[i] - run.first) * bytes_of(dtype));
  }
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    const FlatRun& run = layout_.runs[r];
    if (!run.held) continue;
    const Place place = place_of(run);
    const Placements& placements = purpose == Purpose::gradient ? run.gradients : run.placements;
    space.add_view(fmt::format("{}.run{}", name, r), FlatLayout::spec(run.count, dtype, placements, program_.mesh()),
                   place.parent, static_cast<size_t>(place.first) * bytes_of(dtype));
  }
}

/// A flat buffer of this rank. The buffer itself is memory of this rank; what it holds is placed by its views.
void TrainingProgram::declare_flat(const std::string& name, const std::string& prefix, DType dtype, Purpose purpose) {
  const int parent = program_.persistent().add(name, {{layout_.elements}, dtype}, purpose);
  declare_views(name, prefix, dtype, purpose, [parent](const FlatRun& run) { return Place{parent, run.first}; });
}

/// The same buffer of which each rank of dp holds one piece of every run: its parameters are nowhere whole. `owed`:
/// sums over other axes than dp (replicas among them) are still to be formed of it.
void TrainingProgram::declare_shard(const std::string& name, DType dtype, Purpose purpose, bool owed) {
  PersistentSpace& space = program_.persistent();
  const int64_t ranks = program_.mesh().size(Axis::dp);
  const int parent = space.add(name, {{layout_.elements / ranks}, dtype}, purpose);
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    const FlatRun& run = layout_.runs[r];
    if (!run.held) continue;
    TensorSpec spec = FlatLayout::spec(run.count, dtype, owed ? run.gradients : run.placements, program_.mesh());
    spec.placements = with(spec.placements, Axis::dp, Shard(0));
    space.add_view(fmt::format("{}.run{}", name, r), spec, parent,
                   static_cast<size_t>(run.first / ranks) * bytes_of(dtype));
  }
}

/// By unit of so many elements here, 0: not held: which window it uses. Two are used in turn, so that one can be filled
/// while the other is at work. A window of its own has a unit whose contributions are spread over the backward pass,
/// unless all may share, and the smaller of two that one op needs at once (a tied table and the head's bias).
std::vector<int> TrainingProgram::windows_of_units(const std::vector<int64_t>& count, bool share_all) const {
  std::vector<int> window(count.size(), -1);
  int turn = 0, windows = 2;
  for (size_t u = 0; u < count.size(); ++u)
    if (count[u] > 0) window[u] = !share_all && spread_[u] ? windows++ : turn++ % 2;
  for (const auto& [a, b] : together_)
    if (window[a] >= 0 && window[a] == window[b]) window[count[a] < count[b] ? a : b] = windows++;
  return window;
}

/// Memory that the units held here use in turn.
TrainingProgram::PlaceOf TrainingProgram::declare_windows(const std::string& name, DType dtype, bool share_all) {
  const size_t units = static_cast<size_t>(layout_.runs.empty() ? 0 : layout_.runs.back().unit) + 1;
  std::vector<int64_t> first(units, -1), count(units), sizes(2);
  for (const FlatRun& run : layout_.runs) {
    const size_t u = static_cast<size_t>(run.unit);
    if (!run.held) continue;
    if (first[u] < 0) first[u] = run.first;
    count[u] += run.count;
  }
  const std::vector<int> window = windows_of_units(count, share_all);
  for (size_t u = 0; u < units; ++u) {
    if (window[u] < 0) continue;
    const size_t w = static_cast<size_t>(window[u]);
    sizes.resize(std::max(sizes.size(), w + 1));
    sizes[w] = std::max(sizes[w], count[u]);
  }
  std::vector<int> parents;
  for (size_t w = 0; w < sizes.size(); ++w)
    parents.push_back(
        program_.persistent().add(fmt::format("{}.window{}", name, w), {{sizes[w]}, dtype}, Purpose::window));
  if (share_all) window_of_unit_ = window;
  return [=](const FlatRun& run) {
    const size_t u = static_cast<size_t>(run.unit);
    return Place{parents[static_cast<size_t>(window[u])], run.first - first[u]};
  };
}

/// This data rank's piece of a run in a buffer that holds it whole: what a reduction over dp leaves in its place, and
/// what a gathering over dp starts from.
void TrainingProgram::declare_own_piece(const std::string& name, size_t index, int parent, const Placements& placements,
                                        DType dtype) {
  const Mesh& mesh = program_.mesh();
  const FlatRun& run = layout_.runs[index];
  if (mesh.size(Axis::dp) == 1) return;
  TensorSpec spec = FlatLayout::spec(run.count, dtype, placements, mesh);
  spec.placements = with(spec.placements, Axis::dp, Shard(0));
  const int64_t first = run.first + mesh.coordinate(Axis::dp) * (run.count / mesh.size(Axis::dp));
  program_.persistent().add_own_piece(fmt::format("{}.run{}", name, index), spec, parent,
                                      static_cast<size_t>(first) * bytes_of(dtype));
}

void TrainingProgram::declare_gradients() {
  PersistentSpace& space = program_.persistent();
  const DType master = master_dtype();
  if (gradients_divided()) {
    declare_shard("gradients", master, Purpose::gradient, true);
    declare_views("gradients.window", "gradient.", master, Purpose::gradient,
                  declare_windows("gradients", master, false));
    return;
  }
  const int parent = space.add("gradients", {{layout_.elements}, master}, Purpose::gradient);
  if (knows_own_gradients()) {  // what each data rank has is its part of one long tensor
    const Mesh& mesh = program_.mesh();
    const Placements own = effective(with(with({}, Axis::dp, Shard(0)), Axis::rep, Shard(0)), mesh);
    for (size_t r = 0; r < layout_.runs.size(); ++r)
      space.add_view(fmt::format("gradients.own.run{}", r), {{layout_.runs[r].count * mesh.data_ranks()}, master, own},
                     parent, static_cast<size_t>(layout_.runs[r].first) * bytes_of(master));
  }
  declare_views("gradients.owed", "gradient.", master, Purpose::gradient, [parent](const FlatRun& run) {
    return Place{parent, run.first};
  });
  for (size_t r = 0; r < layout_.runs.size(); ++r) {
    const FlatRun& run = layout_.runs[r];
    if (!run.held) continue;
    const size_t offset = static_cast<size_t>(run.first) * bytes_of(master);
    const auto view = [&](const char* name, int64_t count) {
      space.add_view(fmt::format("{}.run{}", name, r), FlatLayout::spec(count, master, run.placements, program_.mesh()),
                     parent, offset);
    };
    view("gradients", run.count), view("gradients.used", run.used);
    declare_own_piece("gradients.piece", r, parent, run.gradients, master);
  }
}

void TrainingProgram::declare_state() {
  const DType master = master_dtype(), working = activation_dtype(spec_.precision);
  if (parameters_divided())
    declare_views("working", "working.", working, Purpose::working, declare_windows("working", working, true));
  else if (has_working()) {
    declare_flat("working", "working.", working, Purpose::working);
    for (size_t r = 0; r < layout_.runs.size(); ++r)
      if (layout_.runs[r].held)
        declare_own_piece("working.piece", r, program_.persistent().find("working"), layout_.runs[r].placements,
                          working);
  }
  if (state_divided())
    declare_shard("parameters", master, Purpose::parameter);
  else
    declare_flat("parameters", "", master, Purpose::parameter);
  if (!spec_.training) return;
  declare_gradients();
  for (const char* moment : {"moment1", "moment2"})
    if (state_divided())
      declare_shard(moment, master, Purpose::moment);
    else
      declare_flat(moment, std::string(moment) + ".", master, Purpose::moment);
}

void TrainingProgram::plan_windows() {
  if (!gradients_divided()) return;
  const PersistentSpace& space = program_.persistent();
  WindowPlan plan{&space, &layout_, {}, {}, window_of_unit_, activation_dtype(spec_.precision)};
  plan.run_of_gradient.assign(space.all().size(), -1);
  if (parameters_divided()) plan.run_of_working.assign(space.all().size(), -1);
  for (size_t i = 0; i < program_.parameters().size(); ++i) {
    const std::string& name = program_.parameters().at(static_cast<int>(i)).name;
    plan.run_of_gradient[static_cast<size_t>(space.find("gradient." + name))] = layout_.run_of[i];
    if (parameters_divided())
      plan.run_of_working[static_cast<size_t>(space.find("working." + name))] = layout_.run_of[i];
  }
  program_.set_windows(std::make_shared<WindowPlan>(std::move(plan)));
}

void TrainingProgram::declare_inputs(PersistentSpace& space) const {
  const Mesh& mesh = program_.mesh();
  const int ranks = mesh.data_ranks();
  const Placements batch = with(with({}, Axis::dp, Shard(0)), Axis::rep, Shard(0));
  const Placements sharded = effective(with(batch, Axis::cp, Shard(1)), mesh);
  const Placements partial = effective(with(with({}, Axis::dp, Partial), Axis::rep, Partial), mesh);
  // Of the stages only the last adds something.
  const Placements of_tokens = effective(with(with(partial, Axis::cp, Partial), Axis::pp, Partial), mesh);
  const int copies = input_copies(schedule_, view_.stage);
  const Shape shape{spec_.microbatch * ranks, spec_.model.context};
  for (const char* name : {"input.tokens", "input.targets", "input.positions", "input.document_ids"})
    space.add(name, {shape, DType::i32, sharded}, Purpose::input, copies);
  space.add("input.loss_weights", {shape, DType::f32, sharded}, Purpose::input, copies);
  const int scalars = space.add("step.scalars", {{kernels::kStepScalars}, DType::f64}, Purpose::scalar);
  space.add_view("step.setting", {{kernels::kSetByHost}, DType::f64}, scalars, 0);
  space.add("step.random", {{2}, DType::i64}, Purpose::scalar, copies);
  const auto reduced = [&](const std::string& name, int64_t slots, const Placements& placements) {
    const int parent = space.add(name, {{slots}, DType::f64, placements}, Purpose::scalar);
    space.add_view(name + ".reduced", {{slots}, DType::f64}, parent, 0);
    return parent;
  };
  // Data ranks count each sample once; a request to stop may reach any rank, and any may still write a checkpoint.
  const int control = reduced("step.control", kControlSlots, partial);
  space.add_view("step.weights", {{1}, DType::f64}, control, kWeightSum * sizeof(double));
  Placements others;
  for (const Axis axis : kAllAxes) others = with(others, axis, Partial);
  others = effective(with(with(others, Axis::dp, Replicate), Axis::rep, Replicate), mesh);
  for (const char* name : {"step.votes", "step.votes.reduced"}) {
    space.add_view(name, {{kControlSlots - kStopRequests}, DType::f64, others}, control,
                   kStopRequests * sizeof(double));
    others = {};
  }
  const int report = reduced("step.report", kBadRanks + ranks, of_tokens);
  space.add_view("step.loss_sum", {{1}, DType::f64, of_tokens}, report, kLossSum * sizeof(double));
  space.add_own_piece("step.bad_rank", {{1}, DType::f64, of_tokens}, report,
                      static_cast<size_t>(kBadRanks + mesh.data_rank()) * sizeof(double));
  space.add_view("step.own_squares", {{1}, DType::f64, partial}, report, kOwnSquares * sizeof(double));
  space.add("step.own_weight", {{ranks}, DType::f64, effective(batch, mesh)}, Purpose::scalar);
  const size_t scratch = std::max<size_t>(program_.backend().square_sum_scratch(), 1);
  space.add("step.own_scratch", {{static_cast<int64_t>(scratch)}, DType::u8}, Purpose::scratch);
  const int evaluation = reduced("evaluate.report", kEvaluationSlots, of_tokens);
  space.add_view("evaluate.loss_sum", {{1}, DType::f64, of_tokens}, evaluation, kEvaluationLoss * sizeof(double));
}

/// Initial values of `count` elements of a piece, from its element `first` on.
void TrainingProgram::fill_initial(const Parameter& parameter, const StatePiece& piece, int64_t first, void* to,
                                   int64_t count) const {
#pragma omp parallel for
  for (int64_t i = 0; i < count; ++i) {
    const int64_t j = first + i;
    const double value =
        initial_value(parameter, spec_.seed, piece.first + j / piece.count * piece.stride + j % piece.count);
    if (master_dtype() == DType::f64)
      static_cast<double*>(to)[i] = value;
    else
      static_cast<float*>(to)[i] = static_cast<float>(value);
  }
}

namespace {
/// Of initial values, which are drawn in a tenth of a second or less.
constexpr size_t kInitialBlock = size_t{16} << 20;
}  // namespace

int64_t TrainingProgram::initial_blocks() const {
  int64_t elements = 0;
  for (size_t i = 0; i < program_.parameters().size(); ++i)
    for (const StatePiece& piece : state_pieces("", static_cast<int>(i))) elements += piece.count * piece.runs;
  return elements / static_cast<int64_t>(kInitialBlock / bytes_of(master_dtype()));
}

/// Draws all of the initial values, block by block: a piece may end in the midst of one.
void TrainingProgram::draw_initial(const std::function<void()>& after_block) {
  const size_t element = bytes_of(master_dtype());
  size_t drawn = 0;  // bytes of this block
  for (size_t i = 0; i < program_.parameters().size(); ++i) {
    const Parameter& parameter = program_.parameters().at(static_cast<int>(i));
    for (const StatePiece& piece : state_pieces("", static_cast<int>(i))) {
      const size_t bytes = static_cast<size_t>(piece.count * piece.runs) * element;
      for (size_t at = 0, now = 0; at < bytes; at += now) {
        now = std::min(bytes - at, kInitialBlock - drawn);
        program_.put(static_cast<char*>(piece.data) + at, now, [&](void* to, size_t first, size_t count) {
          fill_initial(parameter, piece, static_cast<int64_t>((at + first) / element), to,
                       static_cast<int64_t>(count / element));
        });
        drawn += now;
        if (drawn == kInitialBlock) after_block(), drawn = 0;
      }
    }
  }
}

void TrainingProgram::allocate_and_initialise(int64_t calls, const std::function<void()>& between) {
  program_.allocate();
  *program_.write<kernels::StepScalars>("step.scalars") = {};
  set_loss_scale({scales_loss() ? spec_.loss_scale.initial : 1.0});
  for (const Constant& constant : model_->constants()) program_.fill(constant.name, constant.fill);
  int64_t called = 0;
  const auto call = [&] {
    if (called < calls) ++called, between();
  };
  draw_initial(call);
  while (called < calls) call();  // before anything that waits for other ranks
  refresh_working_copies();
  reads_ = std::make_unique<QueuedReads>(
      program_, std::vector<std::string>{"step.report.reduced", "step.scalars", "step.control.reduced"});
}

LossScale TrainingProgram::loss_scale() const {
  const kernels::StepScalars& now = scalars();
  return {now.loss_scale, now.good_steps};
}

void TrainingProgram::set_loss_scale(const LossScale& value) {
  kernels::StepScalars now = scalars();
  now.loss_scale = value.scale, now.good_steps = value.good_steps;
  *program_.write<kernels::StepScalars>("step.scalars") = now;
}

int64_t TrainingProgram::updates() const { return static_cast<int64_t>(scalars().updates); }

void TrainingProgram::set_updates(int64_t updates) {
  kernels::StepScalars now = scalars();
  now.updates = static_cast<double>(updates);
  *program_.write<kernels::StepScalars>("step.scalars") = now;
}

void TrainingProgram::refresh_working_copies() {
  if (has_working() && !parameters_divided()) program_.run("refresh", Part::update);
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
  if (!held(index)) return {};
  const Parameter& parameter = program_.parameters().at(index);
  const size_t i = static_cast<size_t>(index), size = bytes_of(master_dtype());
  const TensorSpec spec = spec_of(parameter, master_dtype());
  int64_t begin = 0, end = element_count(local_shape(spec, program_.mesh()));  // of the local part, what is held here
  std::string memory = prefix + parameter.name;
  size_t offset = 0;  // in it, of local element `begin`
  if (state_divided()) {
    const FlatRun& run = layout_.runs[static_cast<size_t>(layout_.run_of[i])];
    const int64_t ranks = program_.mesh().size(Axis::dp), piece = run.count / ranks;
    const int64_t first = run.first + program_.mesh().coordinate(Axis::dp) * piece - layout_.first[i];
    begin = std::max<int64_t>(begin, first), end = std::min(end, first + piece);
    memory = prefix.empty() ? "parameters" : prefix.substr(0, prefix.size() - 1);
    offset = static_cast<size_t>(run.first / ranks + begin - first) * size;
  }
  char* data = program_.allocated() ? static_cast<char*>(program_.address(memory)) + offset : nullptr;
  const int64_t logical = element_count(parameter.logical_shape());
  std::vector<StatePiece> pieces;
  each_local_run(spec, program_.mesh(), [&](int64_t global, int64_t local, int64_t count) {
    const int64_t from = std::max(local, begin), to = std::min({local + count, end, local + logical - global});
    if (from < to)
      add_run(pieces, global + from - local, to - from, data ? data + static_cast<size_t>(from - begin) * size : data);
  });
  return pieces;
}

std::vector<std::string> TrainingProgram::state_names() const {
  std::vector<std::string> names;
  for (const char* prefix : {"", "moment1.", "moment2."})
    for (size_t i = 0; i < program_.parameters().size(); ++i)
      names.push_back(prefix + program_.parameters().at(static_cast<int>(i)).name);
  return names;
}

}  // namespace capstan
