#include "launch/inspect_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "core/config/config_checks.h"
#include "core/config/config_reader.h"
#include "core/error.h"
#include "io/corpus/corpus.h"
#include "launch/data_report.h"
#include "launch/plan_report.h"
#include "launch/training_setup.h"

namespace capstan {
namespace {

struct InspectArguments {
  std::string config;
  std::vector<std::string> overrides;
  int rank = 0;
  bool ops = false;
};

void fill_vocabulary(RunConfig& config) {
  if (config.model.vocabulary > 0) return;
  if (config.data.corpora.empty())
    throw Error::make(ExitCode::config,
                      "model.vocabulary is not set and there is no corpus to take it from; add model.vocabulary=N or "
                      "data.corpora=DIR");
  config.model.vocabulary = Corpus::open(config.data.corpora[0])->tokenizer().vocabulary();
}

/// What the run will read of each corpus; without the corpora there is nothing to say.
void print_blend(const RunConfig& config) {
  std::vector<std::shared_ptr<const Corpus>> corpora;
  for (const std::string& path : config.data.corpora) {
    if (!std::filesystem::exists(path)) return;
    corpora.push_back(Corpus::open(path));
  }
  if (corpora.empty()) return;
  CorpusStream stream(corpora, Split::train, config.model.context, static_cast<uint64_t>(config.train.seed),
                      stream_options(config), training_objective(config));
  const uint64_t samples = static_cast<uint64_t>(config.train.steps) * static_cast<uint64_t>(config.train.global_batch);
  stream.continue_from({}, 0, samples);
  for (const std::string& line : blend_lines(stream, 0, samples)) fmt::print("data        {}\n", line);
}

void inspect(const InspectArguments& arguments) {
  RunConfig config = load_run_config(arguments.config, arguments.overrides);
  fill_vocabulary(config);
  check_for_world(config, std::max(1, config.layout.dp) * config.layout.pp * config.layout.cp * config.layout.tp);
  const Mesh mesh = mesh_of(config.layout, arguments.rank);
  const kernels::Backend backend = backend_for(config.train);
  const TrainingProgram training(mesh, Device{&backend, {}}, training_spec(config, true));
  const Program& program = training.program();
  const Plan& plan = program.plan("train");
  const double count = static_cast<double>(config.accumulation());
  const double flops = count * (plan.flops(Part::forward, false) + plan.flops(Part::backward, false));
  const double done = count * (plan.flops(Part::forward, true) + plan.flops(Part::backward, true));
  const double tokens = static_cast<double>(config.train.global_batch * config.model.context);
  fmt::print("model       {} parameters ({} trainable)\n", program.parameters().elements(),
             program.parameters().trainable_elements());
  fmt::print("layout      {}, seen from rank {}\n", mesh.describe(), mesh.rank());
  fmt::print(
      "step        {} microbatches of {} sequences a rank; {:.0f} tokens; {:.4g} GFLOP a rank ({:.4g} with "
      "recomputation);\n"
      "            {:.6g} FLOP a token, causal attention counted as the half it needs\n",
      config.accumulation(), config.train.microbatch, tokens, flops * 1e-9, done * 1e-9,
      flops * mesh.size(Axis::dp) / tokens);
  print_blend(config);
  fmt::print("\nops of plan train, one microbatch and one update, this rank\n{}", op_table(plan));
  fmt::print("\ncollectives\n{}", collective_table(plan));
  fmt::print("\nmemory of this rank\n{}", memory_table(program));
  fmt::print("\npasses\n{}", pass_table(plan));
  fmt::print("\ndigest      {}\n", program.digest());
  if (arguments.ops) fmt::print("\n{}", op_list(plan));
}

}  // namespace

void add_inspect_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* verb = app.add_subcommand(
      "inspect",
      "the plan of a run: ops, bytes by purpose, bytes on the wire; needs no MPI and no memory for the weights");
  const auto arguments = std::make_shared<InspectArguments>();
  verb->add_option("config", arguments->config, "CONFIG.toml")->required();
  verb->add_option("overrides", arguments->overrides, "key.path=value, stronger than the file");
  verb->add_option("--rank", arguments->rank, "whose plan")->capture_default_str()->check(CLI::NonNegativeNumber);
  verb->add_flag("--ops", arguments->ops, "list every op with its operands");
  verb->footer(
      "Examples:\n"
      "  capstan inspect configs/runs/gpt2-124m.toml model.vocabulary=50257\n"
      "  capstan inspect run.toml layout.dp=8 layout.recompute=full --rank 3");
  verb->callback([arguments, &action] { action = [arguments] { inspect(*arguments); }; });
}

}  // namespace capstan
