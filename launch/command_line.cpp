#include "launch/command_line.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <ostream>
#include <system_error>
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
#include "launch/joint_error.h"
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

/// For what the ranks cannot tell each other, since MPI is not up or the one that failed is amid work with the others
/// (what they can, they leave with together: launch/joint_error.h). A mistake on the command line, in the config or in
/// what was to be read is most often the same on every rank: the others give rank 0 the time to say it first, and the
/// launcher to end them before they say it again, which takes a second, or ten on a machine with other work. A mistake
/// that is not rank 0's is said after that time.
void let_rank_0_speak(ExitCode code) {
  constexpr std::chrono::seconds kPatience{20};
  if (own_rank() > 0 && (code == ExitCode::usage || code == ExitCode::config || code == ExitCode::missing_input))
    std::this_thread::sleep_for(kPatience);
}

int say_failure(std::ostream& err, ExitCode code, const std::string& message) {
  err << program_name() + ": error: " + without_controls(message) + "\n" << std::flush;
  return static_cast<int>(code);
}

int failed(std::ostream& err, ExitCode code, const std::string& message) {
  let_rank_0_speak(code);
  return say_failure(err, code, message);
}

/// CLI11 says only that a word was not expected, or that one was; a slip in a verb, or in the verb of a verb, deserves
/// the word that was meant.
std::string unknown_verb(const CLI::App& app, int argc, const char* const* argv) {
  const CLI::App* at = &app;
  std::string path;
  for (int i = 1; i < argc && argv[i][0] != '-' && argv[i][0] != '\0'; ++i) {
    std::vector<std::string> names;
    const CLI::App* next = nullptr;
    for (const CLI::App* verb : at->get_subcommands([](const CLI::App*) { return true; })) {
      names.push_back(verb->get_name());
      if (verb->get_name() == argv[i]) next = verb;
    }
    if (names.empty()) return "";  // from here on come operands
    if (next == nullptr) {
      const std::string near = nearest_name(argv[i], names);
      return fmt::format("unknown verb '{}{}'{}\nrun capstan{} --help for the list",
                         path.empty() ? "" : path.substr(1) + " ", argv[i],
                         near.empty() ? "" : "; did you mean " + near + "?", path);
    }
    at = next;
    path += " " + at->get_name();
  }
  return "";
}

/// The help that lists what was missing: that of the innermost verb.
std::string usage_hint(const CLI::App& app) {
  std::string path;
  for (auto chosen = app.get_subcommands(); !chosen.empty(); chosen = chosen.front()->get_subcommands())
    path += " " + chosen.front()->get_name();
  return fmt::format("run capstan{} --help", path);
}

/// Whoever read our output has gone (capstan ... | head): no failure that anybody wants to read about.
bool reader_left() {
  pollfd output{STDOUT_FILENO, POLLOUT, 0};
  return ::poll(&output, 1, 0) == 1 && (output.revents & (POLLERR | POLLHUP)) != 0;
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
  } catch (const JointError& e) {
    return e.speaks() ? say_failure(err, e.code(), e.what()) : static_cast<int>(e.code());
  } catch (const Error& e) {
    return failed(err, e.code(), e.what());
  } catch (const std::bad_alloc&) {
    return failed(err, ExitCode::internal, "out of memory");
  } catch (const std::system_error& e) {  // of files and streams; what else asks the system says so by Error
    if (e.code() == std::errc::broken_pipe && reader_left()) return static_cast<int>(ExitCode::io_error);
    const bool ours = std::ferror(stdout) != 0;
    return failed(err, ExitCode::io_error,
                  ours ? "cannot write to standard output: " + e.code().message() : std::string(e.what()));
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

namespace {

int run_verb(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
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

}  // namespace

void require_output() {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  const int why = errno != 0 ? errno : reader_left() ? EPIPE : 0;
  if (why == 0)  // a write failed before, and nobody looked
    throw Error(ExitCode::io_error, "cannot write to standard output: some of it is lost, as on a full disk");
  throw std::system_error(why, std::generic_category(), "cannot write to standard output");
}

int run_command_line(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  const int code = run_verb(argc, argv, out, err);
  return code == 0 ? perform(require_output, err) : code;
}

}  // namespace capstan
