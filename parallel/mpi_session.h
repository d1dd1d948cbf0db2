#pragma once
// MpiSession: the life of MPI in this process, and the group of all ranks. A process that no launcher started is a
// world of one and does not touch MPI at all (Open MPI would start a daemon for it).
// Rules: made once, by launch/, on the thread that computes; it outlives every communicator split
// from world(). When a rank fails, catch the exception while the session lives, print, and call world().abort(): the
// others wait for this rank and would wait for ever. A session destroyed by an exception aborts the job for that
// reason.

#include <memory>
#include <string>

#include "core/communicator.h"

namespace capstan {

class MpiTurn;

struct MpiOptions {
  bool shared_memory = true;   ///< ranks of one node talk through memory of our own; false: always MPI calls
  double hang_seconds = 1800;  ///< over shared memory: the longest a rank may wait for another; 0: for ever
  double start_seconds = 300;  ///< the longest that ranks may take to find each other; 0: for ever (launch/ watches)
  size_t message_bytes = 1 << 30;   ///< the most that one MPI call carries for one rank; its counts are of type int
  std::shared_ptr<MpiTurn> turn{};  ///< of the process, made by its session (parallel/mpi_turn.h)
};

class MpiSession {
 public:
  explicit MpiSession(const MpiOptions& options = {});
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  Communicator& world() { return *world_; }
  bool launched() const { return launched_; }  ///< by mpirun or srun; false: a world of one
  static std::string library();                ///< name and version of the MPI library, for doctor

 private:
  void start(const MpiOptions& options);

  bool launched_;
  int exceptions_;
  std::unique_ptr<Communicator> world_;
};

}  // namespace capstan
