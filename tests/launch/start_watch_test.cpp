// label: plan
// Who a process is to its launcher, from environments as launchers and batch systems make them.
#include "launch/start_watch.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace capstan {
namespace {

class LaunchedAsTest : public testing::Test {
 protected:
  void SetUp() override { clear(); }
  void TearDown() override { clear(); }

  static void clear() {
    for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE",
                             "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
                             "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID", "SLURM_JOB_ID"})
      unsetenv(name);
  }
};

TEST_F(LaunchedAsTest, ALauncherTellsRankAndSize) {
  EXPECT_EQ(launched_as().rank, -1);
  setenv("OMPI_COMM_WORLD_RANK", "2", 1);
  setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
  setenv("SLURM_PROCID", "0", 1);
  EXPECT_EQ(launched_as().rank, 2);
  EXPECT_EQ(launched_as().ranks, 4);
}

TEST_F(LaunchedAsTest, AScriptOfABatchSystemIsNoRank) {
  setenv("SLURM_PROCID", "0", 1);
  setenv("SLURM_JOB_ID", "77", 1);
  EXPECT_EQ(launched_as().rank, -1);
  setenv("SLURM_STEP_NUM_TASKS", "1", 1);
  EXPECT_FALSE(launched_as().waits_for_others());
  setenv("SLURM_STEP_NUM_TASKS", "2", 1);
  EXPECT_EQ(launched_as().rank, 0);
  EXPECT_TRUE(launched_as().waits_for_others());
}

TEST_F(LaunchedAsTest, ALauncherThatTellsNoSizeMayHaveStartedOthers) {
  setenv("PMIX_RANK", "1", 1);
  EXPECT_EQ(launched_as().rank, 1);
  EXPECT_TRUE(launched_as().waits_for_others());
}

}  // namespace
}  // namespace capstan
