#include "launch/bench_command.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <numeric>

#include "core/config/config_checks.h"
#include "core/config/config_reader.h"
#include "core/config/presets.h"
#include "core/error.h"
#include "kernels/philox.h"
#include "launch/command_line_ranks.h"
#include "launch/console.h"
#include "launch/joint_error.h"
#include "launch/kernel_bench.h"
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
double run_step(TrainingProgram& training, const RunConfig& config, bool settle) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t tokens = config.train.microbatch * config.accumulation() * config.model.context;
  training.begin_step({config.optimizer.learning_rate, config.optimizer.clip, static_cast<double>(tokens), 1});
  training.run_microbatches([](int64_t) {});
  training.finish_step();
  if (settle) training.program().finish();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

int64_t ceiling_side(const RankDevice& device) { return device.runtime() ? 8192 : 1024; }

/// All ranks' product rates added: the ceiling of the machine, measured while all ranks measure.
double ceiling_of(const RankDevice& device, DType dtype, Communicator& world) {
  world.barrier();
  double rate = measure_product_rate(device.backend(), dtype, ceiling_side(device), 3, device.runtime());
  world.all_reduce(&rate, 1, DType::f64, ReduceOp::sum, Reduction::fast);
  return rate;
}

/// On a GPU: the share of what its maker states.
void say_mfu(Console& console, const RankDevice& device, const RunConfig& config, double rate) {
  if (device.runtime() == nullptr) return;
  const kernels::DeviceFacts facts = device.runtime()->facts();
  const double peak = device.published_peak(activation_dtype(precision_of(config.train)));
  if (peak > 0.0)
    console.say(fmt::format("MFU             {:.1f}%  of the published dense peak of {}, {:.1f} TFLOP/s",
                            100.0 * rate / peak, facts.name, peak * 1e-12));
  else
    console.say(fmt::format("MFU             unknown: the published peak of {} is not known here", facts.name));
  const kernels::DeviceState state = device.runtime()->state();
  console.say(fmt::format("device          {:.0f} MHz, {:.0f} W, {:.0f} C{}", state.clock_mhz, state.watts,
                          state.temperature, state.throttled.empty() ? "" : ", held down by " + state.throttled));
}

void bench_step(const BenchArguments& arguments, Communicator& world) {
  RunConfig config;
  on_all_ranks(world, [&] {
    config = load_run_config(arguments.config, arguments.overrides);
    if (config.model.vocabulary == 0)
      throw Error::make(ExitCode::config, "bench step needs model.vocabulary: it uses random tokens, not a corpus");
    check_for_world(config, world.size());
  });
  omp_set_num_threads(threads_for(config.train, world));
  RankDevice device(config.train, world);
  const kernels::Backend& backend = device.backend();
  const Mesh mesh = mesh_of(config.layout, world.rank());
  const RankGroups groups(mesh, world, device, config.layout.overlap, config.train.reduction);
  TrainingProgram training(mesh, groups.device(), training_spec(config, true));
  device.agree_on_products(world);
  training.allocate_and_initialise();
  fill_inputs(training, world.rank());
  Console console(world.rank() == 0);
  const DType dtype = activation_dtype(precision_of(config.train));
  std::vector<double> seconds, ceilings;
  for (int i = 0; i < arguments.warmup + arguments.rounds; ++i) {
    const double time = run_step(training, config, true);
    if (i < arguments.warmup) continue;
    seconds.push_back(time);
    ceilings.push_back(ceiling_of(device, dtype, world));
  }
  StepTimer timer;
  training.program().observe(&timer);
  constexpr int kTimed = 3;
  for (int i = 0; i < kTimed; ++i) run_step(training, config, false);
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
      "ceiling         {:.1f}   GFLOP/s, product of {} x {} x {} in {} between the steps, all ranks together",
      ceiling * 1e-9, ceiling_side(device), ceiling_side(device), ceiling_side(device), name_of(dtype)));
  console.say(fmt::format("share           {:.1f}%", 100.0 * flops / time / ceiling));
  say_mfu(console, device, config, flops / time / world.size());
  console.say("\ntime by op of rank 0" +
              std::string(device.runtime()
                              ? ", each finished before the next: their sum exceeds the step, which is captured"
                              : "") +
              "\n" + timer.table(kTimed));
}

struct KernelArguments {
  std::string model, device;
  std::vector<std::string> overrides;
  KernelBenchOptions options;
};

