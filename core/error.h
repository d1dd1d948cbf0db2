#pragma once
// One error type for the whole library. It says what was wanted, what was got, where, and the likely fix, and carries
// the exit code that launch/ will return. The library throws; only launch/ prints and exits.

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace capstan {

/// Exit codes of the program (BSD sysexits where one fits).
enum class ExitCode : int {
  done = 0,
  usage = 64,
  bad_data = 65,
  missing_input = 66,
  internal = 70,
  cannot_create = 73,
  io_error = 74,
  checkpointed = 75,  ///< stopped on request after a checkpoint: start me again
  peer_lost = 76,
  config = 78,
  numerical = 79,
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, std::string message) : std::runtime_error(std::move(message)), code_(code) {}

  template <typename... Args>
  static Error make(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
    return Error(code, fmt::format(format, std::forward<Args>(args)...));
  }
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

/// A broken promise between our own parts: not the user's fault.
#define CAPSTAN_CHECK(condition, ...)                                                                              \
  do {                                                                                                             \
    if (!(condition))                                                                                              \
      throw ::capstan::Error(::capstan::ExitCode::internal,                                                        \
                             ::fmt::format("{}:{}: internal check failed: {}: ", __FILE__, __LINE__, #condition) + \
                                 ::fmt::format(__VA_ARGS__));                                                      \
  } while (0)

}  // namespace capstan
