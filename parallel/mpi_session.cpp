#include "parallel/mpi_session.h"

#include <cstdlib>
#include <exception>

#include "core/error.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_turn.h"
#include "parallel/shared_window_wait.h"

namespace capstan {
namespace {

int number_from(const char* variable) {
  const char* value = std::getenv(variable);
  return value ? std::atoi(value) : 0;
}

/// Launchers tell their processes who they are through the environment.
bool started_by_launcher() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(variable)) return true;
  if (number_from("SLURM_STEP_NUM_TASKS") > 1)
    throw Error(ExitCode::config,
                "srun started several processes without a way for MPI to find the others; each would train alone: "
                "use srun --mpi=pmix");
  return false;
}

/// An MPI that spins while it waits is a thousand times slower when ranks share cores.
void yield_when_oversubscribed() {
  const bool bound_to_cores = number_from("OMPI_MCA_orte_bound_at_launch") == 1;
  if (!bound_to_cores && fewer_cores_than(number_from("OMPI_COMM_WORLD_LOCAL_SIZE")))
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
}

}  // namespace

MpiSession::MpiSession(const MpiOptions& options)
    : launched_(started_by_launcher()), exceptions_(std::uncaught_exceptions()) {
  if (launched_)
    start(options);
  else
    world_ = self_communicator();
}

void MpiSession::start(const MpiOptions& options) {
  yield_when_oversubscribed();
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_SERIALIZED)
    throw Error(ExitCode::config,
                "this MPI library does not allow the threads of a process to call it in turn (wanted "
                "SERIALIZED); build it with threads");
  MpiOptions all = options;
  all.turn = std::make_shared<MpiTurn>();
  world_ = mpi_communicator(MpiGroup(MPI_COMM_WORLD), all);
}

MpiSession::~MpiSession() {
  if (!launched_) return;
  if (std::uncaught_exceptions() > exceptions_) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitCode::internal));
  world_.reset();
  MPI_Finalize();
}

std::string MpiSession::library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);  // allowed before MPI_Init
  const std::string all(text, static_cast<size_t>(length));
  return all.substr(0, all.find(','));
}

}  // namespace capstan
