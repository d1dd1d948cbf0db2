#include "launch/report_command.h"

#include <fmt/format.h>

#include <memory>
#include <sstream>
#include <thread>

#include "cluster/lab/record_store.h"
#include "cluster/lab/report.h"
#include "core/error.h"
#include "io/file_system.h"
#include "io/run_log.h"
#include "launch/child_process.h"
#include "launch/number_checks.h"
#include "launch/run_record.h"

namespace capstan {
namespace {

namespace fs = std::filesystem;

struct ReportArguments {
  std::string directory, out;
  std::vector<double> budgets;
  std::vector<std::string> settings;
};

constexpr uint64_t kMostText = 1 << 20;
constexpr size_t kCurvePoints = 60;

std::vector<std::string> lines_of(const fs::path& path) {
  std::vector<std::string> lines;
  std::istringstream in(fs::exists(path) ? read_whole_file(path, kMostText) : "");
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) lines.push_back(line);
  return lines;
}

/// The sweep's own file where there is one; a table alone has the defaults.
SweepSpec spec_of(const ReportArguments& arguments, const fs::path& folder, std::string& text) {
  std::vector<std::string> settings = lines_of(folder / "overrides.txt");
  settings.insert(settings.end(), arguments.settings.begin(), arguments.settings.end());
  SweepSpec spec;
  if (fs::exists(folder / "sweep.toml")) {
    text = read_whole_file(folder / "sweep.toml", kMostText);
    spec = parse_sweep(text, (folder / "sweep.toml").string(), settings);
  }
  if (spec.name.empty()) spec.name = folder.filename().string();
  if (!arguments.budgets.empty()) spec.decide.flops = arguments.budgets;
  return spec;
}

void add_curves(ReportInput& input, const fs::path& folder) {
  for (const RunRecord& record : input.records) {
    const fs::path relative = record.directory;
    if (!record.done() || relative.empty() || relative.is_absolute() ||
        relative.string().find("..") != std::string::npos)
      continue;
    std::error_code failure;
    const fs::path metrics = folder / relative / "metrics.jsonl";
    if (!fs::exists(metrics, failure)) continue;
    const Metrics read = read_metrics(metrics);
    const auto tokens = read.columns.find("tokens"), loss = read.columns.find("loss");
    if (tokens != read.columns.end() && loss != read.columns.end())
      input.curves[record.run] = thinned(tokens->second, loss->second, kCurvePoints);
  }
}

ReportInput input_of(const ReportArguments& arguments) {
  fs::path folder = arguments.directory;
  fs::path table = folder / kStoreName;
  if (!fs::is_directory(folder)) table = folder, folder = folder.parent_path();
  if (!fs::exists(table))
    throw Error::make(ExitCode::missing_input, "there is no table of records {}; capstan sweep makes one",
                      table.string());
  ReportInput input;
  input.spec = spec_of(arguments, folder, input.sweep_text);
  input.records = RecordStore(table).read();
  input.version = binary_version();
  const fs::path prediction = folder / "prediction.json";
  if (fs::exists(prediction))
    input.prediction = HeldOutPrediction::from_json(read_whole_file(prediction, kMostText), prediction.string());
  if (input.spec.decide.flops.empty()) {
    double most = 0;
    for (const RunRecord& r : input.records) most = std::max(most, std::isfinite(r.flops_half) ? r.flops_half : 0);
    for (const double factor : {1.0, 10.0, 100.0}) input.spec.decide.flops.push_back(most * factor);
  }
  add_curves(input, folder);
  return input;
}

/// By librsvg's own converter, where it is installed.
bool write_png(const fs::path& svg, const fs::path& png) {
  ChildProcess convert({"rsvg-convert", "--zoom", "2", "--output", png.string(), svg.string()}, "/dev/null");
  std::optional<int> code;
  while (!(code = convert.ended())) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return *code == 0;
}

void report(const ReportArguments& arguments) {
  const ReportInput input = input_of(arguments);
  const Report made = make_report(input);
  const fs::path given = arguments.directory;
  const fs::path out = !arguments.out.empty()    ? fs::path(arguments.out)
                       : fs::is_directory(given) ? given / "report"
                                                 : given.parent_path() / "report";
  create_directory_durably(out);
  size_t pictures = 0;
  for (const ReportFigure& figure : made.figures) {
    const fs::path svg = out / (figure.name + ".svg");
    write_file_atomically(svg, figure.svg);
    pictures += write_png(svg, out / (figure.name + ".png")) ? 1 : 0;
  }
  write_file_atomically(out / "index.html", made.html);
  fmt::print("report   {} ({} figures, as SVG{})\n", (out / "index.html").string(), made.figures.size(),
             pictures == made.figures.size() ? " and PNG too" : "");
  if (pictures < made.figures.size())
    fmt::print("note     no PNG: they need rsvg-convert (Debian, Ubuntu: apt-get install librsvg2-bin)\n");
}

}  // namespace

void add_report_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* verb =
      app.add_subcommand("report", "a sweep as one HTML page that ends with a decision; figures as SVG and PNG");
  const auto arguments = std::make_shared<ReportArguments>();
  verb->add_option("directory", arguments->directory, "a sweep's directory, or a file of records (HDF5)")->required();
  verb->add_option("settings", arguments->settings, "key.path=value over the sweep's file, e.g. sweep.decide.gpus=64");
  verb->add_option("--budget", arguments->budgets, "decide for this many FLOP (repeat for more)")
      ->allow_extra_args(false)
      ->type_name("FLOP")
      ->check(above_zero());
  verb->add_option("--out", arguments->out, "where it goes; left out, DIR/report")->type_name("DIR");
  verb->footer(
      "The page needs no network and opens from disk.\nExamples:\n  capstan report runs/laptop\n"
      "  capstan report runs/laptop --budget 1e21 --budget 1e22 sweep.decide.gpu='\"H100\"' sweep.decide.gpus=512");
  verb->callback([arguments, &action] { action = [arguments] { report(*arguments); }; });
}

}  // namespace capstan
