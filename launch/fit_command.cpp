#include "launch/fit_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "cluster/lab/record_store.h"
#include "cluster/lab/record_table.h"
#include "cluster/scaling/study.h"
#include "cluster/scaling/study_json.h"
#include "cluster/scaling/study_text.h"
#include "cluster/scaling/table.h"
#include "core/error.h"
#include "launch/console.h"
#include "launch/number_checks.h"

namespace capstan {
namespace {

struct FitArguments {
  std::string table, form = "chinchilla", cost = "huber", residual = "log", json;
  scaling::ColumnNames columns;
  std::vector<std::string> fixed;
  bool tie = false, replicate_weights = false, no_profiles = false, no_backtest = false;
  size_t drop = 0;
  scaling::StudyOptions study;
};

scaling::Constant fixed_constant(const std::string& text) {
  const size_t equals = text.find('=');
  char* end = nullptr;
  const std::string number = equals == std::string::npos ? "" : text.substr(equals + 1);
  const double value = std::strtod(number.c_str(), &end);
  if (number.empty() || *end != '\0' || !std::isfinite(value))
    throw Error::make(ExitCode::usage, "--fix {}: wanted NAME=VALUE, for instance alpha=0.34", text);
  return {text.substr(0, equals), value};
}

scaling::StudyOptions study_options(const FitArguments& arguments) {
  scaling::StudyOptions options = arguments.study;
  for (const scaling::FormName& entry : scaling::form_names())
    if (arguments.form == entry.name) options.form = entry.form;
  options.residual.cost = arguments.cost == "huber" ? scaling::Cost::huber
                          : arguments.cost == "l1"  ? scaling::Cost::l1
                                                    : scaling::Cost::l2;
  options.residual.on_log = arguments.residual == "log";
  options.law.tie_exponents = arguments.tie;
  for (const std::string& text : arguments.fixed) options.law.fixed.push_back(fixed_constant(text));
  options.profiles = !arguments.no_profiles;
  options.backtest = !arguments.no_backtest;
  return options;
}

/// A sweep's directory stands for its table.
std::string table_path(const std::string& given) {
  const std::filesystem::path path(given);
  std::error_code failure;
  return std::filesystem::is_directory(path, failure) ? (path / kStoreName).string() : given;
}

scaling::Measurements fit_table(const FitArguments& arguments) {
  const std::string path = table_path(arguments.table);
  const bool store = is_hdf5(path);
  scaling::Csv csv = store ? csv_of(RecordStore(path).read(), path) : scaling::read_csv(path);
  const bool records = store || is_record_table(csv);
  if (records && !store) csv = fitted_rows(std::move(csv), path);
  const scaling::ColumnNames columns =
      records ? with_store_names(arguments.columns) : scaling::with_usual_names(arguments.columns, csv.header);
  scaling::Measurements table = scaling::measurements_from(csv, columns, arguments.table);
  if (arguments.drop >= table.size())
    throw Error::make(ExitCode::usage, "--drop-largest-losses {} leaves none of the {} rows", arguments.drop,
                      table.size());
  table = scaling::without_largest_losses(table, arguments.drop);
  return arguments.replicate_weights ? scaling::weighted_by(scaling::replicate_noise(table), std::move(table)) : table;
}

/// One line on a terminal's stderr, rewritten a few times a second, erased at the end.
class FitProgress {
 public:
  void show(const std::string& stage, size_t done, size_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (!visible_ || now - shown_ < std::chrono::milliseconds(150)) return;
    shown_ = now;
    if (stage != stage_) {
      stage_ = stage;
      begin_ = now;
    }
    std::string line = fmt::format("{}: {} of {}", stage, done, total);
    const double seconds = std::chrono::duration<double>(now - begin_).count();
    if (done > 0 && seconds > 1)
      line += ", " + duration_text(seconds * static_cast<double>(total - done) / static_cast<double>(done)) + " left";
    fmt::print(stderr, "\r\033[K{}", line);
    std::fflush(stderr);
    open_ = true;
  }
  ~FitProgress() {
    if (open_) std::fputs("\r\033[K", stderr);
  }

