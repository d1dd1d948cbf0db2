#include "launch/evaluate_command.h"

#include <omp.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "core/config/config_checks.h"
#include "core/config/config_reader.h"
#include "core/config/config_writer.h"
#include "core/error.h"
#include "launch/command_line_ranks.h"
#include "launch/console.h"
#include "launch/data_report.h"
#include "launch/evaluator.h"
#include "launch/finished_run.h"
#include "launch/joint_error.h"
#include "launch/program_state.h"
#include "launch/training_setup.h"

namespace capstan {
namespace {

struct EvaluateArguments {
  std::string run;
  std::vector<std::string> corpora, overrides;
  std::string split = "validation";
  int64_t samples = 0, step = -1;
};

std::vector<std::shared_ptr<const Corpus>> corpora_for(const EvaluateArguments& arguments, const FinishedRun& run) {
  std::vector<std::shared_ptr<const Corpus>> corpora;
  const std::vector<std::string>& paths = arguments.corpora.empty() ? run.config.data.corpora : arguments.corpora;
  if (paths.empty())
    throw Error::make(ExitCode::usage, "{} names no corpus of its own: add --corpus DIR", arguments.run);
  for (const std::string& path : paths) {
    corpora.push_back(Corpus::open(path));
    const bool comes_without = run.state.weights_only && run.state.tokenizer.empty();
    if (corpora.back()->tokenizer().hash() != run.state.tokenizer && !comes_without)
      throw Error::make(ExitCode::config,
                        "the tokenizer of {} (hash {}) is not the one this run was trained with (hash {})", path,
                        corpora.back()->tokenizer().hash(), run.state.tokenizer);
    check_vocabulary(corpora.back()->tokenizer(), path, run.config.model);
  }
  return corpora;
}

/// The layout of the run where the ranks that were started can have it; else every rank holds the whole model. Nothing
/// is divided or kept back that only training needs.
LayoutConfig layout_for(const LayoutConfig& trained, int ranks, std::string& notice) {
  LayoutConfig layout;
  const int divided = trained.tp * trained.pp * trained.cp;
  if (ranks % divided != 0) {
    notice = fmt::format(
        "the run's tp {} x pp {} x cp {} needs a multiple of {} ranks, {} started: each holds the whole model "
        "(or name a layout: layout.tp=N)",
        trained.tp, trained.pp, trained.cp, divided, ranks == 1 ? "1 was" : fmt::format("{} were", ranks));
    return layout;
  }
  layout.tp = trained.tp, layout.pp = trained.pp, layout.cp = trained.cp;
  layout.sequence_parallel = trained.sequence_parallel, layout.overlap = trained.overlap;
  return layout;
}

/// A run's config for reading on so many ranks: what it says of training alone must not stand in the way.
RunConfig reading_config(const EvaluateArguments& arguments, RunConfig config, int ranks, bool gpus,
                         std::string& notice) {
  const auto names_layout = [](const std::string& word) { return word.starts_with("layout."); };
  if (!std::all_of(arguments.overrides.begin(), arguments.overrides.end(), names_layout))
    throw Error::make(ExitCode::usage, "evaluate takes settings of the layout alone (layout.tp=2), got {}",
                      fmt::join(arguments.overrides, " "));
  config.train = for_reading(config.train, gpus);
  config.train.reduction = Reduction::fast;
  config.train.microbatch = std::max<int64_t>(1, config.train.microbatch);
  config.train.global_batch = config.train.microbatch * ranks;
  if (arguments.overrides.empty()) {
    config.layout = layout_for(config.layout, ranks, notice);
  } else {
    config.layout = {};
    config = parse_run_config(write_effective(config), "config of " + arguments.run, arguments.overrides);
  }
  const int data_ranks = ranks / std::max(1, config.layout.tp * config.layout.pp * config.layout.cp);
  config.train.global_batch = config.train.microbatch * std::max(1, data_ranks);
  check_for_world(config, ranks);
  return config;
}

/// One checkpoint for all ranks, though a run that is still training may leave a newer one meanwhile: rank 0's choice.
FinishedRun open_together(const EvaluateArguments& arguments, Communicator& world) {
  std::optional<FinishedRun> opened;
  int64_t step = arguments.step;
  on_all_ranks(world, [&] {
    if (world.rank() != 0) return;
    opened = open_run(arguments.run, step);
    step = opened->state.step;
  });
  world.broadcast(&step, sizeof step, 0);
  on_all_ranks(world, [&] {
    if (world.rank() != 0) opened = open_run(arguments.run, step);
  });
  return std::move(*opened);
}

void evaluate_run(const EvaluateArguments& arguments, Communicator& world) {
  FinishedRun run = open_together(arguments, world);
  const bool gpus = gpus_on_all(world);
  std::string notice;
  std::unique_ptr<CorpusStream> stream;
  on_all_ranks(world, [&] {
    run.config = reading_config(arguments, run.config, world.size(), gpus, notice);
    stream = std::make_unique<CorpusStream>(corpora_for(arguments, run),
                                            arguments.split == "train" ? Split::train : Split::validation,
                                            run.config.model.context, static_cast<uint64_t>(run.config.train.seed),
                                            StreamOptions{}, training_objective(run.config));
  });
  Console console(world.rank() == 0);
  for (const std::string& complaint : run.complaints) console.say("warning  " + complaint);
  if (!notice.empty()) console.say("layout   " + notice);
  omp_set_num_threads(threads_for(run.config.train, world));
  const RankDevice device(run.config.train, world);
  const Mesh mesh = mesh_of(run.config.layout, world.rank());
  const RankGroups groups(mesh, world, device);
  std::unique_ptr<TrainingProgram> program;
  on_all_ranks(world, [&] {
    program = std::make_unique<TrainingProgram>(mesh, groups.device(), training_spec(run.config, false));
    program->allocate_and_initialise();
    load_parameters(program->program(), program->master_dtype(), run.checkpoint);
  });
  TrainingProgram& training = *program;
  training.refresh_working_copies();
  const int64_t wanted = arguments.samples > 0 ? arguments.samples : static_cast<int64_t>(stream->samples_per_epoch());
  const Evaluation result = evaluate(training, *stream, wanted, [&](int64_t done) {
    console.progress(fmt::format("{} of {} samples", done, wanted), done >= wanted);
  });
  console.say(fmt::format("checkpoint               {}", run.checkpoint.path().string()));
  console.say(fmt::format("{} samples       {} ({} tokens, {} bytes of text)", arguments.split, result.samples,
                          static_cast<int64_t>(result.weights), static_cast<int64_t>(result.bytes)));
  console.say(fmt::format("loss                     {} nats per token", result.loss()));
  console.say(fmt::format("bits per byte            {}", result.bits_per_byte()));
}

}  // namespace

void add_evaluate_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* verb = app.add_subcommand("evaluate", "loss of a run's model in nats per token and bits per byte");
  const auto arguments = std::make_shared<EvaluateArguments>();
  verb->add_option("--run", arguments->run, "run directory")->required();
  verb->add_option("--corpus", arguments->corpora, "corpus directories; default: those of the run");
  verb->add_option("--split", arguments->split, "validation or train")
      ->capture_default_str()
      ->check(CLI::IsMember({"validation", "train"}));
  verb->add_option("--samples", arguments->samples, "how many samples; 0: the whole split")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 30));
  verb->add_option("overrides", arguments->overrides, "layout.KEY=value, in the place of the run's layout");
  verb->add_option("--step", arguments->step, "the checkpoint of this step; default: the newest");
  verb->footer(
      "Examples:\n"
      "  capstan evaluate --run runs/quickstart/run\n"
      "  mpirun -n 2 capstan evaluate --run runs/mine --corpus other-corpus --samples 1000\n"
      "  mpirun -n 4 capstan evaluate --run runs/mine layout.tp=4\n"
      "The layout is the run's where the ranks that are started can have it; else each rank holds the whole model.");
  verb->callback([arguments, &action] {
    action = [arguments] { run_on_ranks({}, [&](MpiSession& session) { evaluate_run(*arguments, session.world()); }); };
  });
}

}  // namespace capstan
