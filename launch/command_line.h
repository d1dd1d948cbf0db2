#pragma once
// The command line of capstan: finds the verb, runs it, and turns every way to fail into a message on stderr and an
// exit code. Each verb lives in its own file, <verb>_command.h, as
//   void add_<verb>_command(CLI::App& app, std::function<void()>& action);
// which declares the verb and, when the verb was chosen, stores what to do in `action`. A verb fails by throwing Error;
// one that must end with a code of its own and no message (75) throws ExitRequest.

#include <iosfwd>
#include <string>

namespace capstan {

struct ExitRequest {
  int code = 0;
};

/// Runs the program and returns its exit code. `out` and `err` get help and errors; verbs print to stdout themselves.
int run_command_line(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

/// To be called in a catch block: prints the exception in flight as this rank's error and returns its exit code.
int report_failure(std::ostream& err);

/// Throws where what was printed could not be written. Done at the end of every verb; one that prints for long asks
/// sooner.
void require_output();

/// "capstan 0.1.0" and one line each for compiler, instruction set and libraries.
std::string version_text();

}  // namespace capstan
