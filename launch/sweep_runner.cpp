#include "launch/sweep_runner.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <thread>

#include "cluster/lab/packing.h"
#include "core/config/config_writer.h"
#include "core/error.h"
#include "launch/run_record.h"

namespace capstan {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr auto kLook = std::chrono::milliseconds(20);
constexpr int kMostTries = 100;  // starts of one run that were not failures: stopped on request, directory still locked

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// The step that the last whole line of a log of metrics tells; 0 when there is none.
double last_step(const fs::path& metrics) {
  std::ifstream in(metrics, std::ios::binary | std::ios::ate);
  const std::streamoff size = in ? static_cast<std::streamoff>(in.tellg()) : 0;
  in.seekg(std::max<std::streamoff>(0, size - 2048));
  const std::string tail((std::istreambuf_iterator<char>(in)), {});
  const size_t at = tail.rfind("\"step\":");
  return at == std::string::npos ? 0 : std::strtod(tail.c_str() + at + 7, nullptr);
}

std::string bar(double share) {
  constexpr int kCells = 24;
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * kCells);
  return "[" + std::string(static_cast<size_t>(full), '=') + std::string(static_cast<size_t>(kCells - full), ' ') + "]";
}

}  // namespace

FileDescriptor lock_sweep(const fs::path& folder) {
  const fs::path name = folder / "sweep.lock";
  FileDescriptor file(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!file.valid())
    throw Error::make(ExitCode::cannot_create, "cannot create {}: {}", name.string(), std::strerror(errno));
  struct flock whole {};
  whole.l_type = F_WRLCK;
  if (::fcntl(file.get(), F_SETLK, &whole) != 0 && (errno == EAGAIN || errno == EACCES)) return FileDescriptor();
  return file;
}

void refuse_locked_sweep(const fs::path& folder) {
  throw Error::make(ExitCode::cannot_create,
                    "another sweep works in {}; wait until it has ended, or choose another sweep.dir", folder.string());
}

SweepRunner::SweepRunner(const SweepSpec& spec, SweepAccess access, int64_t vocabulary, const StopSignal& stop,
                         Console& console)
    : spec_(spec),
      access_(access),
      vocabulary_(vocabulary),
      stop_(stop),
      console_(console),
      store_(fs::path(spec.dir) / kStoreName),
      version_(binary_version()) {
  create_directory_durably(fs::path(spec.dir) / "runs");
  const fs::path written = folder() / "prediction.json";
  std::error_code failure;
  if (fs::exists(written, failure))
    prediction_ = HeldOutPrediction::from_json(read_whole_file(written, 1 << 20), written.string());
  replan();
}

void SweepRunner::replan() {
  records_ = store_.read();
  plan_all();
}

void SweepRunner::plan_all() {
  plan_ = plan_sweep(spec_, vocabulary_, records_, prediction_);
  const PlannedRun* held_out = plan_.prediction ? &plan_.runs.back() : nullptr;
  if (held_out && !held_out->provisional && !prediction_) {
    prediction_ = plan_.prediction;  // written down before anybody can know the answer
    if (access_ == SweepAccess::look) return;
    write_file_atomically(folder() / "prediction.json", prediction_->to_json());
  }
}

void SweepRunner::forget_failures() {
  std::vector<RunRecord> kept;
  for (const RunRecord& record : records_)
    if (record.done()) kept.push_back(record);
  if (kept.size() == records_.size()) return;
  const bool answered = std::any_of(kept.begin(), kept.end(), [](const RunRecord& r) { return r.kind == "held-out"; });
  if (!answered) prediction_.reset();  // the ladder will say more
  records_ = std::move(kept);
  if (access_ == SweepAccess::change) {
    write_file_atomically(store_.path(), store_image(records_));
    if (!answered) fs::remove(folder() / "prediction.json");
  }
  plan_all();
}

std::set<std::string> SweepRunner::settled() const {
  std::set<std::string> out;
  for (const RunRecord& record : records_) out.insert(record.run);
  return out;
}

