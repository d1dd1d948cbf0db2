#include "parallel/shared_window_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <string>

namespace capstan {
namespace {

constexpr size_t kTail = 64;  // room for the token

uint64_t random_token() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

SharedMemory::SharedMemory(size_t bytes) {
  file_ = memfd_create("capstan-window", MFD_CLOEXEC);
  if (file_ < 0 || ftruncate(file_, static_cast<off_t>(bytes + kTail)) != 0) return;
  address_ = {getpid(), file_, bytes, random_token()};
  map();
  if (memory_)
    std::memcpy(static_cast<std::byte*>(memory_.get()) + bytes, &address_.token, sizeof address_.token);
  else
    address_.file = -1;
}

SharedMemory::SharedMemory(const SharedMemoryAddress& address) : address_(address) {
  if (address.file < 0) return;
  const std::string path = "/proc/" + std::to_string(address.process) + "/fd/" + std::to_string(address.file);
  file_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
  struct stat status {};
  if (file_ < 0 || fstat(file_, &status) != 0 || static_cast<uint64_t>(status.st_size) != address.bytes + kTail) return;
  map();
  uint64_t token = 0;
  if (memory_) std::memcpy(&token, static_cast<std::byte*>(memory_.get()) + address.bytes, sizeof token);
  if (token != address.token) memory_.reset();
}

SharedMemory::~SharedMemory() {
  if (file_ >= 0) close(file_);
}

void SharedMemory::map() {
  const size_t length = address_.bytes + kTail;
  void* p = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
  if (p != MAP_FAILED) memory_ = {p, [length](void* q) { munmap(q, length); }};
}

}  // namespace capstan
