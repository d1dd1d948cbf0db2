#pragma once
// Communicators over MPI. Within a node MPI only introduces the ranks to each other: they talk through shared memory of
// our own, because its collectives run at the speed of memory and its waits end with a report of who is missing. Across
// nodes, or when told so, all goes through MPI calls. Only this floor's own files include this page, since it needs
// mpi.h; the other floors use MpiSession.

#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <memory>

#include "core/communicator.h"
#include "parallel/mpi_session.h"

namespace capstan {

/// An MPI communicator that is freed when nobody uses it any more (MPI_COMM_WORLD is not).
class MpiGroup {
 public:
  explicit MpiGroup(MPI_Comm handle);
  ~MpiGroup();
  MpiGroup(MpiGroup&& other) noexcept : handle_(other.handle_) { other.handle_ = MPI_COMM_NULL; }
  MpiGroup& operator=(MpiGroup&&) = delete;

  MPI_Comm handle() const { return handle_; }
  int rank() const;
  int size() const;
  MpiGroup split(int colour, int key) const;
  bool on_one_node() const;  ///< collective

 private:
  MPI_Comm handle_;
};

/// Throws Error when an MPI call did not succeed: internal for wrong arguments, peer_lost for what the network did.
void check_mpi(int result, const char* call);

/// Collective. Shared memory where all members are on one node and options allow it, MPI otherwise.
std::unique_ptr<Communicator> mpi_communicator(MpiGroup group, const MpiOptions& options);

/// All by MPI calls. Sums that are `ordered`, of bf16, or maxima of floating numbers are formed by reduce_tree from the
/// ranks' own terms, the rest by MPI_Allreduce.
std::unique_ptr<Communicator> mpi_message_communicator(MpiGroup group, const MpiOptions& options);

}  // namespace capstan
