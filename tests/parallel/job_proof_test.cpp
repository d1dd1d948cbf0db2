// label: ranks
// What is proved of a job before it starts, and that the proof can fail: seeded mutations of plans, paths, layouts and
// schedules are each found and named. And what a plan says it sends is what the communicators count.

#include "core/job_proof.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <random>

#include "core/ops/conversion.h"
#include "core/schedule_check.h"
#include "tests/parallel/layout_twin.h"
#include "tests/support/outcome.h"

namespace capstan::testing {
namespace {

using enum ScheduleKind;
using Kind = Action::Kind;

DecoderConfig deep(DecoderConfig config) {
  config.layers = 4;
  return config;
}

TrainingSpec spec_for(const DecoderConfig& model, const Layout& layout, int64_t microbatches) {
  TrainingSpec spec = tiny_spec(model);
  spec.microbatch = 1, spec.microbatches = microbatches;
  spec.sequence_parallel = layout.sequence_parallel, spec.zero = layout.zero;
  spec.plan.recompute.policy = layout.recompute;
  spec.schedule = layout.schedule, spec.interleave = layout.interleave;
  return spec;
}

/// One rank of each stage, planned without any other.
class Job {
 public:
  Job(const DecoderConfig& model, const Layout& layout, int64_t microbatches = 4) {
    for (int stage = 0; stage < layout.pp; ++stage) {
      const Mesh mesh({layout.dp / layout.replicas(), layout.pp, 1, layout.tp, 1, layout.replicas()},
                      stage * layout.dp * layout.tp);
      plans_.push_back(
          std::make_unique<TrainingProgram>(mesh, Device{&backend_, {}}, spec_for(model, layout, microbatches)));
    }
    for (const auto& plan : plans_) {
      tapes_.push_back(plan->program().plan("train").tape);
      schedules_.push_back(plan->schedule());
      layouts_.push_back(plan->layout());
    }
    for (size_t s = 0; s < plans_.size(); ++s) {
      StageProof stage = proof_of(*plans_[s]);
      stage.tape = &tapes_[s], stage.schedule = &schedules_[s], stage.layout = &layouts_[s];
      stages_.push_back(stage);
    }
  }

  Tape& tape(size_t stage) { return tapes_[stage]; }
  Schedule& schedule(size_t stage) { return schedules_[stage]; }
  FlatLayout& layout(size_t stage) { return layouts_[stage]; }
  StageProof& stage(size_t index) { return stages_[index]; }
  const ParameterSet& parameters() const { return plans_[0]->program().parameters(); }

  JobProof proof() const { return prove(stages_); }
  /// Empty when the job can run.
  std::string complaint() const {
    return support::outcome_of([&] { prove(stages_); }).message;
  }

