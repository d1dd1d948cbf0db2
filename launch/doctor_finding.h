#pragma once
// One line of capstan doctor: what was looked at, what was found, and what to do where it is not well.

#include <string>

#include "core/error.h"

namespace capstan {

struct Finding {
  enum class Verdict { ok, warn, fail };
  Verdict verdict = Verdict::ok;
  std::string subject;
  std::string found;
  std::string advice;                  ///< empty when ok
  ExitCode code = ExitCode::internal;  ///< the program's, when this fails
};

inline Finding good(std::string subject, std::string found) {
  return {Finding::Verdict::ok, std::move(subject), std::move(found), "", ExitCode::done};
}
inline Finding doubtful(std::string subject, std::string found, std::string advice) {
  return {Finding::Verdict::warn, std::move(subject), std::move(found), std::move(advice), ExitCode::done};
}
inline Finding broken(std::string subject, std::string found, std::string advice, ExitCode code) {
  return {Finding::Verdict::fail, std::move(subject), std::move(found), std::move(advice), code};
}

}  // namespace capstan
