// The verbs of the scaling-law lab, and the records of runs, in a binary that was built without it (CAPSTAN_LAB=OFF, as
// the quickstart's is, so that the first run does not wait for their compiler).

#include "core/error.h"
#include "launch/fit_command.h"
#include "launch/own_record.h"
#include "launch/report_command.h"
#include "launch/sweep_command.h"

namespace capstan {
namespace {

void add_absent(CLI::App& app, std::function<void()>& action, const char* name, const char* what) {
  CLI::App* verb = app.add_subcommand(name, what)->allow_extras();
  const auto refuse = [name] {
    throw Error::make(ExitCode::usage,
                      "{} is not in this binary; add it with: cmake -S . -B build -DCAPSTAN_LAB=ON && cmake --build "
                      "build --target capstan",
                      name);
  };
  verb->callback([&action, refuse] { action = refuse; });
}

}  // namespace

void keep_own_record(const RunConfig& config, const std::string&, Console& console) {
  if (!config.run.records.empty() && config.run.records != "none")
    console.say(
        fmt::format("warning  run.records is {}, but this binary has no lab: the run is in no table; add it "
                    "with one that has: capstan records {} --add {}",
                    config.run.records, config.run.records, config.run.dir));
}

void add_sweep_command(CLI::App& app, std::function<void()>& action) {
  add_absent(app, action, "sweep", "runs a sweep of small models (not built in)");
}
void add_records_command(CLI::App& app, std::function<void()>& action) {
  add_absent(app, action, "records", "the table of a sweep (not built in)");
}
void add_fit_command(CLI::App& app, std::function<void()>& action) {
  add_absent(app, action, "fit", "fits scaling laws (not built in)");
}
void add_report_command(CLI::App& app, std::function<void()>& action) {
  add_absent(app, action, "report", "what a sweep found, as a page (not built in)");
}

}  // namespace capstan
