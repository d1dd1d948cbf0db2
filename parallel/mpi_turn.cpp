#include "parallel/mpi_turn.h"

#include <sched.h>

#include <chrono>

#include "parallel/mpi_communicator.h"

namespace capstan {

/// Long enough to leave the processor to who computes, short enough that a socket's buffer does not fill meanwhile.
constexpr std::chrono::microseconds kBetweenLooks{100};

void MpiTurn::check(int result, const char* call) { check_mpi(result, call); }

void MpiTurn::rest() const {
  if (std::this_thread::get_id() == computes_)
    sched_yield();
  else
    std::this_thread::sleep_for(kBetweenLooks);
}

void MpiTurn::wait(std::span<MPI_Request> requests, const char* call) {
  for (int done = 0;; rest()) {
    start(call,
          [&] { return MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE); });
    if (done) return;
  }
}

MPI_Status MpiTurn::wait(MPI_Request& request, const char* call) {
  MPI_Status status;
  for (int done = 0;; rest()) {
    start(call, [&] { return MPI_Test(&request, &done, &status); });
    if (done) return status;
  }
}

}  // namespace capstan
