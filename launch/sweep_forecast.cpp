#include "launch/sweep_forecast.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <fstream>
#include <optional>
#include <thread>

#include "core/config/config_checks.h"
#include "core/config/config_writer.h"
#include "core/error.h"
#include "core/hash.h"
#include "io/file_system.h"
#include "io/run_log.h"
#include "launch/child_process.h"
#include "launch/host_memory.h"
#include "launch/training_setup.h"

namespace capstan {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr double kProgramBytes = 80e6, kCorpusBytes = 40e6;  // of one process beside its plan, and its corpus chunks
constexpr double kSampleBytes = 24;                          // of one token of a batch: its fields, twice
constexpr double kTrialSeconds = 0.8, kGuess = 4e9;          // length of a calibration, FLOP/s before anything is known

int cores_here() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? std::max(1, CPU_COUNT(&allowed)) : 1;
}

/// Speeds are of a size and a number of threads.
std::string speed_label(const SweepPlan& plan, const PlannedRun& run) {
  return fmt::format("{}@{}", plan.sizes[run.size].label, run.threads);
}

/// What a calibration depends on.
std::string circumstances(const SweepSpec& spec, int places) {
  std::ifstream in("/proc/cpuinfo");
  std::string line, cpu;
  while (std::getline(in, line) && cpu.empty())
    if (line.starts_with("model name")) cpu = line;
  return digest_of(fmt::format("{} {} {} {} {} {}", spec.base_text, fmt::join(spec.base_settings, " "), spec.ranks,
                               spec.threads, places, cpu));
}

}  // namespace

std::string own_program() {
  const std::string path = fs::read_symlink("/proc/self/exe").string();
  return path.ends_with(" (deleted)") ? fmt::format("/proc/{}/exe", getpid()) : path;
}

std::vector<std::string> train_command(const SweepSpec& spec, const fs::path& config_file) {
  std::vector<std::string> command;
  if (spec.ranks > 1) command = {"mpirun", "-n", std::to_string(spec.ranks), "--bind-to", "none", "--oversubscribe"};
  command.push_back(own_program());
  command.insert(command.end(), {"train", config_file.string()});
  return command;
}

double SweepForecast::run_bytes(const SweepSpec& spec, const PlannedRun& run) {
  RunConfig config = config_of(spec, run);
  check_for_world(config, static_cast<int>(spec.ranks));
  const kernels::Backend backend = planning_backend(config.train);
  const TrainingProgram training(mesh_of(config.layout, 0), Device{&backend, {}}, training_spec(config, true));
  const Program& program = training.program();
  const double samples = static_cast<double>(config.train.global_batch * (config.model.context + 1)) * kSampleBytes;
  return static_cast<double>(program.persistent_bytes() + program.transient_bytes()) + samples + kProgramBytes +
         kCorpusBytes;
}

int SweepForecast::places(const SweepSpec& spec, const SweepPlan& plan, std::vector<std::string>& notes) {
  int wanted = static_cast<int>(spec.jobs);
  if (wanted == 0) wanted = std::max(1, cores_here() / static_cast<int>(spec.ranks * spec.threads));
  std::vector<double> bytes;
  std::map<size_t, double> by_size;  // the longest run of a size has its largest batch
  std::map<size_t, const PlannedRun*> widest;
  for (const PlannedRun& run : plan.runs)
    if (!widest[run.size] || run.batch > widest[run.size]->batch) widest[run.size] = &run;
  const double available = memory_available();
  for (const auto& [size, run] : widest) {
    by_size[size] = run_bytes(spec, *run) * static_cast<double>(spec.ranks);
    if (by_size[size] > available)
      throw Error::make(ExitCode::config,
                        "run {} needs {} and this machine has {} left: leave out size {}, or lower "
                        "sweep.batch.sequences or train.microbatch, or set layout.recompute",
                        run->id, bytes_text(by_size[size]), bytes_text(available), plan.sizes[size].label);
  }
  for (const PlannedRun& run : plan.runs) bytes.push_back(by_size[run.size]);
  std::sort(bytes.rbegin(), bytes.rend());
  double sum = 0;
  int fitting = 0;
  for (const double b : bytes)
    if (fitting < wanted && (sum += b) <= available) ++fitting;
  const int places = std::clamp(fitting, 1, wanted);
  if (places < wanted && static_cast<size_t>(places) < bytes.size())
    notes.push_back(fmt::format("{} runs at once instead of {}: memory has room for no more", places, wanted));
  notes.push_back(fmt::format("memory: the {} largest runs at once need {}; {} are left here",
                              std::min<size_t>(bytes.size(), static_cast<size_t>(places)), bytes_text(sum),
                              bytes_text(available)));
  return places;
}

const SizeSpeed* SweepForecast::speed(const std::string& label) const {
  const auto found = speeds_.find(label);
  return found == speeds_.end() ? nullptr : &found->second;
}

double SweepForecast::seconds(const SweepPlan& plan, const PlannedRun& run) const {
  if (speeds_.empty()) return 0;
  const SweepSize& size = plan.sizes[run.size];
  const std::string own = speed_label(plan, run);
  const SizeSpeed* speed = this->speed(own);
  double nearest = 1e300;
  for (const auto& [label, flops] : token_flops_) {
    const double distance = std::abs(std::log(flops / size.cost.half));
    if (this->speed(own) == nullptr && distance < nearest) nearest = distance, speed = this->speed(label);
  }
  if (!speed) return 0;
  const double tokens = static_cast<double>((run.steps - run.first_step) * run.batch * size.model.context);
  return speed->fixed_seconds + tokens * size.cost.half / speed->flops_second;
}