 private:
  const bool visible_ = isatty(STDERR_FILENO) == 1;
  bool open_ = false;
  std::string stage_;
  std::chrono::steady_clock::time_point shown_{}, begin_{};
};

void write_fit_json(const std::string& path, const std::string& text) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"), std::fclose);
  if (!file) throw Error::make(ExitCode::cannot_create, "cannot create {}: {}", path, std::strerror(errno));
  if (std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() || std::fflush(file.get()) != 0)
    throw Error::make(ExitCode::io_error, "cannot write {}: {}", path, std::strerror(errno));
}

void fit_scaling_law(const FitArguments& arguments) {
  const scaling::StudyOptions options = study_options(arguments);
  const scaling::Measurements table = fit_table(arguments);
  scaling::Study study;
  {
    FitProgress progress;
    study = scaling::run_study(table, options, [&](const std::string& stage, size_t done, size_t total) {
      progress.show(stage, done, total);
    });
  }
  fmt::print("{}", scaling::study_text(study, arguments.table));
  std::fflush(stdout);
  if (!arguments.json.empty()) write_fit_json(arguments.json, scaling::study_json(study, arguments.table));
  if (!study.converged)
    throw Error::make(ExitCode::numerical, "the fit did not converge: {}", study.fit->certificate.reason);
}

void add_fit_table_options(CLI::App& verb, FitArguments& a) {
  const char* group = "Columns of the table (usual names are found by themselves)";
  verb.add_option("--n", a.columns.parameters, "number of parameters N")->group(group)->type_name("COLUMN");
  verb.add_option("--d", a.columns.tokens, "training tokens D; left out, C/(6N)")->group(group)->type_name("COLUMN");
  verb.add_option("--loss", a.columns.loss, "the loss, nats or bits")->group(group)->type_name("COLUMN");
  verb.add_option("--flops", a.columns.flops, "training FLOP C; left out, 6ND")->group(group)->type_name("COLUMN");
  verb.add_option("--run", a.columns.run, "which rows belong to one run (the bootstrap draws runs)")
      ->group(group)
      ->type_name("COLUMN");
  verb.add_option("--seed", a.columns.seed, "the run's seed")->group(group)->type_name("COLUMN");
  verb.add_option("--weight", a.columns.weight, "relative weight of a row")->group(group)->type_name("COLUMN");
  verb.add_option("--unique", a.columns.unique, "distinct tokens (for form repetition)")
      ->group(group)
      ->type_name("COLUMN");
  verb.add_option("--drop-largest-losses", a.drop, "leave out this many rows of largest loss")->group(group);
}

void add_fit_law_options(CLI::App& verb, FitArguments& a) {
  const char* group = "The fit";
  std::vector<std::string> forms;
  for (const scaling::FormName& entry : scaling::form_names()) forms.emplace_back(entry.name);
  verb.add_option("--form", a.form, "which law")->group(group)->check(CLI::IsMember(forms))->capture_default_str();
  verb.add_option("--loss-function", a.cost, "what a residual costs")
      ->group(group)
      ->check(CLI::IsMember({"huber", "l1", "l2"}))
      ->capture_default_str();
  verb.add_option("--delta", a.study.residual.delta, "where Huber turns from square to linear")
      ->group(group)
      ->check(above_zero())
      ->capture_default_str();
  verb.add_option("--on", a.residual, "residuals of the loss's logarithm or of the loss itself")
      ->group(group)
      ->check(CLI::IsMember({"log", "raw"}))
      ->capture_default_str();
  verb.add_option("--fix", a.fixed, "hold a constant: NAME=VALUE (repeat for more)")
      ->group(group)
      ->allow_extra_args(false);
  verb.add_flag("--tie-exponents", a.tie, "alpha = beta (chinchilla)")->group(group);
  verb.add_flag("--weights-from-replicates", a.replicate_weights,
                "weight rows by 1/sigma^2, sigma from cells that were measured by several seeds")
      ->group(group);
  verb.add_option("--same-budget", a.study.same_budget, "rows whose C differ by less than this factor share a budget")
      ->group(group)
      ->check(CLI::Range(1.0, 10.0))
      ->capture_default_str();
}

void add_fit_result_options(CLI::App& verb, FitArguments& a) {
  const char* group = "What comes out";
  verb.add_option("--budget", a.study.budgets, "decide for this many FLOP (repeat for more)")
      ->group(group)
      ->allow_extra_args(false)
      ->type_name("FLOP")
      ->check(above_zero());
  verb.add_option("--unique-tokens", a.study.limits.unique_tokens,
                  "decisions may use only this many distinct tokens; more means repeating them")
      ->group(group)
      ->check(above_zero());
  verb.add_option("--inference-tokens", a.study.limits.inference_tokens,
                  "the budget also pays for serving this many tokens (2N FLOP each)")
      ->group(group)
      ->check(above_zero());
  verb.add_option("--bootstrap", a.study.replicates, "replicates (0: none)")
      ->group(group)
      ->check(CLI::Range(0, 10000000))
      ->capture_default_str();
  verb.add_option("--bootstrap-seed", a.study.seed, "what the replicates are drawn by")
      ->group(group)
      ->capture_default_str();
  verb.add_option("--threads", a.study.threads, "threads (0: all cores)")
      ->group(group)
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  verb.add_flag("--no-profiles", a.no_profiles, "no profile likelihoods")->group(group);
  verb.add_flag("--no-backtest", a.no_backtest, "do not leave out and predict the largest budget")->group(group);
  verb.add_option("--json", a.json, "write everything to this file")->group(group)->type_name("FILE");
}

}  // namespace

void add_fit_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* verb = app.add_subcommand(
      "fit", "fit a scaling law to a table of runs: constants, certificate, intervals, decisions at a budget");
  const auto arguments = std::make_shared<FitArguments>();
  verb->add_option("table", arguments->table,
                   "TABLE.csv, one row a run (or a checkpoint of one); or a sweep's directory or records.h5")
      ->required();
  add_fit_table_options(*verb, *arguments);
  add_fit_law_options(*verb, *arguments);
  add_fit_result_options(*verb, *arguments);
  std::string footer = "Forms:\n";
  for (const scaling::FormName& entry : scaling::form_names())
    footer += fmt::format("  {:<12}{}\n", entry.name, entry.formula);
  footer +=
      "Exit: 65 the table cannot carry the fit (the message says what to add), 79 the search did not converge.\n"
      "Examples:\n"
      "  capstan fit runs.csv --budget 1e21\n"
      "  capstan fit runs/laptop --n n_blocks --flops flops_whole --budget 1e15\n"
      "  capstan fit runs.csv --n params --d tokens --loss val_loss --run name --json fit.json\n"
      "  capstan fit runs.csv --form isoflop --budget 1e20 --budget 1e21\n"
      "  capstan fit runs.csv --budget 1e22 --unique-tokens 3e11 --inference-tokens 1e12";
  verb->footer(footer);
  verb->callback([arguments, &action] { action = [arguments] { fit_scaling_law(*arguments); }; });
}

}  // namespace capstan
