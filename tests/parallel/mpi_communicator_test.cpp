// label: mpi
// The suite over real processes, through shared memory and through MPI calls, and how jobs end. The test program starts
// itself again under mpirun with CAPSTAN_TEST_BODY naming what the ranks do; each job has a bound on its time.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include "parallel/mpi_session.h"
#include "parallel/stop_signal.h"
#include "tests/parallel/communicator_suite.h"

namespace capstan {
namespace {

// ---- what ranks do (in the processes under mpirun)

void sleep_seconds(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

void barriers_for_ever(Communicator& world) {
  for (;;) world.barrier();
}

int run_suite(Communicator& world) {
  for (const suite::Check& check : suite::checks()) {
    try {
      check.run(world);
    } catch (const std::exception& e) {
      throw Error::make(ExitCode::internal, "{} on rank {}: {}", check.name, world.rank(), e.what());
    }
  }
  if (world.rank() == 0) std::printf("suite passed on %d ranks, %s\n", world.size(), world.transport().c_str());
  return 0;
}

int throw_on_one(Communicator& world) {
  world.barrier();
  if (world.rank() == 1) throw Error(ExitCode::numerical, "too many steps were skipped");
  barriers_for_ever(world);
  return 0;
}

int kill_one(Communicator& world) {
  world.barrier();
  if (world.rank() == 1) raise(SIGKILL);
  barriers_for_ever(world);
  return 0;
}

int hang_one(Communicator& world) {
  world.barrier();
  if (world.rank() == 1) sleep_seconds(30);
  world.barrier();
  return 0;
}

int mismatch(Communicator& world) {
  float x[4] = {};
  if (world.rank() == 0) world.barrier();
  world.all_reduce(x, 4, DType::f32, ReduceOp::sum, Reduction::fast);
  return 0;
}

/// mpirun forwards SIGUSR1 to all ranks; rank 0's parent is mpirun.
int stop_on_request(Communicator& world) {
  const StopSignal stop;
  world.barrier();
  if (world.rank() == 0) kill(getppid(), SIGUSR1);
  for (int stopping = 0; stopping == 0; sleep_seconds(0.01)) {
    stopping = stop.requested();
    world.all_reduce(&stopping, 1, DType::i32, ReduceOp::max, Reduction::fast);
  }
  return static_cast<int>(ExitCode::checkpointed);
}

int print_world(Communicator& world) {
  std::printf("rank %d of %d, %s\n", world.rank(), world.size(), world.transport().c_str());
  return 0;
}

int leave_by_exception(Communicator& world) {
  if (world.rank() == 1) throw 1;  // no std::exception: only the session's destructor sees it
  barriers_for_ever(world);
  return 0;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Seconds of one call, the best of several trials of `times` calls.
double seconds_of(Communicator& world, int times, const std::function<void()>& call) {
  double best = 1e9;
  for (int trial = 0; trial < 7; ++trial) {
    world.barrier();
    const double start = now();
    for (int i = 0; i < times; ++i) call();
    best = std::min(best, (now() - start) / times);
  }
  return best;
}

int measure(Communicator& world) {
  std::vector<float> data(16 << 20, 0.0f), other(16 << 20);
  const auto print = [&](const char* what, size_t bytes, double s) {
    if (world.rank() == 0)
      std::printf("%-20s %d ranks  %-18s %9zu bytes %10.2f us %7.2f GB/s\n", world.transport().c_str(), world.size(),
                  what, bytes, s * 1e6, static_cast<double>(bytes) / s * 1e-9);
  };
  print("memcpy", 64 << 20, seconds_of(world, 1, [&] { std::memcpy(other.data(), data.data(), 64 << 20); }));
  for (size_t bytes : {size_t{8}, size_t{8} << 10, size_t{256} << 10, size_t{4} << 20, size_t{64} << 20}) {
    const int times = bytes < (256 << 10) ? 1000 : bytes < (64 << 20) ? 50 : 2;
    for (Reduction order : {Reduction::fast, Reduction::ordered})
      print(order == Reduction::fast ? "all_reduce fast" : "all_reduce ordered", bytes, seconds_of(world, times, [&] {
              world.all_reduce(data.data(), bytes / 4, DType::f32, ReduceOp::sum, order);
            }));
    const size_t run = bytes / 4 / static_cast<size_t>(world.size());
    print("reduce_scatter", bytes, seconds_of(world, times, [&] {
            world.reduce_scatter(data.data(), other.data(), run, DType::f32, Reduction::fast);
          }));
    print("all_gather", bytes,
          seconds_of(world, times, [&] { world.all_gather(other.data(), data.data(), run, DType::f32); }));
  }
  return 0;
}

struct Body {
  const char* name;
  int (*run)(Communicator&);
};
constexpr Body kBodies[] = {{"suite", run_suite},   {"throw", throw_on_one},        {"kill", kill_one},
                            {"hang", hang_one},     {"mismatch", mismatch},         {"stop", stop_on_request},
                            {"world", print_world}, {"unwind", leave_by_exception}, {"measure", measure}};

int (*body_named(const std::string& name))(Communicator&) {
  for (const Body& body : kBodies)
    if (name == body.name) return body.run;
  return nullptr;
}

/// As launch/ does it: the exception is caught while the session lives.
int run_body(const std::string& name) {
  const std::string mode = std::getenv("CAPSTAN_TEST_MODE");
  MpiOptions options;
  options.shared_memory = mode == "shared";
  if (mode == "small messages") options.message_bytes = 64 << 10;
  options.hang_seconds = name == "hang" ? 2 : 60;
  MpiSession session(options);
  try {
    return body_named(name)(session.world());
  } catch (const Error& e) {
    std::printf("error: %s\n", e.what());
    std::fflush(stdout);
    session.world().abort(e.what(), static_cast<int>(e.code()));
    return static_cast<int>(e.code());
  }
}

// ---- the tests (in the process that the test runner starts)

struct Outcome {
  int code = -1;
  double seconds = 0;
  std::string output;
};

Outcome run_command(const std::string& command) {
  Outcome outcome;
  const auto start = std::chrono::steady_clock::now();
  FILE* pipe = popen((command + " 2>&1 </dev/null").c_str(), "r");
  std::array<char, 4096> buffer;
  while (size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) outcome.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

Outcome run_job(int ranks, const std::string& mode, const std::string& body) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  return run_command(fmt::format(
      "CAPSTAN_TEST_BODY={} CAPSTAN_TEST_MODE='{}' OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
      "timeout -k 5 100 mpirun --oversubscribe -n {} '{}'",
      body, mode, ranks, self));
}

testing::AssertionResult contains(const Outcome& outcome, const std::string& text) {
  if (outcome.output.find(text) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "wanted '" << text << "' in:\n" << outcome.output;
}

using Job = std::tuple<const char*, int>;  // mode, ranks
class MpiSuite : public testing::TestWithParam<Job> {};

TEST_P(MpiSuite, Passes) {
  const auto& [mode, ranks] = GetParam();
  const Outcome outcome = run_job(ranks, mode, "suite");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  const bool shared = std::string(mode) == "shared";
  EXPECT_TRUE(
      contains(outcome, fmt::format("suite passed on {} ranks, {}", ranks, shared ? "mpi (shared memory)" : "mpi\n")));
}

INSTANTIATE_TEST_SUITE_P(Modes, MpiSuite,
                         testing::Values(Job("shared", 1), Job("shared", 2), Job("shared", 3), Job("shared", 4),
                                         Job("messages", 1), Job("messages", 2), Job("messages", 3), Job("messages", 4),
                                         Job("small messages", 3)),
                         [](const auto& test) {
                           std::string mode = std::get<0>(test.param);
                           std::replace(mode.begin(), mode.end(), ' ', '_');
                           return fmt::format("{}_{}", mode, std::get<1>(test.param));
                         });

class MpiJob : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Modes, MpiJob, testing::Values("shared", "messages"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(MpiJob, ARankThatThrowsEndsTheJobWithItsCodeAndMessage) {
  const Outcome outcome = run_job(3, GetParam(), "throw");
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::numerical)) << outcome.output;
  EXPECT_TRUE(contains(outcome, "error: too many steps were skipped"));
  EXPECT_EQ(outcome.output.find("error:"), outcome.output.rfind("error:")) << outcome.output;
  EXPECT_LT(outcome.seconds, 15);
}

TEST_P(MpiJob, AKilledRankEndsTheJobWith137) {
  const Outcome outcome = run_job(3, GetParam(), "kill");
  EXPECT_EQ(outcome.code, 137) << outcome.output;
  EXPECT_LT(outcome.seconds, 15);
}

TEST_P(MpiJob, AnExceptionThatNobodyCatchesEndsTheJob) {
  const Outcome outcome = run_job(2, GetParam(), "unwind");
  EXPECT_NE(outcome.code, 0) << outcome.output;
  EXPECT_LT(outcome.seconds, 15);
}

TEST_P(MpiJob, Usr1ToMpirunStopsAllRanksTogether) {
  const Outcome outcome = run_job(3, GetParam(), "stop");
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::checkpointed)) << outcome.output;
}

TEST(MpiSharedMemory, AHangNamesTheRankThatDidNotCome) {
  const Outcome outcome = run_job(3, "shared", "hang");
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::peer_lost)) << outcome.output;
  EXPECT_TRUE(contains(outcome, "rank 1 is outside, its last was call 1, barrier"));
  EXPECT_LT(outcome.seconds, 15);
}