 private:
  kernels::Backend backend_ = kernels::reference_backend();
  std::vector<std::unique_ptr<TrainingProgram>> plans_;
  std::vector<Tape> tapes_;
  std::vector<Schedule> schedules_;
  std::vector<FlatLayout> layouts_;
  std::vector<StageProof> stages_;
};

Layout pipeline(int pp, ScheduleKind schedule, int interleave = 1) {
  Layout layout;
  layout.pp = pp, layout.schedule = schedule, layout.interleave = interleave;
  return layout;
}

std::vector<Layout> layouts() {
  std::vector<Layout> all{{},
                          {2, 2, true},
                          pipeline(2, gpipe),
                          pipeline(4, one_forward_one_backward),
                          pipeline(2, interleaved, 2),
                          pipeline(4, zero_bubble)};
  Layout all_axes = pipeline(2, zero_bubble);
  all_axes.tp = 2, all_axes.dp = 2, all_axes.sequence_parallel = true, all_axes.zero = 3;
  all_axes.recompute = Policy::selective;
  all.push_back(all_axes);
  Layout hybrid;
  hybrid.tp = 2, hybrid.dp = 4, hybrid.zero_ranks = 2, hybrid.sequence_parallel = true;
  for (const int zero : {0, 1, 3}) hybrid.zero = zero, all.push_back(hybrid);
  return all;
}

TEST(JobProofs, EveryLayoutPasses) {
  for (const DecoderConfig& model : {deep(tiny_gpt()), deep(tiny_llama())})
    for (const Layout& layout : layouts()) EXPECT_EQ(Job(model, layout).complaint(), "") << name_of(layout);
}

/// Nodes of a stage that talk to other stages.
std::vector<size_t> talking(const Tape& tape) {
  std::vector<size_t> found;
  for (size_t i = 0; i < tape.nodes.size(); ++i)
    if (tape.nodes[i].op->is_collective() && tape.nodes[i].op->attributes().starts_with("pp ")) found.push_back(i);
  return found;
}

/// "send (pp path 3 to stage 1)".
std::string text_of(const Node& node) { return fmt::format("{} ({})", node.op->name(), node.op->attributes()); }

/// What a complaint may call a node that talks to other stages: itself, its path, which no other pair of ops has, or
/// what it makes, which nothing else does.
std::vector<std::string> names_of(const Tape& tape, const Node& node) {
  const std::string text = node.op->attributes();  // "pp path 3 to stage 1"
  std::vector<std::string> names{text_of(node)};
  if (text.starts_with("pp path ")) names.push_back(text.substr(3, text.find(' ', 8) - 3));
  for (const TensorId id : node.outputs) names.push_back(tape.at(id).name);
  return names;
}

/// What a mutation did (empty: it does not apply), and the names of the op, action, path or parameter that it did it
/// to, one of which the complaint must have.
struct Change {
  std::string what;
  std::vector<std::string> names;
};
using Mutation = std::function<Change(Job&, std::mt19937&)>;

/// A word of a text, not the beginning of a longer one: "path 1" is not in "path 12".
bool has_name(const std::string& text, const std::string& name) {
  for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    const size_t end = at + name.size();
    const bool goes_on = end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) ||
                                               (text[end] == '.' && end + 1 < text.size() && text[end + 1] != ' '));
    if (!goes_on && (at == 0 || !std::isalnum(static_cast<unsigned char>(text[at - 1])))) return true;
  }
  return false;
}

/// Thirty changes, drawn by seeds, over all these layouts; each must be found, and named.
void expect_found(const char* kind, const Mutation& mutate, int least) {
  int applied = 0;
  for (const Layout& layout : layouts())
    for (unsigned seed = 0; seed < 6; ++seed) {
      std::mt19937 random(seed);
      Job job(deep(seed % 2 == 0 ? tiny_gpt() : tiny_llama()), layout);
      const Change change = mutate(job, random);
      if (change.what.empty()) continue;
      ++applied;
      const std::string complaint = job.complaint();
      EXPECT_TRUE(std::any_of(change.names.begin(), change.names.end(),
                              [&](const std::string& name) { return has_name(complaint, name); }))
          << kind << ": " << change.what << " in " << name_of(layout) << " is not named (wanted "
          << fmt::format("{}", fmt::join(change.names, " or ")) << ") in: " << complaint;
    }
  EXPECT_GE(applied, least) << kind;
}

size_t stages_of(Job& job) { return static_cast<size_t>(job.schedule(0).stages); }

TEST(Mutations, ADroppedMessageOrCollectiveIsFound) {
  expect_found(
      "drop",
      [](Job& job, std::mt19937& random) -> Change {
        const size_t stage = random() % stages_of(job);
        Tape& tape = job.tape(stage);
        const std::vector<size_t> nodes = talking(tape);
        if (nodes.empty()) return {};
        const size_t node = nodes[random() % nodes.size()];
        const Change change{fmt::format("stage {}: {}", stage, text_of(tape.nodes[node])),
                            names_of(tape, tape.nodes[node])};
        tape.nodes.erase(tape.nodes.begin() + static_cast<ptrdiff_t>(node));
        return change;
      },
      20);
}

TEST(Mutations, TwoMessagesSwappedAreFound) {
  expect_found(
      "swap",
      [](Job& job, std::mt19937& random) -> Change {
        const size_t stage = random() % stages_of(job);
        Tape& tape = job.tape(stage);
        const std::vector<size_t> nodes = talking(tape);
        std::vector<std::pair<size_t, size_t>> pairs;
        for (const size_t a : nodes)
          for (const size_t b : nodes)
            if (a < b && tape.nodes[a].op->name() == tape.nodes[b].op->name() &&
                tape.nodes[a].op->name() != "all-reduce")
              pairs.push_back({a, b});
        if (pairs.empty()) return {};
        const auto [a, b] = pairs[random() % pairs.size()];
        std::swap(tape.nodes[a].op, tape.nodes[b].op);
        std::vector<std::string> names = names_of(tape, tape.nodes[a]), others = names_of(tape, tape.nodes[b]);
        names.insert(names.end(), others.begin(), others.end());
        return {fmt::format("stage {}: {} and {}", stage, text_of(tape.nodes[a]), text_of(tape.nodes[b])), names};
      },
      10);
}