void SweepRunner::forecast(bool measure) {
  notes_ = plan_.notes;
  places_ = SweepForecast::places(spec_, plan_, notes_);
  forecast_.calibrate(spec_, plan_, folder(), places_, measure, access_ == SweepAccess::change, stop_, console_);
}

double SweepRunner::seconds_left() const {
  return forecast_.known() ? makespan(plan_, run_seconds(), settled(), places_) : 0;
}

fs::path SweepRunner::directory_of(const PlannedRun& run) const { return folder() / "runs" / run.directory; }

ChildProcess SweepRunner::start(const PlannedRun& run) {
  const fs::path directory = directory_of(run);
  create_directory_durably(directory);
  const fs::path file = directory / "sweep-run.toml";
  write_file_atomically(file, write_effective(config_of(spec_, run)));
  return {train_command(spec_, file), directory / "log.txt"};
}

void SweepRunner::launch(const PlannedRun& run) { jobs_.push_back({run, start(run), Clock::now()}); }

void SweepRunner::launch_what_may() {
  if (static_cast<int>(jobs_.size()) >= places_) return;
  const std::vector<double> seconds = run_seconds();
  std::set<std::string> taken = settled();
  for (const Job& job : jobs_) taken.insert(job.run.id);
  for (const PlannedRun& run : plan_.runs)
    if (run.provisional) taken.insert(run.id);
  while (static_cast<int>(jobs_.size()) < places_) {
    const int next = next_run(plan_, seconds, settled(), taken);
    if (next < 0) return;
    const PlannedRun& run = plan_.runs[static_cast<size_t>(next)];
    taken.insert(run.id);
    try {
      launch(run);
    } catch (const Error& error) {  // its settings make no sense: the others' may
      record_failure(run, static_cast<int>(error.code()), 0, error.what());
    }
  }
}

void SweepRunner::fill_known(RunRecord& record, const PlannedRun& run) const {
  record.run = run.id, record.kind = run.kind, record.sweep = spec_.name, record.parent = run.parent;
  record.directory = (fs::path("runs") / run.directory).string();
  record.forecast_seconds = forecast_.known() ? forecast_.seconds(plan_, run) : RunRecord::kUnknown;
  record.version = version_;
}

void SweepRunner::add_record(const RunRecord& record) {
  store_.append(record, true);
  records_ = store_.read();
}

