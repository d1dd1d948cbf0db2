#pragma once
// Memory shared by processes of one node: an anonymous file (memfd) of the leader, which the others open through
// /proc/<pid>/fd. It has no name in a file system, so a killed job leaves nothing behind, and the size of /dev/shm
// (64 MiB in many containers) does not bound it. Where a peer's /proc is not visible, attaching fails and the caller
// must use another transport.

#include <cstddef>
#include <cstdint>
#include <memory>

namespace capstan {

/// Where the leader's memory is; sent to the others as plain bytes.
struct SharedMemoryAddress {
  int64_t process = -1;
  int64_t file = -1;   ///< the leader's descriptor; -1: the leader could not make it
  uint64_t bytes = 0;  ///< of use to the caller
  uint64_t token = 0;  ///< stands behind the caller's bytes: proves that the right file was opened
};

class SharedMemory {
 public:
  /// The leader's side. Null memory() and file -1 when the system refuses.
  explicit SharedMemory(size_t bytes);
  /// The others' side. Null memory() when the file cannot be opened or is another.
  explicit SharedMemory(const SharedMemoryAddress& address);
  ~SharedMemory();  ///< closes the file; the memory lives as long as memory() is held
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  const std::shared_ptr<void>& memory() const { return memory_; }  ///< zeroed at first
  const SharedMemoryAddress& address() const { return address_; }

 private:
  void map();

  SharedMemoryAddress address_;
  int file_ = -1;
  std::shared_ptr<void> memory_;
};

}  // namespace capstan
