#pragma once
// Arena: one run of memory from the operating system, zeroed, 2 MiB aligned and offered to huge pages. Nothing in it is
// ever given back before the end, so that a step touches no page for the first time twice.

#include <cstddef>

namespace capstan {

class Arena {
 public:
  Arena() = default;
  /// Throws Error(config) with the size asked for when the system refuses it.
  explicit Arena(size_t bytes);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;

  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace capstan
