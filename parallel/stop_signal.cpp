#include "parallel/stop_signal.h"

#include <time.h>

#include <cerrno>

#include "core/error.h"

namespace capstan {
namespace {

constexpr double kForceAfterSeconds = 1.0;

// volatile sig_atomic_t is what the language allows a handler to write and the program to read.
volatile sig_atomic_t signal_seen = 0;
volatile sig_atomic_t listening = 0;
volatile timespec first_interrupt{};

double seconds_since_first_interrupt() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);  // async-signal-safe
  return static_cast<double>(now.tv_sec - first_interrupt.tv_sec) +
         1e-9 * static_cast<double>(now.tv_nsec - first_interrupt.tv_nsec);
}

extern "C" void capstan_remember_signal(int number) {
  const int saved = errno;
  const bool again = number == SIGINT && first_interrupt.tv_sec != 0;
  if (again && seconds_since_first_interrupt() >= kForceAfterSeconds) {
    signal(SIGINT, SIG_DFL);
    raise(SIGINT);  // delivered as soon as this handler returns
  } else if (number == SIGINT && !again) {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    first_interrupt.tv_sec = now.tv_sec;
    first_interrupt.tv_nsec = now.tv_nsec;
  }
  if (signal_seen == 0) signal_seen = number;
  errno = saved;
}

}  // namespace

StopSignal::StopSignal() {
  CAPSTAN_CHECK(listening == 0, "a second StopSignal while one lives");
  signal_seen = 0;
  first_interrupt.tv_sec = 0;
  struct sigaction action {};
  action.sa_handler = capstan_remember_signal;
  action.sa_flags = SA_RESTART;  // files are being written: a signal must not cut a write short
  sigemptyset(&action.sa_mask);
  for (int number : kSignals) sigaddset(&action.sa_mask, number);
  listening = 1;
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &before_[i]);  // valid, so never refused
}

StopSignal::~StopSignal() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
  listening = 0;
}

bool StopSignal::requested() const { return signal_seen != 0; }

const char* StopSignal::which() const {
  switch (signal_seen) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return "";
  }
}

}  // namespace capstan
