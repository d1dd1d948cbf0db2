#include "launch/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <new>
#include <ostream>
#include <thread>

#include "core/config/nearest_name.h"
#include "core/error.h"
#include "io/printable.h"
#include "launch/bench_command.h"
#include "launch/config_command.h"
#include "launch/convert_command.h"
#include "launch/corpus_command.h"
#include "launch/doctor_command.h"
#include "launch/doctor_libraries.h"
#include "launch/evaluate_command.h"
#include "launch/fit_command.h"
#include "launch/generate_command.h"
#include "launch/inspect_command.h"
#include "launch/report_command.h"
#include "launch/sweep_command.h"
#include "launch/tokenizer_command.h"
#include "launch/train_command.h"

namespace capstan {

namespace {

constexpr const char* kVersion = CAPSTAN_VERSION;

using Adder = void (*)(CLI::App&, std::function<void()>&);

constexpr Adder kVerbs[] = {
    add_corpus_command,   add_tokenizer_command, add_train_command,  add_inspect_command, add_generate_command,
    add_evaluate_command, add_convert_command,   add_sweep_command,  add_records_command, add_fit_command,
    add_report_command,   add_bench_command,     add_config_command, add_doctor_command,
};

int number_from(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text && *text ? std::atoi(text) : otherwise;
}

int ranks_started() { return number_from("OMPI_COMM_WORLD_SIZE", 1); }
int own_rank() { return number_from("OMPI_COMM_WORLD_RANK", 0); }

std::string program_name() { return ranks_started() > 1 ? fmt::format("capstan[rank {}]", own_rank()) : "capstan"; }

/// A mistake on the command line or in the config, or losses that are not finite, are the same on every rank: the
/// others give rank 0 the time to say it first; the launcher, which needs about a second, then ends them before they
/// say it again.
void let_rank_0_speak(ExitCode code) {
  if (own_rank() > 0 && (code == ExitCode::usage || code == ExitCode::config || code == ExitCode::numerical))
    std::this_thread::sleep_for(std::chrono::seconds(2));
}

int failed(std::ostream& err, ExitCode code, const std::string& message) {
  let_rank_0_speak(code);
  err << program_name() + ": error: " + without_controls(message) + "\n" << std::flush;
  return static_cast<int>(code);
}

/// CLI11 says only that a word was not expected; a slip in the verb deserves the verb.
std::string unknown_verb(const CLI::App& app, int argc, const char* const* argv) {
  if (argc < 2 || argv[1][0] == '-' || argv[1][0] == '\0') return "";
  std::vector<std::string> names;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (verb->get_name() == argv[1]) return "";
    names.push_back(verb->get_name());
  }
  const std::string near = nearest_name(argv[1], names);
  return fmt::format("unknown verb '{}'{}\nrun capstan --help for the list", argv[1],
                     near.empty() ? "" : "; did you mean " + near + "?");
}

std::string usage_hint(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return fmt::format("run capstan{}{} --help", chosen.empty() ? "" : " ",
                     chosen.empty() ? "" : chosen.front()->get_name());
}

int perform(const std::function<void()>& action, std::ostream& err) {
  try {
    action();
    return 0;
  } catch (const ExitRequest& request) {
    return request.code;
  } catch (...) {
    return report_failure(err);
  }
}

}  // namespace

int report_failure(std::ostream& err) {
  try {
    throw;
  } catch (const Error& e) {
    return failed(err, e.code(), e.what());
  } catch (const std::bad_alloc&) {
    return failed(err, ExitCode::internal, "out of memory");
  } catch (const std::exception& e) {
    return failed(err, ExitCode::internal, fmt::format("{} (our own fault: please report it)", e.what()));
  }
}

std::string version_text() {
  std::string out = fmt::format("capstan {}\n", kVersion);
  for (const auto& [name, version] : library_versions()) out += fmt::format("{:<16}{}\n", name, version);
  out.pop_back();
  return out;
}

int run_command_line(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  CLI::App app{"Capstan pretrains transformer language models over MPI."};
  app.name("capstan");
  app.set_version_flag("--version", version_text, "print versions of the program and its libraries");
  app.footer(
      "Run capstan VERB --help for the options of a verb.\nFirst steps: capstan doctor · capstan corpus build · "
      "mpirun -n 2 capstan train CONFIG.toml");
  std::function<void()> action;
  for (const Adder add : kVerbs) add(app, action);
  if (const std::string message = unknown_verb(app, argc, argv); !message.empty())
    return failed(err, ExitCode::usage, message);
  if (argc < 2) {
    err << app.help();
    return static_cast<int>(ExitCode::usage);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    app.exit(help_or_version, out, err);
    return 0;
  } catch (const CLI::ParseError& e) {
    return failed(err, ExitCode::usage, fmt::format("{}\n{}", e.what(), usage_hint(app)));
  }
  if (!action) return failed(err, ExitCode::usage, "nothing to do\n" + usage_hint(app));
  return perform(action, err);
}

}  // namespace capstan
