#include "parallel/mpi_communicator.h"

#include <sched.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "parallel/shared_memory_communicator.h"
#include "parallel/shared_window_memory.h"

namespace capstan {
namespace {

[[noreturn]] void throw_mpi_error(int result, const char* call) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0, kind = 0;
  MPI_Error_string(result, text, &length);
  MPI_Error_class(result, &kind);
  const bool of_the_network = kind == MPI_ERR_OTHER || kind == MPI_ERR_INTERN || kind == MPI_ERR_UNKNOWN ||
                              kind == MPI_ERR_IN_STATUS || kind == MPI_ERR_PENDING;
  throw Error::make(of_the_network ? ExitCode::peer_lost : ExitCode::internal, "{} failed: {}", call, text);
}

std::shared_ptr<void> shared_memory(const MpiGroup& group, size_t bytes);

class MpiSharedCommunicator final : public SharedMemoryCommunicator {
 public:
  MpiSharedCommunicator(MpiGroup group, SharedWindow view, MpiOptions options)
      : SharedMemoryCommunicator(std::move(view)), group_(std::move(group)), options_(options) {}

  std::unique_ptr<Communicator> split(int colour, int key) override {
    empty_call(CallSignature::split);  // so that a rank that does something else is found out, not waited for in MPI
    return mpi_communicator(group_.split(colour, key), options_);
  }
  void abort(const std::string&, int exit_code) override { MPI_Abort(MPI_COMM_WORLD, exit_code); }
  std::string transport() const override { return "mpi (shared memory)"; }

 protected:
  std::shared_ptr<void> share(size_t bytes) override {
    empty_call(CallSignature::split);  // as in split()
    auto memory = shared_memory(group_, std::max<size_t>(bytes, 1));
    if (!memory)
      throw Error::make(ExitCode::config, "the ranks of this host cannot share {} bytes for the pipeline's messages",
                        bytes);
    return memory;
  }

 private:
  MpiGroup group_;
  MpiOptions options_;
};

/// Whether the members, all on this node, may together use fewer cores than they are.
bool oversubscribed(const MpiGroup& group) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (sched_getaffinity(0, sizeof mine, &mine) != 0) return true;
  std::vector<cpu_set_t> all(static_cast<size_t>(group.size()));
  check_mpi(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, group.handle()),
            "MPI_Allgather");
  for (const cpu_set_t& set : all) CPU_OR(&mine, &mine, &set);
  return CPU_COUNT(&mine) < group.size();
}

bool agree(const MpiGroup& group, bool mine) {
  int all = mine;
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, group.handle()), "MPI_Allreduce");
  return all != 0;
}

/// Memory of `bytes` that all members share, the same on all; null on all where one of them cannot have it.
std::shared_ptr<void> shared_memory(const MpiGroup& group, size_t bytes) {
  std::unique_ptr<SharedMemory> memory;
  SharedMemoryAddress address;
  if (group.rank() == 0) {
    memory = std::make_unique<SharedMemory>(bytes);
    address = memory->address();
  }
  check_mpi(MPI_Bcast(&address, sizeof address, MPI_BYTE, 0, group.handle()), "MPI_Bcast");
  if (group.rank() != 0) memory = std::make_unique<SharedMemory>(address);
  return agree(group, memory->memory() != nullptr) ? memory->memory() : nullptr;  // and now the file may be closed
}

int world_rank() {
  int rank = 0;
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  return rank;
}

}  // namespace

void check_mpi(int result, const char* call) {
  if (result != MPI_SUCCESS) throw_mpi_error(result, call);
}

MpiGroup::MpiGroup(MPI_Comm handle) : handle_(handle) {
  check_mpi(MPI_Comm_set_errhandler(handle_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

MpiGroup::~MpiGroup() {
  int ended = 0;
  MPI_Finalized(&ended);
  if (!ended && handle_ != MPI_COMM_NULL && handle_ != MPI_COMM_WORLD) MPI_Comm_free(&handle_);
}

int MpiGroup::rank() const {
  int rank = 0;
  check_mpi(MPI_Comm_rank(handle_, &rank), "MPI_Comm_rank");
  return rank;
}

int MpiGroup::size() const {
  int size = 0;
  check_mpi(MPI_Comm_size(handle_, &size), "MPI_Comm_size");
  return size;
}

MpiGroup MpiGroup::split(int colour, int key) const {
  CAPSTAN_CHECK(colour >= 0, "split with colour {}", colour);
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(handle_, colour, key, &part), "MPI_Comm_split");
  return MpiGroup(part);
}

bool MpiGroup::on_one_node() const {
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(handle_, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node), "MPI_Comm_split_type");
  const MpiGroup here(node);
  return agree(*this, here.size() == size());
}

std::unique_ptr<Communicator> mpi_communicator(MpiGroup group, const MpiOptions& options) {
  const bool possible = options.shared_memory && group.size() <= SharedMemoryCommunicator::kMostRanks;
  if (!possible || !group.on_one_node()) return mpi_message_communicator(std::move(group), options);
  const auto shape = SharedMemoryCommunicator::shape_for(group.size());
  auto memory = shared_memory(group, shape.bytes());
  if (!memory) return mpi_message_communicator(std::move(group), options);
  const WaitPolicy policy{oversubscribed(group), options.hang_seconds, nullptr};
  SharedWindow window(std::move(memory), shape, group.rank(), world_rank(), policy);
  check_mpi(MPI_Barrier(group.handle()), "MPI_Barrier");  // all names are written
  return std::make_unique<MpiSharedCommunicator>(std::move(group), std::move(window), options);
}

}  // namespace capstan
