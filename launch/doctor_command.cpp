#include "launch/doctor_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "launch/command_line.h"
#include "launch/command_line_ranks.h"
#include "launch/doctor_machine.h"
#include "launch/doctor_ranks.h"
#include "launch/flight_report.h"

namespace capstan {

namespace {

constexpr size_t kBytesPerRank = size_t{4} << 20;

struct DoctorOptions {
  std::string directory = ".";
  std::string run;
};

std::string line_of(const Finding& finding) {
  constexpr const char* words[] = {"ok", "warn", "FAIL"};
  std::string line =
      fmt::format("{:<5} {:<17} {}\n", words[static_cast<int>(finding.verdict)], finding.subject, finding.found);
  if (!finding.advice.empty()) line += fmt::format("{:24}-> {}\n", "", finding.advice);
  return line;
}

std::vector<Finding> findings_of(MpiSession& session, const DoctorOptions& options) {
  Communicator& world = session.world();
  std::vector<Finding> out = communication_findings(world, MpiSession::library(), session.launched());
  for (Finding& finding : machine_findings(ranks_on_this_host(world))) out.push_back(std::move(finding));
  for (Finding& finding : file_system_findings(options.directory)) out.push_back(std::move(finding));
  // Collective: all ranks make the trial, whatever this one thinks of the directory.
  out.push_back(write_read_back(world, options.directory, kBytesPerRank));
  return out;
}

void run_doctor(const DoctorOptions& options) {
  run_on_ranks({.hang_seconds = 60}, [&](MpiSession& session) {
    const std::vector<Finding> findings = findings_of(session, options);
    Communicator& world = session.world();
    int64_t code = 0, failures = 0, warnings = 0;
    std::string text;
    for (const Finding& finding : findings) {
      text += line_of(finding);
      if (finding.verdict == Finding::Verdict::warn) ++warnings;
      if (finding.verdict != Finding::Verdict::fail) continue;
      ++failures;
      if (code == 0) code = static_cast<int64_t>(finding.code);
    }
    world.all_reduce(&code, 1, DType::i64, ReduceOp::max, Reduction::fast);
    if (world.rank() == 0)
      fmt::print("{}{}\n", text,
                 code       ? fmt::format("{} failed: training will not work here", failures)
                 : warnings ? fmt::format("Ready, with {} warning{}.", warnings, warnings == 1 ? "" : "s")
                            : "Ready.");
    std::fflush(stdout);
    if (code != 0) throw ExitRequest{static_cast<int>(code)};
  });
}

}  // namespace

void add_doctor_command(CLI::App& app, std::function<void()>& action) {
  const auto options = std::make_shared<DoctorOptions>();
  CLI::App* verb = app.add_subcommand("doctor", "Check this machine: MPI, libraries, processor, disk");
  verb->add_option("--dir", options->directory, "directory to check: where runs or corpora will be")
      ->capture_default_str();
  verb->add_option("--run", options->run, "run directory: where its ranks stand, or stood when the job ended");
  verb->footer(
      "Prints one line per thing looked at: ok, warn or FAIL, and what to do. Exit code 0 unless something fails.\n"
      "Examples:\n"
      "  capstan doctor                                     this machine, alone\n"
      "  mpirun -n 2 capstan doctor --dir /data/runs        two ranks: also what they write and read there\n"
      "  capstan doctor --run runs/small                    one table: which rank stands where in the step");
  verb->callback([options, &action] {
    action = [options] {
      if (options->run.empty()) return run_doctor(*options);
      fmt::print("{}", flight_report(options->run));
    };
  });
}

}  // namespace capstan