TEST(Mutations, AMessageOfAnotherSizeIsFound) {
  expect_found(
      "resize",
      [](Job& job, std::mt19937& random) -> Change {
        const size_t stage = random() % stages_of(job);
        Tape& tape = job.tape(stage);
        const std::vector<size_t> nodes = talking(tape);
        if (nodes.empty()) return {};
        const Node& node = tape.nodes[nodes[random() % nodes.size()]];
        const TensorId id = node.inputs.empty() ? node.outputs[0] : node.inputs[0];
        tape.tensors[static_cast<size_t>(id)].spec.shape.back() += 2;
        std::vector<std::string> names = names_of(tape, node);
        names.push_back(tape.at(id).name);
        return {fmt::format("stage {}: {}", stage, tape.at(id).name), names};
      },
      20);
}

TEST(Mutations, AWrongPathIsFound) {
  expect_found(
      "group",
      [](Job& job, std::mt19937& random) -> Change {
        const size_t stage = random() % stages_of(job);
        auto& paths = job.stage(stage).paths;
        if (paths.empty()) return {};
        const size_t path = random() % paths.size();
        std::swap(paths[path].from, paths[path].to);
        return {fmt::format("stage {}: path {} turned round", stage, path), {fmt::format("path {}", path)}};
      },
      20);
}

TEST(Mutations, ADoubleOwnerAndAMissingLayerAreFound) {
  for (const bool second : {false, true})
    expect_found(
        second ? "double owner" : "missing layer",
        [&](Job& job, std::mt19937& random) -> Change {
          const size_t stages = stages_of(job), stage = random() % stages;
          std::vector<bool>& holds = job.stage(stage).holds;
          std::vector<size_t> choice;
          for (size_t i = 0; i < holds.size(); ++i)
            if (holds[i] != second) choice.push_back(i);
          if (choice.empty()) return {};
          const size_t parameter = choice[random() % choice.size()];
          holds[parameter] = second;
          const std::string& name = job.parameters().at(static_cast<int>(parameter)).name;
          return {fmt::format("stage {}: {}", stage, name), {name}};
        },
        second ? 20 : 30);
}

TEST(Mutations, MemoryGivenTwiceIsFound) {
  expect_found(
      "overlap",
      [](Job& job, std::mt19937& random) -> Change {
        const size_t stage = random() % stages_of(job);
        FlatLayout& layout = job.layout(stage);
        std::vector<size_t> held;
        for (size_t i = 0; i < layout.first.size(); ++i)
          if (layout.first[i] > 0) held.push_back(i);
        if (held.empty()) return {};
        const size_t parameter = held[random() % held.size()];
        layout.first[parameter] -= 8;
        const std::string& name = job.parameters().at(static_cast<int>(parameter)).name;
        return {fmt::format("stage {}: {}", stage, name), {name}};
      },
      30);
}

/// A collective in the wrong group, or in none.
TEST(Mutations, AConversionOverAnotherAxisIsFound) {
  expect_found(
      "axis",
      [](Job& job, std::mt19937& random) -> Change {
        const size_t stage = random() % stages_of(job);
        Tape& tape = job.tape(stage);
        std::vector<size_t> sums;
        for (size_t i = 0; i < tape.nodes.size(); ++i)
          if (tape.nodes[i].op->name() == "all-reduce" && !tape.nodes[i].op->attributes().starts_with("pp "))
            sums.push_back(i);
        if (sums.empty()) return {};
        Node& node = tape.nodes[sums[random() % sums.size()]];
        const std::string before = node.op->attributes();
        for (const Axis axis : kAllAxes)
          if (!before.starts_with(capstan::name_of(axis)) && tape.mesh.size(axis) > 1)
            node.op = make_conversion(axis, Partial, Replicate);
        if (before == node.op->attributes()) return {};
        return {fmt::format("stage {}: {} was {}", stage, text_of(node), before),
                {fmt::format("{} makes {}", text_of(node), tape.at(node.outputs.at(0)).name),
                 fmt::format("{} of {}", text_of(node), tape.at(node.inputs.at(0)).name)}};
      },
      20);
}

