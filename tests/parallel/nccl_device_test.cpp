// label: cuda, links: capstan_nccl capstan_cuda
// The suite over NCCL on a real device: 2 to 4 processes that share it, each with a NCCL_HOSTID of its own and over
// sockets of this machine. The test program starts itself again under mpirun; without a device it skips.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/reduce_tree.h"
#include "parallel/mpi_session.h"
#include "parallel/nccl_session.h"
#include "tests/parallel/communicator_suite.h"
#include "tests/support/host_side.h"

namespace capstan::testing {
namespace {

// ---- what ranks do (in the processes under mpirun)

void run_suite(Communicator& world) {
  const auto device = kernels::open_cuda_device(0);
  const kernels::Backend backend = kernels::cuda_backend(*device);
  NcclOptions options;
  options.scratch_bytes = size_t{64} << 10;  // so that arrays of the suite are summed in several pieces
  NcclSession session(*device, {backend.copy, kernels::cuda::reduce_tree}, options);
  const kernels::Stream stream = device->main_stream();
  HostSide group(*device, stream, session.group(world, stream));
  for (const suite::Check& check : suite::checks()) {
    try {
      check.run(group);
    } catch (const std::exception& e) {
      throw Error::make(ExitCode::internal, "{} on rank {}: {}", check.name, world.rank(), e.what());
    }
  }
  session.warm_up(group.device_side());
  if (world.rank() == 0)
    std::printf("suite passed on %d ranks, %s %s, %zu bytes\n", world.size(), group.transport().c_str(),
                NcclSession::version().c_str(), session.bytes());
  world.barrier();
}

int run_rank() {
  const char* place = std::getenv("OMPI_COMM_WORLD_RANK");
  setenv("NCCL_HOSTID", fmt::format("capstan-test-{}", place != nullptr ? place : "0").c_str(), 1);
  setenv("NCCL_SOCKET_IFNAME", "lo", 1);
  setenv("NCCL_IB_DISABLE", "1", 1);
  prepare_nccl_environment();
  MpiSession session;
  try {
    run_suite(session.world());
    return 0;
  } catch (const std::exception& e) {
    std::printf("error: %s\n", e.what());
    std::fflush(stdout);
    session.world().abort(e.what(), static_cast<int>(ExitCode::internal));
    return static_cast<int>(ExitCode::internal);
  }
}

// ---- the tests (in the process that the test runner starts)

class NcclOnOneDevice : public ::testing::TestWithParam<int> {};

TEST_P(NcclOnOneDevice, SuitePasses) {
  if (!NcclSession::available()) GTEST_SKIP() << "this build has no NCCL";
  if (kernels::cuda_device_count() == 0) GTEST_SKIP() << "there is no CUDA device";
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string command = fmt::format(
      "CAPSTAN_TEST_BODY=suite OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout -k 5 280 mpirun "
      "--oversubscribe -n {} '{}' 2>&1 </dev/null",
      GetParam(), self);
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 4096> buffer;
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) output.append(buffer.data(), n);
  EXPECT_EQ(pclose(pipe), 0) << output;
  EXPECT_NE(output.find(fmt::format("suite passed on {} ranks, nccl", GetParam())), std::string::npos) << output;
}

INSTANTIATE_TEST_SUITE_P(Ranks, NcclOnOneDevice, ::testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace capstan::testing

int main(int argc, char** argv) {
  if (std::getenv("CAPSTAN_TEST_BODY") != nullptr) return capstan::testing::run_rank();
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
