#include "launch/bench_command.h"

#include <omp.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "core/config/config_checks.h"
#include "core/config/config_reader.h"
#include "core/error.h"
#include "kernels/philox.h"
#include "launch/command_line_ranks.h"
#include "launch/console.h"
#include "launch/machine_ceiling.h"
#include "launch/step_timer.h"
#include "launch/training_setup.h"

namespace capstan {
namespace {

struct BenchArguments {
  std::string config;
  std::vector<std::string> overrides;
  int rounds = 5, warmup = 2;
};

/// Random tokens, cubed towards small ids as text is.
void fill_inputs(TrainingProgram& training, int rank) {
  const TrainingSpec& spec = training.spec();
  Program& program = training.program();
  const int64_t count = spec.microbatch * spec.model.context;
  for (int64_t i = 0; i < count; ++i) {
    const auto token = [&](uint64_t stream) {
      const double u = unit_float(philox_word(static_cast<uint64_t>(rank) + 1, stream, static_cast<uint64_t>(i)));
      return static_cast<int32_t>(u * u * u * static_cast<double>(spec.model.vocabulary));
    };
    program.write<int32_t>("input.tokens")[i] = token(0);
    program.write<int32_t>("input.targets")[i] = token(1);
    program.write<int32_t>("input.positions")[i] = static_cast<int32_t>(i % spec.model.context);
    program.write<float>("input.loss_weights")[i] = 1.0f;
  }
}

/// settle: what would travel beside the next step counts in this one.
double run_step(TrainingProgram& training, const RunConfig& config, int64_t step, bool settle) {
  const auto start = std::chrono::steady_clock::now();
  Program& program = training.program();
  double* control = program.write<double>("step.control");
  control[kWeightSum] = static_cast<double>(config.train.microbatch * config.accumulation() * config.model.context);
  training.begin();
  training.set_step({config.optimizer.learning_rate, step, config.optimizer.clip,
                     program.read<double>("step.control.reduced")[kWeightSum], 1});
  training.run_microbatches([](int64_t) {});
  training.finish_step();
  if (settle) program.finish();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// All ranks' product rates added: the ceiling of the machine, measured while all ranks measure.
double ceiling_of(const RankDevice& device, DType dtype, Communicator& world) {
  world.barrier();
  double rate = measure_product_rate(device.backend(), dtype, device.runtime() ? 8192 : 1024, 3, device.runtime());
  world.all_reduce(&rate, 1, DType::f64, ReduceOp::sum, Reduction::fast);
  return rate;
}

void bench_step(const BenchArguments& arguments, Communicator& world) {
  RunConfig config = load_run_config(arguments.config, arguments.overrides);
  if (config.model.vocabulary == 0)
    throw Error::make(ExitCode::config, "bench step needs model.vocabulary: it uses random tokens, not a corpus");
  check_for_world(config, world.size());
  omp_set_num_threads(threads_for(config.train, world));
  RankDevice device(config.train, world);
  const kernels::Backend& backend = device.backend();
  const Mesh mesh = mesh_of(config.layout, world.rank());
  const RankGroups groups(mesh, world, device, config.layout.overlap);
  TrainingProgram training(mesh, groups.device(), training_spec(config, true));
  device.agree_on_products(world);
  training.allocate_and_initialise();
  fill_inputs(training, world.rank());
  Console console(world.rank() == 0);
  const DType dtype = activation_dtype(precision_of(config.train));
  std::vector<double> seconds, ceilings;
  for (int i = 0; i < arguments.warmup + arguments.rounds; ++i) {
    const double time = run_step(training, config, i, true);
    if (i < arguments.warmup) continue;
    seconds.push_back(time);
    ceilings.push_back(ceiling_of(device, dtype, world));
  }
  StepTimer timer;
  training.program().observe(&timer);
  constexpr int kTimed = 3;
  for (int i = 0; i < kTimed; ++i) run_step(training, config, arguments.warmup + arguments.rounds + i, false);
  training.program().observe(nullptr);

  const Plan& plan = training.program().plan("train");
  const double flops = static_cast<double>(config.accumulation() * world.size()) *
                       (plan.flops(Part::forward, false) + plan.flops(Part::backward, false));
  const double tokens = static_cast<double>(config.train.global_batch * config.model.context);
  const double time = median(seconds), ceiling = median(ceilings);
  console.say(fmt::format("{} parameters, {} sequences of {}, {}, {} rank(s), {} thread(s) a rank, {} kernels ({})",
                          training.program().parameters().elements(), config.train.global_batch, config.model.context,
                          name_of(dtype), world.size(), omp_get_max_threads(), backend.name, backend.instruction_set));
  console.say(fmt::format("tokens/s        {:.1f}   (median of {}; {:.1f} to {:.1f})", tokens / time, seconds.size(),
                          tokens / *std::max_element(seconds.begin(), seconds.end()),
                          tokens / *std::min_element(seconds.begin(), seconds.end())));
  console.say(fmt::format("GFLOP/s         {:.1f}   model FLOPs, causal attention counted as the half it needs",
                          flops / time * 1e-9));
  console.say(fmt::format(
      "ceiling         {:.1f}   GFLOP/s, product of 1024 x 1024 x 1024 in {} between the steps, all ranks together",
      ceiling * 1e-9, name_of(dtype)));
  console.say(fmt::format("share           {:.1f}%", 100.0 * flops / time / ceiling));
  console.say("\ntime by op of rank 0\n" + timer.table(kTimed));
}

}  // namespace

void add_bench_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* bench = app.add_subcommand("bench", "measure speed as a share of what the machine can do");
  bench->require_subcommand(1);
  bench->footer(
      "Example:\n  capstan bench step configs/runs/gpt2-124m.toml model.vocabulary=50257    (capstan bench step "
      "--help)");
  CLI::App* verb = bench->add_subcommand(
      "step", "a training step on random tokens: tokens/s, share of the product ceiling, time by op");
  const auto arguments = std::make_shared<BenchArguments>();
  verb->add_option("config", arguments->config, "CONFIG.toml")->required();
  verb->add_option("overrides", arguments->overrides, "key.path=value, stronger than the file");
  verb->add_option("--rounds", arguments->rounds, "steps measured")->capture_default_str()->check(CLI::Range(1, 1000));
  verb->add_option("--warmup", arguments->warmup, "steps before them")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  verb->footer(
      "Examples:\n"
      "  capstan bench step configs/runs/gpt2-124m.toml model.vocabulary=50257 model.context=64 train.global_batch=4\n"
      "  mpirun -n 2 capstan bench step run.toml model.vocabulary=257 train.precision=bf16");
  verb->callback([arguments, &action] {
    action = [arguments] { run_on_ranks({}, [&](MpiSession& session) { bench_step(*arguments, session.world()); }); };
  });
}

}  // namespace capstan