TEST(Mutations, StateUpdatedTwiceOrNeverIsFound) {
  for (const bool twice : {false, true})
    expect_found(
        twice ? "twice" : "never",
        [&](Job& job, std::mt19937& random) -> Change {
          const size_t stage = random() % stages_of(job);
          Tape& tape = job.tape(stage);
          std::vector<size_t> updates;
          for (size_t i = 0; i < tape.nodes.size(); ++i)
            if (tape.nodes[i].op->name() == "adamw") updates.push_back(i);
          const size_t node = updates.at(random() % updates.size());
          const std::string name = tape.at(tape.nodes[node].outputs.at(0)).name;
          if (twice)
            tape.nodes.push_back(tape.nodes[node]);
          else
            tape.nodes.erase(tape.nodes.begin() + static_cast<ptrdiff_t>(node));
          return {fmt::format("stage {}: {}", stage, name), {name}};
        },
        30);
}

TEST(JobProofs, CountReplicasAndTheirShards) {
  Layout layout;
  layout.dp = 4, layout.zero_ranks = 2;
  for (const auto& [zero, shards, replicas] : {std::tuple{0, 1, 4}, {1, 2, 2}, {3, 2, 2}}) {
    layout.zero = zero;
    const JobProof proof = Job(deep(tiny_llama()), layout).proof();
    EXPECT_EQ(proof.ownership.shards, shards);
    EXPECT_EQ(proof.ownership.replicas, replicas);
  }
}

TEST(Mutations, AChangedScheduleIsFound) {
  expect_found(
      "schedule",
      [](Job& job, std::mt19937& random) -> Change {
        const size_t stages = stages_of(job), stage = random() % stages;
        std::vector<std::vector<Action>> changed = job.schedule(0).actions;
        std::vector<Action>& actions = changed[stage];
        const size_t place = random() % actions.size();
        std::vector<std::string> names{job.schedule(0).name_of(actions[place])};
        switch (random() % 3) {
          case 0:
            actions.erase(actions.begin() + static_cast<ptrdiff_t>(place));
            break;
          case 1:
            actions.push_back(actions[place]);
            break;
          default:  // weight gradients, or whatever comes twice in a kind, out of order
            for (Action& a : actions)
              if (a.kind == actions[place].kind && a.chunk == actions[place].chunk && a.microbatch < 2)
                a.microbatch = 1 - a.microbatch, names.push_back(job.schedule(0).name_of(a));
        }
        for (size_t s = 0; s < stages; ++s) job.schedule(s).actions = changed;
        return {fmt::format("stage {}, action {}", stage, place), names};
      },
      30);
}

/// What the plan says it sends is what is counted: of every axis, forward, backward and update, under every layout.
TEST(BytesOnTheWire, AreThoseThatThePlanSays) {
  const kernels::Backend backend = kernels::reference_backend();
  for (const DecoderConfig& model : {deep(tiny_gpt()), deep(tiny_llama())})
    for (const Layout& layout : layouts()) {
      if (layout.ranks() == 1) continue;
      run_rank_threads(layout.ranks(), [&](Communicator& world) {
        TinyTraining training(spec_for(model, layout, 4), backend, world, layout.tp, layout.pp, 1, layout.replicas());
        std::map<Axis, double> planned;
        const Plan& plan = training.program().plan("train");
        for (size_t i = 0; i < plan.tape.nodes.size(); ++i) {
          const Part part = plan.tape.nodes[i].part;
          if (!plan.tape.nodes[i].op->is_collective() || part == Part::begin) continue;
          const Wire wire = plan.wire(i);
          if (plan.tape.nodes[i].op->attributes().ends_with("first and last stage") && layout.pp > 2) continue;
          planned[wire.axis] += wire.bytes * (part == Part::update ? 1 : 4);
        }
        training.prepare(0, 1e-2);
        std::map<Axis, size_t> before;
        for (const Axis axis : kAllAxes) before[axis] = training.group(axis).count().bytes;
        training.accumulate(0);
        training.training().finish_step();
        for (const Axis axis : kAllAxes)
          EXPECT_NEAR(static_cast<double>(training.group(axis).count().bytes - before[axis]), planned[axis], 64.0)
              << name_of(axis) << " of " << name_of(layout) << ", rank " << world.rank();
      });
    }
}

}  // namespace
}  // namespace capstan::testing