std::vector<double> SweepForecast::all(const SweepPlan& plan) const {
  std::vector<double> out;
  for (const PlannedRun& run : plan.runs) out.push_back(seconds(plan, run));
  return out;
}

namespace {

struct Trial {
  std::string label;
  fs::path directory;
  int64_t steps;
  double step_flops;
  ChildProcess process;
  Clock::time_point start;
};

int64_t trial_steps(const SweepSpec& spec, const SweepPlan& plan, const PlannedRun& run) {
  const double flops =
      plan.sizes[run.size].cost.half * static_cast<double>(run.batch * plan.sizes[run.size].model.context);
  const double places = static_cast<double>(run.threads * spec.ranks);
  return std::clamp<int64_t>(std::llround(kTrialSeconds * kGuess * places / flops), 4, 100);
}

Trial start_trial(const SweepSpec& spec, const SweepPlan& plan, PlannedRun run, const fs::path& folder) {
  const SweepSize& size = plan.sizes[run.size];
  const std::string label = speed_label(plan, run);
  const fs::path directory = folder / label;
  fs::remove_all(directory);
  create_directory_durably(directory);
  const int64_t steps = trial_steps(spec, plan, run);
  run.settings.insert(run.settings.end(), {fmt::format("train.steps={}", steps), "schedule.warmup_steps=0",
                                           "schedule.kind=constant", "run.dir=" + directory.string()});
  const fs::path file = directory / "trial.toml";
  write_file_atomically(file, write_effective(config_of(spec, run)));
  const double step_flops = size.cost.half * static_cast<double>(run.batch * size.model.context);
  return {label,       directory, steps, step_flops, ChildProcess(train_command(spec, file), directory / "log.txt"),
          Clock::now()};
}

SizeSpeed speed_of(const Trial& trial, double wall, int code) {
  if (code != 0)
    throw Error::make(ExitCode::config, "size {} cannot be trained: {}: {}", trial.label, exit_text(code),
                      last_words(trial.directory / "log.txt"));
  std::vector<double> steps = read_metrics(trial.directory / "metrics.jsonl").columns["step_seconds"];
  double sum = 0;
  for (const double s : steps) sum += s;
  steps.erase(steps.begin(), steps.begin() + std::min<std::ptrdiff_t>(2, std::ssize(steps) - 1));
  std::nth_element(steps.begin(), steps.begin() + std::ssize(steps) / 2, steps.end());
  return {trial.step_flops / steps[steps.size() / 2], std::max(0.0, wall - sum)};
}

}  // namespace

void SweepForecast::calibrate(const SweepSpec& spec, const SweepPlan& plan, const fs::path& folder, int places,
                              bool measure, bool replace, const StopSignal& stop, Console& console) {
  const fs::path file = folder / "calibration.json";
  const std::string key = circumstances(spec, places);
  std::error_code failure;
  bool others = false;  // a calibration that was made in other circumstances
  if (fs::exists(file, failure)) {
    try {
      const json::value value = json::parse(read_whole_file(file, 1 << 20));
      others = value.at("circumstances").as_string() != key;
      if (!others)
        for (const auto& [label, entry] : value.at("sizes").as_object()) {
          const double rate = entry.at("flops_second").to_number<double>();
          if (rate > 0) speeds_[std::string(label)] = {rate, entry.at("fixed_seconds").to_number<double>()};
        }
    } catch (const std::exception&) {  // a damaged calibration is made anew
      speeds_.clear();
    }
  }
  std::vector<const PlannedRun*> missing;
  std::map<std::string, const PlannedRun*> widest;
  for (const PlannedRun& run : plan.runs) {
    const std::string label = speed_label(plan, run);
    token_flops_[label] = plan.sizes[run.size].cost.half;
    if (!widest[label] || run.batch > widest[label]->batch) widest[label] = &run;
  }
  for (const auto& [label, run] : widest)
    if (!speed(label)) missing.push_back(run);
  if (measure && !missing.empty()) {
    const fs::path trials = folder / "calibration";
    std::vector<Trial> running;
    size_t started = 0;
    while ((started < missing.size() || !running.empty()) && !stop.requested()) {
      // One that has more threads than the others has the machine to itself, as it will have later.
      const auto alone = [&](size_t i) { return missing[i]->threads > spec.threads; };
      while (started < missing.size() && static_cast<int>(running.size()) < places &&
             (running.empty() || (!alone(started) && !alone(started - 1))))
        running.push_back(start_trial(spec, plan, *missing[started++], trials));
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      for (size_t i = 0; i < running.size(); ++i) {
        const std::optional<int> code = running[i].process.ended();
        if (!code) continue;
        if (*code != 0 && stop.requested()) break;  // it was asked to stop as well
        const double wall = std::chrono::duration<double>(Clock::now() - running[i].start).count();
        speeds_[running[i].label] = speed_of(running[i], wall, *code);
        running.erase(running.begin() + static_cast<std::ptrdiff_t>(i));
        console.progress(fmt::format("calibrating: {} of {} sizes", speeds_.size(), widest.size()));
        break;
      }
    }
    fs::remove_all(trials, failure);
    json::object sizes;
    for (const auto& [label, speed] : speeds_)
      sizes[label] = {{"flops_second", speed.flops_second}, {"fixed_seconds", speed.fixed_seconds}};
    if (!stop.requested() && (replace || !others))
      write_file_atomically(file, json::serialize(json::object{{"circumstances", key}, {"sizes", sizes}}) + "\n");
  }
  std::erase_if(token_flops_, [&](const auto& entry) { return speed(entry.first) == nullptr; });
}

}  // namespace capstan
