#pragma once
// A thread that gets no signals: those are for the one that trains.

#include <csignal>
#include <thread>
#include <utility>

namespace capstan {

/// Throws std::system_error when there is no thread to be had; the caller's signals are as they were in any case.
template <typename Body>
std::thread quiet_thread(Body body) {
  struct Blocked {
    Blocked() {
      sigset_t all;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
    }
    ~Blocked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
    sigset_t before;
  };
  const Blocked while_it_starts;
  return std::thread(std::move(body));
}

}  // namespace capstan
