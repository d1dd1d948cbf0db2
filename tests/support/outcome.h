#pragma once
// Errors as values: what came of an action that may be refused.

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "core/error.h"

namespace capstan::support {

struct Outcome {
  ExitCode code = ExitCode::done;
  std::string message;
  bool says(const std::string& word) const { return message.find(word) != std::string::npos; }
};

inline Outcome outcome_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {};
}

/// The message of what is refused with this code; "" when nothing is.
inline std::string complaint_of(ExitCode code, const std::function<void()>& action) {
  const Outcome outcome = outcome_of(action);
  EXPECT_TRUE(outcome.code == ExitCode::done || outcome.code == code) << outcome.message;
  return outcome.message;
}

/// The same of what must be refused.
inline std::string refusal_of(ExitCode code, const std::function<void()>& action) {
  const Outcome outcome = outcome_of(action);
  EXPECT_EQ(outcome.code, code) << (outcome.code == ExitCode::done ? "was not refused" : outcome.message);
  return outcome.message;
}

}  // namespace capstan::support