TEST(MpiSharedMemory, DifferentCallsAreToldApart) {
  const Outcome outcome = run_job(2, "shared", "mismatch");
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::internal)) << outcome.output;
  EXPECT_TRUE(contains(outcome, "all_reduce of 4 x f32 (sum, fast)"));
  EXPECT_TRUE(contains(outcome, "makes barrier"));
}

TEST(MpiSession, WithoutALauncherTheWorldIsOne) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const Outcome outcome = run_command("CAPSTAN_TEST_BODY=world CAPSTAN_TEST_MODE=shared timeout 20 '" + self + "'");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_TRUE(contains(outcome, "rank 0 of 1, self"));
}

TEST(MpiSession, RefusesSrunThatDoesNotIntroduceItsProcesses) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const Outcome outcome =
      run_command("SLURM_STEP_NUM_TASKS=2 CAPSTAN_TEST_BODY=world CAPSTAN_TEST_MODE=shared timeout 20 '" + self + "'");
  EXPECT_TRUE(contains(outcome, "use srun --mpi=pmix"));
}

/// Prints figures, asserts nothing: run with --gtest_also_run_disabled_tests --gtest_filter=*Measure*.
TEST(MpiMeasure, DISABLED_AllReduce) {
  for (const char* mode : {"shared", "messages"})
    for (int ranks : {2, 4}) std::printf("%s", run_job(ranks, mode, "measure").output.c_str());
}

}  // namespace
}  // namespace capstan

int main(int argc, char** argv) {
  if (const char* body = std::getenv("CAPSTAN_TEST_BODY")) {
    try {
      return capstan::run_body(body);
    } catch (const std::exception& e) {
      std::printf("error: %s\n", e.what());
      return 1;
    }
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