void SweepRunner::record_failure(const PlannedRun& run, int code, int attempts, const std::string& reason) {
  RunRecord record;
  fill_known(record, run);
  record.status = code == static_cast<int>(ExitCode::numerical) ? "diverged" : "failed";
  record.exit_code = code, record.attempts = attempts;
  record.reason = reason;
  std::replace_if(
      record.reason.begin(), record.reason.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  record.steps = std::llround(last_step(directory_of(run) / "metrics.jsonl"));
  try {
    fill_from_config(record, config_of(spec_, run));
  } catch (const Error&) {  // a config that cannot be read is the reason, and told there
  }
  record.attempts = attempts;
  add_record(record);
  console_.say(fmt::format("failed   {}: {}", run.id, record.reason));
}

bool SweepRunner::try_again(Job& job, int code) {
  const bool asked = code == static_cast<int>(ExitCode::checkpointed);  // by somebody else: it goes on
  const bool locked = code == static_cast<int>(ExitCode::cannot_create) &&
                      last_words(directory_of(job.run) / "log.txt").find("another job trains") != std::string::npos;
  const bool hopeless = code == static_cast<int>(ExitCode::config) || code == static_cast<int>(ExitCode::usage);
  if (hopeless || job.attempt >= kMostTries || stop_.requested()) return false;
  if (!asked && !locked && job.attempt > spec_.retries) return false;
  if (locked) std::this_thread::sleep_for(std::chrono::seconds(1));  // a run of a killed sweep saves itself first
  if (!asked && !locked)
    console_.say(fmt::format("again    {} after {}: {}", job.run.id, exit_text(code),
                             last_words(directory_of(job.run) / "log.txt")));
  spent_[job.run.id] += since(job.start);
  job.attempt += asked || locked ? 0 : 1;
  job.process = start(job.run);
  job.start = Clock::now();
  return true;
}

void SweepRunner::finish(const Job& job, int code) {
  const double seconds = spent_[job.run.id] + since(job.start);
  if (code != 0)
    return record_failure(job.run, code, job.attempt,
                          exit_text(code) + ": " + last_words(directory_of(job.run) / "log.txt"));
  RunRecord record;
  fill_known(record, job.run);
  record.attempts = job.attempt, record.seconds = seconds;
  try {
    record = record_of_run(directory_of(job.run), record);
    if (record.done() && job.run.kind == "trunk") branch(job.run);
  } catch (const Error& error) {
    return record_failure(job.run, static_cast<int>(error.code()), job.attempt, error.what());
  }
  write_file_atomically(directory_of(job.run) / ("record-" + job.run.id + ".json"), record_json(record));
  add_record(record);
  seconds_done_ += seconds, forecast_done_ += forecast_.seconds(plan_, job.run);
  const std::string foreseen =
      forecast_.known() ? fmt::format(" (forecast {})", duration_text(record.forecast_seconds)) : "";
  console_.say(fmt::format("{:<8} {}  N {}  D {}  loss {:.4f}{}  {}{}", record.status, record.run,
                           short_number(plan_.sizes[job.run.size].n), short_number(record.tokens), record.loss,
                           record.done() ? "" : " (" + record.reason + ")", duration_text(seconds), foreseen));
}

/// Cooldowns that begin at the end of this segment get its checkpoint, by hard links: checkpoints are never written to
/// once they are complete.
void SweepRunner::branch(const PlannedRun& trunk) {
  const std::string step = fmt::format("step-{}", trunk.steps);
  const fs::path from = directory_of(trunk) / "checkpoints" / step;
  for (const PlannedRun& run : plan_.runs) {
    if (run.parent != trunk.id || run.kind != "cooldown") continue;
    const fs::path folder = directory_of(run) / "checkpoints", partial = folder / (step + ".branch");
    std::error_code failure;
    if (fs::exists(folder / step, failure) || fs::exists(directory_of(run) / "metrics.jsonl", failure)) continue;
    if (!fs::exists(from, failure))
      throw Error::make(ExitCode::missing_input, "{} has no checkpoint {} for {} to branch from",
                        directory_of(trunk).string(), step, run.id);
    create_directory_durably(folder);
    fs::remove_all(partial);
    fs::copy(from, partial, fs::copy_options::recursive | fs::copy_options::create_hard_links, failure);
    if (failure) {  // a file system without hard links
      fs::remove_all(partial);
      fs::copy(from, partial, fs::copy_options::recursive);
    }
    rename_durably(partial, folder / step);
  }
}

void SweepRunner::fail_children_of_failed() {
  if (records_.size() == looked_at_) return;
  for (bool found = true; found;) {
    found = false;
    for (const PlannedRun& run : plan_.runs) {
      if (run.parent.empty() || settled().contains(run.id)) continue;
      const auto parent =
          std::find_if(records_.begin(), records_.end(), [&](const RunRecord& r) { return r.run == run.parent; });
      if (parent == records_.end() || parent->done()) continue;
      record_failure(run, 0, 0, fmt::format("its parent {} is not done", run.parent));
      found = true;
    }
  }
  looked_at_ = records_.size();
}

bool SweepRunner::look_at(Job& job) {
  const std::optional<int> code = job.process.ended();
  if (!code) return false;
  if (*code == 75 && stop_.requested()) return true;
  if (*code != 0 && try_again(job, *code)) return false;
  if (*code != 0 && stop_.requested()) return true;  // it will be tried again when the sweep goes on
  finish(job, *code);
  return true;
}

double SweepRunner::done_share(const Job& job) const {
  const double first = static_cast<double>(job.run.first_step), all = static_cast<double>(job.run.steps) - first;
  return std::clamp((last_step(directory_of(job.run) / "metrics.jsonl") - first) / std::max(all, 1.0), 0.0, 1.0);
}

void SweepRunner::show_progress() {
  const std::vector<double> seconds = run_seconds();
  const std::set<std::string> done = settled();
  std::vector<double> left = seconds;
  double total = 0, remaining = 0;
  std::string now;
  for (size_t i = 0; i < plan_.runs.size(); ++i) {
    const double cost = seconds[i] > 0 ? seconds[i] : plan_.runs[i].flops;
    total += cost;
    double share = done.contains(plan_.runs[i].id) ? 1 : 0;
    for (const Job& job : jobs_)
      if (job.run.id == plan_.runs[i].id) {
        share = done_share(job);
        now += fmt::format("  {} {:.0f}%", job.run.id, 100 * share);
      }
    left[i] *= 1 - share;
    remaining += cost * (1 - share);
  }
  const double slower = forecast_done_ > 0 ? std::clamp(seconds_done_ / forecast_done_, 0.2, 5.0) : 1;
  const std::string eta = forecast_.known() ? duration_text(slower * makespan(plan_, left, done, places_)) : "unknown";
  console_.progress(fmt::format("{} {}/{} runs {:.0f}%  ETA {}{}", bar(1 - remaining / total), done.size(),
                                plan_.runs.size(), 100 * (1 - remaining / total), eta, now));
}

void SweepRunner::stop_all() {
  for (const Job& job : jobs_) job.process.ask_to_stop();
  while (!jobs_.empty()) {
    std::this_thread::sleep_for(kLook);
    std::erase_if(jobs_, [&](Job& job) { return look_at(job); });
  }
}

/// What the last wave found out.
void SweepRunner::say_new_notes() {
  for (const std::string& note : plan_.notes) {
    if (std::find(notes_.begin(), notes_.end(), note) != notes_.end()) continue;
    notes_.push_back(note);
    console_.say("note     " + note);
  }
}

bool SweepRunner::run() {
  auto shown = Clock::now();
  for (;;) {
    if (stop_.requested()) {
      console_.say("stopping: every run in progress writes a checkpoint");
      stop_all();
      return false;
    }
    fail_children_of_failed();
    launch_what_may();
    if (jobs_.empty()) {
      const size_t before = records_.size();
      replan();
      say_new_notes();
      launch_what_may();
      if (jobs_.empty() && records_.size() == before) return true;
    }
    std::this_thread::sleep_for(kLook);
    std::erase_if(jobs_, [&](Job& job) { return look_at(job); });
    if (since(shown) > 0.5) show_progress(), shown = Clock::now();
  }
}

bool SweepRunner::run_one(const std::string& id) {
  const PlannedRun* found = plan_.find(id);
  if (!found)
    throw Error::make(ExitCode::usage, "the sweep has no run called {}; capstan sweep FILE --dry-run lists them", id);
  if (settled().contains(id)) {
    console_.say(fmt::format("done     {} is recorded already", id));
    return true;
  }
  if (found->provisional || !may_start(plan_, *found, settled()))
    throw Error::make(ExitCode::missing_input, "run {} needs runs that are not recorded yet: start earlier waves first",
                      id);
  fail_children_of_failed();
  std::optional<PlannedRun> run = *found;
  while (run && !settled().contains(run->id)) {
    if (!see_through(*run)) return settled().contains(run->id);
    run = next_of_search(*run);
  }
  return true;
}

/// False when asked to stop.
bool SweepRunner::see_through(const PlannedRun& run) {
  launch(run);
  bool asked = false;
  while (!jobs_.empty()) {
    std::this_thread::sleep_for(kLook);
    if (stop_.requested() && !asked) jobs_[0].process.ask_to_stop(), asked = true;
    std::erase_if(jobs_, [&](Job& job) { return look_at(job); });
  }
  return !asked;
}

/// A search that ended at an edge goes on beyond it. No job array knows that trial: who made the last one makes it.
std::optional<PlannedRun> SweepRunner::next_of_search(const PlannedRun& last) {
  if (last.kind != "search") return {};
  const SweepPlan before = plan_;
  replan();
  const std::set<std::string> done = settled();
  for (const PlannedRun& run : plan_.runs)
    if (run.kind == "search" && run.size == last.size && !before.find(run.id)) return run;
  return {};
}

}  // namespace capstan
