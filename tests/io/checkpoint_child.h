#pragma once
// A save in a process of its own, with failpoints armed: the test program starts itself again, because a process reads
// CAPSTAN_FAIL only once. The child saves step 20 by two ranks (threads), cut flat, keep 2.

#include <sys/wait.h>

#include <csignal>

#include "tests/io/checkpoint_testing.h"

namespace capstan::testing {

/// The child's main: saves, leaves with the Error's code.
inline int save_as_child(const fs::path& root) {
  int code = 0;
  for (const std::exception_ptr& error : run_ranks(2, [&](CheckpointGroup& group) {
         const SaveResult result = save_state(root, 20, Cut::flat, group, 2);
         if (group.rank() == 0)
           for (const std::string& warning : result.warnings) fprintf(stderr, "warning: %s\n", warning.c_str());
       })) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const Error& caught) {
      fprintf(stderr, "%s\n", caught.what());
      code = static_cast<int>(caught.code());
    }
  }
  return code;
}

/// Starts the child; its output goes to `output`.
inline pid_t start_child(const fs::path& root, const std::string& fail, const fs::path& output) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  setenv("CAPSTAN_TEST_ROOT", root.c_str(), 1);
  setenv("CAPSTAN_FAIL", fail.c_str(), 1);
  if (!freopen(output.c_str(), "w", stdout) || !freopen(output.c_str(), "w", stderr)) _exit(126);
  execl("/proc/self/exe", "child", nullptr);
  _exit(127);
}

inline int finish_child(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return status;
}

/// main() of a test program that starts itself as the child.
inline int run_tests_or_child(int argc, char** argv) {
  if (const char* root = std::getenv("CAPSTAN_TEST_ROOT")) return save_as_child(root);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace capstan::testing
