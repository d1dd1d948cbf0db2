#include "launch/train_command.h"

#include <memory>

#include "core/config/config_checks.h"
#include "core/config/config_reader.h"
#include "core/error.h"
#include "launch/command_line.h"
#include "launch/command_line_ranks.h"
#include "launch/joint_error.h"
#include "launch/own_record.h"
#include "launch/trainer.h"
#include "launch/watch.h"

namespace capstan {
namespace {

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
};

/// What is wrong with the config is said in the session, once for all ranks: until then its other keys count.
MpiOptions options_of(const TrainArguments& arguments) {
  return mpi_options(readable_run_config(arguments.config, arguments.overrides));
}

/// A run that diverged is a measurement too.
int train_and_record_failure(const RunConfig& config, Watch& watch, const StopSignal& stop, Console& console) {
  try {
    Trainer trainer(config, watch, stop, console);
    return trainer.run();
  } catch (const StoppedAtStart&) {
    console.say(
        "stopped  on request before the first step; no checkpoint was written. Start the same command again to go on.");
    return static_cast<int>(ExitCode::checkpointed);
  } catch (const Error& error) {
    if (error.code() == ExitCode::numerical && watch.world().rank() == 0)
      keep_own_record(config, error.what(), console);
    throw;
  }
}

void train(const TrainArguments& arguments) {
  const StopSignal stop;  // first of all: a launcher that sends USR1 while ranks start must not end them
  run_on_ranks(options_of(arguments), [&](MpiSession& session, StartWatch& start) {
    RunConfig config;
    on_all_ranks(session.world(), [&] {
      config = load_run_config(arguments.config, arguments.overrides);
      check_for_training(config);
      check_for_world(config, session.world().size());
    });
    Console console(session.world().rank() == 0);
    Watch watch(config, session.world());
    start.over();
    const int code = train_and_record_failure(config, watch, stop, console);
    watch.recorder().phase(Phase::end, config.train.steps);
    watch.world().barrier();
    if (code != 0) throw ExitRequest{code};
    if (session.world().rank() == 0) keep_own_record(config, "", console);
  });
}

}  // namespace

void add_train_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* verb =
      app.add_subcommand("train", "pretrain a model; resumes by itself when the run directory holds a checkpoint");
  const auto arguments = std::make_shared<TrainArguments>();
  verb->add_option("config", arguments->config, "CONFIG.toml (capstan config lists every key)")->required();
  verb->add_option("overrides", arguments->overrides, "key.path=value, stronger than the file");
  verb->footer(
      "Examples:\n"
      "  capstan train configs/runs/shakespeare-cpu.toml data.corpora=my-corpus\n"
      "  mpirun -n 2 capstan train run.toml train.steps=2000 optimizer.learning_rate=6e-4\n"
      "SIGTERM, SIGINT or SIGUSR1 to a rank (SIGUSR1 to mpirun): the step is finished on all ranks, a checkpoint is "
      "written\n"
      "and the exit code is 75; the same command then goes on. A second SIGINT ends at once. Before the first step "
      "there\n"
      "is nothing to write: the ranks end within seconds, with 75 too.");
  verb->callback([arguments, &action] { action = [arguments] { train(*arguments); }; });
}

}  // namespace capstan