/// A file, or the name of a preset.
RunConfig kernels_config(const KernelArguments& arguments) {
  std::vector<std::string> overrides = arguments.overrides;
  if (!arguments.device.empty()) overrides.push_back("train.device=" + arguments.device);
  if (std::filesystem::exists(arguments.model) || !preset_text(arguments.model))
    return load_run_config(arguments.model, overrides);
  std::vector<std::string> all{"model.preset=" + arguments.model, "train.global_batch=1"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return parse_run_config("", "preset " + arguments.model, all);
}

/// What an op may take: most of what a GPU has left, half of what a host has.
size_t memory_for_ops(const RankDevice& device) {
  if (device.runtime()) return device.runtime()->facts().free_bytes / 10 * 8;
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) / 2 * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

void bench_kernels(const KernelArguments& arguments, Communicator& world) {
  if (world.size() != 1)
    throw Error::make(ExitCode::config, "bench kernels measures one rank's ops and ran on {} ranks; start one",
                      world.size());
  RunConfig config = kernels_config(arguments);
  if (config.model.vocabulary == 0)
    throw Error::make(ExitCode::config, "bench kernels needs model.vocabulary, which no corpus tells it");
  check_for_world(config, world.size());
  omp_set_num_threads(threads_for(config.train, world));
  RankDevice device(config.train, world);
  const RankGroups groups(mesh_of(config.layout, 0), world, device);
  TrainingProgram training(mesh_of(config.layout, 0), groups.device(), training_spec(config, true));
  device.agree_on_products(world);
  Console console(true);
  KernelBenchOptions options = arguments.options;
  options.vocabulary = config.model.vocabulary;
  options.most_bytes = memory_for_ops(device);
  if (device.runtime()) options.cold_bytes = size_t{256} << 20;
  KernelBench bench(device, options);
  const Plan& plan = training.program().plan("train");
  const std::vector<KernelRow> rows =
      bench.measure(plan, config.accumulation(), [&](const KernelRow& row, size_t done, size_t of) {
        console.progress(fmt::format("op {} of {}: {} {}", done + 1, of, name_of(row.part), row.op));
      });
  console.progress(fmt::format("{} kinds of op measured", rows.size()), true);
  const DType dtype = activation_dtype(precision_of(config.train));
  console.say(fmt::format("{} parameters, {} sequences of {} a step in {} microbatch(es), {}, {} thread(s), {}",
                          training.program().parameters().elements(), config.train.global_batch, config.model.context,
                          config.accumulation(), name_of(dtype), omp_get_max_threads(), device.describe()));
  console.say(
      fmt::format("ceilings of this run: products {:.1f} GFLOP/s in {}, copies {:.1f} GB/s (read and written)\n",
                  bench.product_rate(dtype) * 1e-9, name_of(dtype), bench.copy_rate() * 1e-9));
  console.say(table_of(rows));
}

void add_kernels(CLI::App& bench, std::function<void()>& action) {
  CLI::App* verb = bench.add_subcommand(
      "kernels", "every op of a model's training step alone, at its real shapes: time, and share of the roofline");
  const auto arguments = std::make_shared<KernelArguments>();
  verb->add_option("model", arguments->model, "PRESET or CONFIG.toml")->required();
  verb->add_option("overrides", arguments->overrides, "key.path=value, stronger than the file");
  verb->add_option("--device", arguments->device, "auto, cpu, cuda or reference; default: train.device")
      ->check(CLI::IsMember({"auto", "cpu", "cuda", "reference"}));
  verb->add_option("--rounds", arguments->options.rounds, "measurements of an op; the median counts")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  verb->add_option("--seconds", arguments->options.seconds, "a measurement repeats its op for about as long")
      ->capture_default_str()
      ->check(CLI::Range(1e-6, 60.0));
  verb->footer(
      "The roofline: FLOPs at the rate of a large product of that dtype, or bytes at the rate of a large copy, "
      "whichever\n"
      "takes longer; both measured in the same run. Operands are not in the caches where they would not be in a step.\n"
      "Examples:\n"
      "  capstan bench kernels gpt2-124m --device cuda train.precision=bf16 train.global_batch=16\n"
      "  capstan bench kernels small-10m --device cpu\n"
      "  capstan bench kernels llama2-7b train.precision=bf16 model.layers=2 model.context=2048\n"
      "  capstan bench kernels run.toml layout.recompute=selective");
  verb->callback([arguments, &action] {
    action = [arguments] {
      run_on_ranks({}, [&](MpiSession& session) { bench_kernels(*arguments, session.world()); });
    };
  });
}

}  // namespace

void add_bench_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* bench = app.add_subcommand("bench", "measure speed as a share of what the machine can do");
  bench->require_subcommand(1);
  bench->footer(
      "Examples:\n"
      "  capstan bench step configs/runs/gpt2-124m.toml    (capstan bench step --help)\n"
      "  capstan bench kernels gpt2-124m --device cuda     (capstan bench kernels --help)");
  add_kernels(*bench, action);
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
      "  capstan bench step configs/runs/gpt2-124m.toml train.device=cuda train.global_batch=16 train.microbatch=16\n"
      "  mpirun -n 2 capstan bench step run.toml model.vocabulary=257 train.precision=bf16");
  verb->callback([arguments, &action] {
    action = [arguments] { run_on_ranks({}, [&](MpiSession& session) { bench_step(*arguments, session.world()); }); };
  });
}

}  // namespace capstan
