#pragma once
// StopSignal: while one lives, SIGTERM, SIGINT and SIGUSR1 do not end the process but are remembered, so that the run
// can finish its step on all ranks together, checkpoint and exit 75. A second SIGINT, a second or more after the first,
// is a user who does not want to wait: it ends the process as if nobody had listened. (A terminal and a launcher may
// both deliver one Ctrl-C; that is why two in quick succession count as one.)
// A handler can reach nothing but variables of static storage, so the flag is the one piece of mutable process-wide
// state of this floor; it is only ever touched here. Rule: one StopSignal at a time, made by launch/ and passed on, and
// what to do about the signal is agreed by all ranks in a collective, never decided by one.

#include <signal.h>

#include <array>

namespace capstan {

class StopSignal {
 public:
  StopSignal();   ///< installs the handlers and forgets earlier signals
  ~StopSignal();  ///< puts back what was there before
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  bool requested() const;     ///< some signal has come
  const char* which() const;  ///< "SIGTERM", "SIGINT" or "SIGUSR1"; "" while none has come

 private:
  static constexpr std::array<int, 3> kSignals{SIGTERM, SIGINT, SIGUSR1};
  std::array<struct sigaction, kSignals.size()> before_{};
};

}  // namespace capstan
