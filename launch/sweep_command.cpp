#include "launch/sweep_command.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdio>
#include <memory>
#include <thread>

#include "cluster/lab/slurm.h"
#include "core/error.h"
#include "io/corpus/corpus.h"
#include "launch/command_line.h"
#include "launch/run_record.h"
#include "launch/sweep_runner.h"
#include "launch/sweep_text.h"

namespace capstan {
namespace {

struct SweepArguments {
  std::string file, run;
  std::vector<std::string> overrides;
  bool dry_run = false, slurm = false, keys = false, retry_failed = false, no_calibration = false;
};

struct RecordsArguments {
  std::string store, csv, json;
  std::vector<std::string> add;
};

/// What the runs will read, seen once before anything starts.
int64_t look_at_corpora(const SweepSpec& spec, const SweepPlan* plan, std::vector<std::string>* notes) {
  double tokens = 0;
  int64_t vocabulary = 0;
  for (const std::string& path : spec.base.data.corpora) {
    const auto corpus = Corpus::open(path);
    vocabulary = std::max<int64_t>(vocabulary, corpus->tokenizer().vocabulary());
    tokens += static_cast<double>(corpus->manifest().train.tokens());
  }
  if (!plan) return vocabulary;
  double most = 0;
  for (const PlannedRun& run : plan->runs) most = std::max(most, run.tokens);
  if (most > tokens)
    notes->push_back(
        fmt::format("the longest run reads {:.3g} tokens, the corpora hold {:.3g}: {:.1f} epochs; repeated "
                    "tokens are worth less, and the law does not know it",
                    most, tokens, most / tokens));
  return vocabulary;
}

/// Budgets of the file that were left behind when the ladder's were changed.
void look_at_budgets(const SweepSpec& spec, std::vector<std::string>* notes) {
  if (spec.budgets.flops.empty()) return;
  const double most = *std::max_element(spec.budgets.flops.begin(), spec.budgets.flops.end());
  const bool searches = spec.learning_rate.rule == SweepSpec::Rule::search;
  const auto look = [&](const char* key, double flops, double times) {
    if (flops > times * most)
      notes->push_back(fmt::format("{} is {} FLOP, {:.3g} times the ladder's largest budget", key, short_number(flops),
                                   flops / most));
  };
  look("sweep.learning_rate.search_flops", searches ? spec.learning_rate.search_flops : 0, 1);
  look("sweep.noise.flops", spec.noise.flops, 1);
  look("sweep.held_out.flops", spec.held_out.flops, 10);
}

void say_forecast(const SweepRunner& runner, const SweepSpec& spec) {
  fmt::print("sweep    {} in {}: {} runs, {} recorded\n\n{}\n", spec.name, spec.dir, runner.plan().runs.size(),
             runner.records().size(), plan_table(runner.plan(), runner.run_seconds()));
  std::vector<std::string> notes = runner.notes();
  look_at_corpora(spec, &runner.plan(), &notes);
  look_at_budgets(spec, &notes);
  for (const std::string& note : notes) fmt::print("note     {}\n", note);
  if (runner.seconds_left() > 0)
    fmt::print("forecast {} for what is left, {} run{} at once on {} thread{} each\n",
               duration_text(runner.seconds_left()), runner.places(), runner.places() == 1 ? "" : "s",
               spec.threads * spec.ranks, spec.threads * spec.ranks == 1 ? "" : "s");
  std::fflush(stdout);
}

void write_slurm(const SweepRunner& runner, const SweepSpec& spec, const std::string& file) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::absolute(fs::path(spec.dir) / "slurm");
  create_directory_durably(folder);
  const SlurmFiles files =
      slurm_files(spec, runner.plan(), runner.run_seconds(), fs::read_symlink("/proc/self/exe").string(),
                  fs::absolute(file).string(), folder.string(), fs::current_path().string());
  for (size_t wave = 0; wave < files.waves.size(); ++wave)
    write_file_atomically(folder / fmt::format("wave-{}.txt", wave), files.waves[wave]);
  const fs::path submit = folder / "submit.sh";
  write_file_atomically(submit, files.submit);
  chmod(submit.c_str(), 0755);
  fmt::print("slurm    {} submits {} waves; SBATCH=echo {} shows what it would do\n", submit.string(),
             files.waves.size(), submit.string());
}

void say_result(const SweepRunner& runner, const SweepSpec& spec) {
  fmt::print("\n{}{}{}", failure_text(runner.records()), law_text(spec, runner.records()),
             held_out_text(runner.plan(), runner.records()));
  fmt::print("table    {0}/{1}\nnext     capstan report {0} · capstan fit {0}/{1}\n", spec.dir, kStoreName);
}

[[noreturn]] void stopped(Console& console, const std::string& when) {
  console.say(fmt::format("stopped  on request{}; start the same command again to go on", when));
  throw ExitRequest{static_cast<int>(ExitCode::checkpointed)};
}

bool corpus_to_build(const SweepSpec& spec) {
  std::error_code failure;
  return !spec.text.empty() &&
         !std::filesystem::exists(std::filesystem::path(spec.base.data.corpora[0]) / kManifestName, failure);
}

/// The corpus of a sweep that brings its text; a build that was killed is begun anew.
void build_corpus_of(const SweepSpec& spec, const StopSignal& stop, Console& console) {
  namespace fs = std::filesystem;
  std::error_code failure;
  if (!fs::exists(spec.text, failure))
    throw Error::make(ExitCode::missing_input,
                      "there is neither the corpus {} nor the text {} to build it from; ./launch/quickstart obtains "
                      "text, sweep.text=DIR names another",
                      spec.base.data.corpora[0], spec.text);
  const fs::path log = fs::path(spec.dir) / "corpus.log";
  ChildProcess build(
      {own_program(), "corpus", "build", "--out", spec.base.data.corpora[0], "--tokenizer", "bytes", spec.text}, log);
  std::optional<int> code;
  while (!(code = build.ended()) && !stop.requested()) {
    console.progress(fmt::format("corpus   building {} from {}", spec.base.data.corpora[0], spec.text));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  if (stop.requested()) stopped(console, " while the corpus was built");
  if (*code != 0) throw Error::make(static_cast<ExitCode>(*code), "building the corpus: {}", last_words(log));
  console.say(fmt::format("corpus   {} built from {}", spec.base.data.corpora[0], spec.text));
}

/// The file and what was said on the command line, for the report.
class SweepFile {
 public:
  SweepFile(const SweepArguments& arguments, const std::filesystem::path& folder)
      : file_(folder / "sweep.toml"), more_(folder / "overrides.txt"), text_(read_whole_file(arguments.file, kMost)) {
    for (const std::string& item : arguments.overrides) overrides_ += item + "\n";
  }

  /// A change in mid-sweep is said.
  void say_change(size_t recorded) const {
    std::error_code failure;
    const bool before = std::filesystem::exists(file_, failure) && std::filesystem::exists(more_, failure);
    if (before && recorded > 0 &&
        (read_whole_file(file_, kMost) != text_ || read_whole_file(more_, kMost) != overrides_))
      fmt::print(
          "note     the sweep's file or its overrides have changed since {} runs were recorded; these stay as they "
          "are\n",
          recorded);
  }
  void keep() const {
    write_file_atomically(file_, text_);
    write_file_atomically(more_, overrides_);
  }

 private:
  static constexpr uint64_t kMost = uint64_t{1} << 20;
  std::filesystem::path file_, more_;
  std::string text_, overrides_;
};

/// One at a time works in a sweep's directory, from its first file on; a dry run may look while another works.
FileDescriptor lock_for(const SweepArguments& arguments, const SweepSpec& spec) {
  create_directory_durably(spec.dir);
  if (!arguments.run.empty()) return {};  // tasks of a job array share it
  FileDescriptor lock = lock_sweep(spec.dir);
  if (!lock.valid() && (!arguments.dry_run || corpus_to_build(spec))) refuse_locked_sweep(spec.dir);
  return lock;
}

void sweep(const SweepArguments& arguments) {
  if (arguments.keys) return fmt::print("{}", sweep_key_text());
  if (arguments.file.empty()) throw Error(ExitCode::usage, "which sweep? capstan sweep SWEEP.toml");
  const StopSignal stop;
  SweepSpec spec = load_sweep(arguments.file, arguments.overrides);
  const SweepFile file(arguments, spec.dir);
  Console console(true);
  const bool builds = corpus_to_build(spec);
  int64_t vocabulary = builds ? 0 : look_at_corpora(spec, nullptr, nullptr);
  const FileDescriptor lock = lock_for(arguments, spec);
  if (builds) build_corpus_of(spec, stop, console), vocabulary = look_at_corpora(spec, nullptr, nullptr);
  SweepRunner runner(spec, arguments.dry_run ? SweepAccess::look : SweepAccess::change, vocabulary, stop, console);
  if (arguments.retry_failed) runner.forget_failures();
  if (!arguments.run.empty()) {
    if (!runner.run_one(arguments.run)) stopped(console, "");
    return;
  }
  if (!lock.valid()) fmt::print("note     another sweep works in {}: this one only looks\n", spec.dir);
  runner.forecast(!arguments.no_calibration && !arguments.slurm && lock.valid());
  if (stop.requested()) stopped(console, " while calibrating, before any run was started");
  file.say_change(runner.records().size());
  say_forecast(runner, spec);
  if (arguments.dry_run) return;
  file.keep();
  if (arguments.slurm) return write_slurm(runner, spec, arguments.file);
  if (!runner.run()) stopped(console, "");
  say_result(runner, spec);
}

void write_output(const std::string& path, const std::string& text) {
  if (path == "-")
    std::fwrite(text.data(), 1, text.size(), stdout);
  else
    write_file_atomically(path, text);
}

void export_records(const RecordsArguments& arguments) {
  namespace fs = std::filesystem;
  fs::path path = arguments.store;
  if (fs::is_directory(path)) path /= kStoreName;
  RecordStore store(path);
  for (const std::string& run : arguments.add) {
    RunRecord known;
    known.version = binary_version();
    const RunRecord record = record_of_run(run, known);
    fmt::print(stderr, "{} {}\n", store.append(record, true) ? "added" : "there already:", record.run);
  }
  if (!fs::exists(path)) throw Error::make(ExitCode::missing_input, "there is no table {}", path.string());
  const std::vector<RunRecord> records = store.read();
  if (!arguments.csv.empty()) write_output(arguments.csv, records_csv(records));
  if (!arguments.json.empty()) write_output(arguments.json, records_json(records));
  if (!arguments.csv.empty() || !arguments.json.empty()) return;
  for (const RunRecord& r : records)
    fmt::print("{:<32} {:<9} {:<9} N {:>9}  D {:>9}  loss {:.4f}\n", r.run, r.kind, r.status,
               short_number(static_cast<double>(r.n_total)), short_number(r.tokens), r.loss);
}

}  // namespace

void add_sweep_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* verb = app.add_subcommand("sweep", "a ladder of runs from one file: forecast, run, record, predict");
  const auto arguments = std::make_shared<SweepArguments>();
  verb->add_option("sweep", arguments->file, "SWEEP.toml: a run's file with sections [sweep...]");
  verb->add_option("overrides", arguments->overrides, "key.path=value, of a run or of the sweep (sweep.dir=...)");
  verb->add_flag(
      "--dry-run", arguments->dry_run,
      "the plan and its forecast; nothing is trained but the calibration, and nothing of a sweep that is there "
      "changes");
  verb->add_flag("--no-calibration", arguments->no_calibration, "do not measure how fast the sizes train");
  verb->add_flag("--slurm", arguments->slurm, "write scripts that submit the sweep as Slurm job arrays; start nothing");
  verb->add_option("--run", arguments->run, "make this one run of the plan and record it (for job arrays)")
      ->type_name("NAME");
  verb->add_flag("--retry-failed", arguments->retry_failed, "try again what is recorded as failed or diverged");
  verb->add_flag("--keys", arguments->keys, "list the keys under [sweep]");
  verb->footer(
      "Ctrl-C or SIGTERM: every run in progress writes a checkpoint, exit code 75; the same command goes on. Runs "
      "that\n"
      "are recorded are never made again. A run that fails is started once more (sweep.retries), then recorded as "
      "failed\n"
      "and stepped over.\n"
      "Examples:\n"
      "  capstan sweep configs/sweeps/laptop.toml\n"
      "  capstan sweep configs/sweeps/laptop.toml sweep.dir=runs/try sweep.budgets.flops='[3e10, 1e11, 3e11]' \\\n"
      "    sweep.learning_rate.search_flops=1e11 sweep.noise.flops=1e11 sweep.held_out.flops=3e12 --dry-run\n"
      "A ladder of smaller budgets wants a search, a noise cell and a held-out test that are smaller too.");
  verb->callback([arguments, &action] { action = [arguments] { sweep(*arguments); }; });
}

void add_records_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* verb = app.add_subcommand("records", "the table of a sweep: list it, export it, add a run to it");
  const auto arguments = std::make_shared<RecordsArguments>();
  verb->add_option("table", arguments->store, "a sweep's directory, or a file of records (HDF5)")->required();
  verb->add_option("--csv", arguments->csv, "write all columns to this file (- is stdout)")->type_name("FILE");
  verb->add_option("--json", arguments->json, "the same as JSON, with units and meanings")->type_name("FILE");
  verb->add_option("--add", arguments->add, "run directories whose records are appended first")->type_name("RUN");
  verb->footer(
      "Examples:\n  capstan records runs/laptop --csv runs.csv\n  capstan records mine.h5 --add runs/books-run");
  verb->callback([arguments, &action] { action = [arguments] { export_records(*arguments); }; });
}

}  // namespace capstan
