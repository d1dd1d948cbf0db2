// label: cpu
// Memory of another process is opened by address, and only the right one.
#include "parallel/shared_window_memory.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

namespace capstan {
namespace {

TEST(SharedMemory, IsZeroedAndSeenByAnotherProcess) {
  const SharedMemory mine(100000);
  ASSERT_NE(mine.memory(), nullptr);
  const char* bytes = static_cast<const char*>(mine.memory().get());
  for (size_t i = 0; i < 100000; ++i) ASSERT_EQ(bytes[i], 0);
  const pid_t child = fork();
  if (child == 0) {
    const SharedMemory theirs(mine.address());
    if (!theirs.memory()) _exit(1);
    std::memcpy(static_cast<char*>(theirs.memory().get()) + 99990, "greetings", 10);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_STREQ(bytes + 99990, "greetings");
}

TEST(SharedMemory, OutlivesItsFile) {
  std::shared_ptr<void> kept;
  {
    const SharedMemory memory(5000);
    kept = memory.memory();
  }
  static_cast<char*>(kept.get())[4999] = 1;
}

TEST(SharedMemory, RefusesAnotherFile) {
  const SharedMemory mine(4096);
  SharedMemoryAddress address = mine.address();
  address.token ^= 1;
  EXPECT_EQ(SharedMemory(address).memory(), nullptr) << "a wrong token";
  address = mine.address();
  address.bytes += 4096;
  EXPECT_EQ(SharedMemory(address).memory(), nullptr) << "a wrong size";
  address = mine.address();
  address.file = 9999;
  EXPECT_EQ(SharedMemory(address).memory(), nullptr) << "no such file";
  EXPECT_EQ(SharedMemory(SharedMemoryAddress{}).memory(), nullptr) << "what a leader sends that has none";
}

TEST(SharedMemory, ReportsThatTheSystemRefused) {
  const SharedMemory impossible(size_t{1} << 62);
  EXPECT_EQ(impossible.memory(), nullptr);
  EXPECT_EQ(impossible.address().file, -1);
}

}  // namespace
}  // namespace capstan
