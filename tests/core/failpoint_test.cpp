// label: plan
// Failpoints: each case is a child process with its own CAPSTAN_FAIL, since the table is read once from the
// environment.

#include "core/failpoint.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <string>

#include "core/error.h"

namespace capstan {
namespace {

/// Exit status of a child that runs `body` under the setting, as waitpid gives it.
int in_child(const char* setting, const std::function<int()>& body, const char* rank = nullptr) {
  const pid_t child = fork();
  if (child == 0) {
    unsetenv("CAPSTAN_FAIL"), unsetenv("CAPSTAN_RANK"), unsetenv("OMPI_COMM_WORLD_RANK");
    if (setting) setenv("CAPSTAN_FAIL", setting, 1);
    if (rank) setenv("CAPSTAN_RANK", rank, 1);
    int code = 99;
    try {
      code = body();
    } catch (const Error& error) {
      code = static_cast<int>(error.code());
    }
    _exit(code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

int code_in_child(const char* setting, const std::function<int()>& body, const char* rank = nullptr) {
  const int status = in_child(setting, body, rank);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/// Which of ten hits of `name` fired, as a number; 0: none.
int first_hit(const char* name) {
  for (int i = 1; i <= 10; ++i)
    if (failpoint(name)) return i;
  return 0;
}

TEST(Failpoint, IsOffByDefault) {
  EXPECT_EQ(code_in_child(nullptr, [] { return first_hit("save"); }), 0);
  EXPECT_EQ(code_in_child("", [] { return first_hit("save"); }), 0);
}

TEST(Failpoint, FiresAtTheHitThatWasAskedFor) {
  for (int k : {1, 3, 10})
    EXPECT_EQ(code_in_child(fmt::format("save:{}:nan", k).c_str(), [] { return first_hit("save"); }), k);
  EXPECT_EQ(code_in_child("save:11:nan", [] { return first_hit("save"); }), 0);
  EXPECT_EQ(code_in_child("save:2:enospc", [] { return first_hit("save"); }), 2);
}

TEST(Failpoint, FiresOnceAndOnlyUnderItsName) {
  EXPECT_EQ(code_in_child("save:2:nan",
                          [] {
                            int fired = 0;
                            for (int i = 0; i < 10; ++i)
                              fired += failpoint("save"), fired += 10 * failpoint("load"),
                                  fired += 10 * failpoint("sav");
                            return fired;
                          }),
            1);
}

TEST(Failpoint, SeveralCountApart) {
  EXPECT_EQ(code_in_child("save:3:nan,load:5:nan", [] { return 16 * first_hit("save") + first_hit("load"); }),
            16 * 3 + 5);
}

TEST(Failpoint, KeepsToItsRank) {
  const auto hit = [] { return first_hit("save"); };
  EXPECT_EQ(code_in_child("save:2:nan@1", hit, "1"), 2);
  EXPECT_EQ(code_in_child("save:2:nan@1", hit, "0"), 0);
  EXPECT_EQ(code_in_child("save:2:nan@1", hit, "11"), 0);
  EXPECT_EQ(code_in_child("save:2:nan@0", hit), 2) << "a process without ranks is rank 0";
  EXPECT_EQ(code_in_child("save:2:nan@0,save:4:nan@3", hit, "3"), 4);
}

TEST(Failpoint, ActionsDoWhatTheirNamesSay) {
  const auto hit = [] { return first_hit("save"); };
  EXPECT_EQ(code_in_child("save:1:kill", hit), -SIGKILL);
  EXPECT_EQ(code_in_child("save:1:term", hit), -SIGTERM);
  EXPECT_EQ(code_in_child("save:1:usr1", hit), -SIGUSR1);
  EXPECT_EQ(code_in_child("save:1:exit", hit), 1);
  EXPECT_EQ(code_in_child("save:1:throw", hit), static_cast<int>(ExitCode::io_error));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(code_in_child("save:1:sleep", hit), 0);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(900));
}

TEST(Failpoint, RefusesASettingItCannotRead) {
  for (const char* setting : {"save", "save:1", "save;1;nan"})
    EXPECT_EQ(code_in_child(setting, [] { return first_hit("save"); }), static_cast<int>(ExitCode::usage)) << setting;
}

}  // namespace
}  // namespace capstan
