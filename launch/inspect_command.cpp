#include "launch/inspect_command.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "core/config/config_checks.h"
#include "core/config/config_reader.h"
#include "core/error.h"
#include "core/job_proof.h"
#include "io/corpus/corpus.h"
#include "launch/data_report.h"
#include "launch/number_checks.h"
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

/// The plans of one rank of each stage, all of the same other coordinates, and what was proved of them together.
struct Job {
  std::vector<std::unique_ptr<TrainingProgram>> stages;
  std::vector<size_t> bytes;  ///< of each stage's arena
  JobProof proof;
  double seconds = 0.0;
};

Job plan_job(const RunConfig& config, const Mesh& mesh, const kernels::Backend& backend) {
  const auto start = std::chrono::steady_clock::now();
  const int stages = mesh.size(Axis::pp), ranks = mesh.ranks() / stages;  // pp is outermost
  TrainingSpec spec = training_spec(config, true);
  spec.table = schedule_of(spec, stages);  // one for all
  Job job;
  std::vector<StageProof> proofs;
  for (int stage = 0; stage < stages; ++stage) {
    const Mesh here = mesh_of(config.layout, stage * ranks + mesh.rank() % ranks);
    job.stages.push_back(std::make_unique<TrainingProgram>(here, Device{&backend, {}}, spec));
    const Program& program = job.stages.back()->program();
    job.bytes.push_back(program.persistent_bytes() + program.transient_bytes());
    proofs.push_back(proof_of(*job.stages.back()));
  }
  job.proof = prove(proofs);
  job.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return job;
}

std::string proof_text(const JobProof& proof) {
  return fmt::format(
      "{} parameters are on the stages that read them and nowhere twice; each is updated once in each of {} replica{} "
      "of {} data rank{}; {} paths, {} messages a step, each received; {} collectives between stages meet; nothing "
      "stands still",
      proof.parameters, proof.ownership.replicas, proof.ownership.replicas == 1 ? "" : "s", proof.ownership.shards,
      proof.ownership.shards == 1 ? "" : "s", proof.paths, proof.messages, proof.collectives);
}

/// "dp 3, pp 0, cp 0, tp 1".
std::string place_of(const Mesh& mesh) {
  std::string text;
  for (const Axis axis : kAllAxes)
    if (axis != Axis::rep || mesh.size(axis) > 1)
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name_of(axis), mesh.coordinate(axis));
  return text;
}

void inspect(const InspectArguments& arguments) {
  RunConfig config = load_run_config(arguments.config, arguments.overrides);
  fill_vocabulary(config);
  check_for_world(config, std::max(1, config.layout.dp) * config.layout.pp * config.layout.cp * config.layout.tp);
  const Mesh mesh = mesh_of(config.layout, arguments.rank);
  const kernels::Backend backend = planning_backend(config.train);
  const Job job = plan_job(config, mesh, backend);
  const TrainingProgram& training = *job.stages[static_cast<size_t>(mesh.coordinate(Axis::pp))];
  const Program& program = training.program();
  const Plan& plan = program.plan("train");
  const double count = static_cast<double>(config.accumulation());
  const auto flops_of = [&](const TrainingProgram& stage, bool again) {
    double sum = 0.0;
    for (const Part part : {Part::forward, Part::backward, Part::weights})
      sum += count * stage.program().plan("train").flops(part, again);
    return sum;
  };
  const double flops = flops_of(training, false), done = flops_of(training, true);
  double all_stages = 0.0;
  for (const auto& stage : job.stages) all_stages += flops_of(*stage, false);
  const double tokens = static_cast<double>(config.train.global_batch * config.model.context);
  fmt::print("model       {} parameters ({} trainable)\n", program.parameters().elements(),
             program.parameters().trainable_elements());
  fmt::print("layout      {}, {} ranks; seen from rank {}: {}\n", mesh.describe(), mesh.ranks(), mesh.rank(),
             place_of(mesh));
  fmt::print(
      "step        {} microbatches of {} sequences a rank; {:.0f} tokens; {:.4g} GFLOP a rank ({:.4g} with "
      "recomputation);\n"
      "            {:.6g} FLOP a token, causal attention counted as the half it needs\n",
      config.accumulation(), config.train.microbatch, tokens, flops * 1e-9, done * 1e-9,
      all_stages * mesh.data_ranks() * mesh.size(Axis::tp) * mesh.size(Axis::cp) / tokens);
  print_blend(config);
  if (job.stages.size() > 1) fmt::print("\npipeline\n{}", stage_table(training, job.bytes));
  fmt::print("\nops of plan train, one microbatch and one update, this rank\n{}", op_table(plan));
  fmt::print("\ncollectives, one microbatch and one update, this rank\n{}",
             collective_table(plan, config.accumulation()));
  fmt::print("\nproof       over all ranks, in {:.1f} s: {}\n", job.seconds, proof_text(job.proof));
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
  verb->add_option("--rank", arguments->rank, "whose plan")->capture_default_str()->check(zero_or_more());
  verb->add_flag("--ops", arguments->ops, "list every op with its operands");
  verb->footer(
      "Examples:\n"
      "  capstan inspect configs/runs/gpt2-124m.toml model.vocabulary=50257\n"
      "  capstan inspect run.toml layout.dp=8 layout.recompute=full --rank 3");
  verb->callback([arguments, &action] { action = [arguments] { inspect(*arguments); }; });
}

}  // namespace capstan
