#pragma once
// MpiTurn: several threads of a process use MPI one at a time (MPI_THREAD_SERIALIZED). None blocks inside MPI: a call
// is begun and then looked after, and between two looks the turn is free. So the communication thread (lane_thread.h)
// and the thread that computes wait for different messages at once, and a look by either moves the messages of both.
// The thread that made the object computes: when it waits it looks all the time. Others sleep between looks, because
// they share their processors with threads that compute.

#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <mutex>
#include <span>
#include <thread>

namespace capstan {

class MpiTurn {
 public:
  /// begin(MPI_Request*) calls a non-blocking function of MPI, `call` by name; returns when what it began is done.
  template <typename Begin>
  void complete(const char* call, Begin begin) {
    MPI_Request request = MPI_REQUEST_NULL;
    start(call, [&] { return begin(&request); });
    wait({&request, 1}, call);
  }
  /// A call that returns at once.
  template <typename Call>
  void start(const char* name, Call call) {
    const std::lock_guard turn(mutex_);
    check(call(), name);
  }
  /// Until all are done; they are null then.
  void wait(std::span<MPI_Request> requests, const char* call);
  /// The same for one, with its status.
  MPI_Status wait(MPI_Request& request, const char* call);

 private:
  static void check(int result, const char* call);
  void rest() const;

  std::mutex mutex_;
  std::thread::id computes_ = std::this_thread::get_id();
};

}  // namespace capstan
