#pragma once
// The little of HDF5 that everything here goes through. HDF5 is often built without thread safety, so every call
// into it is made while a Hdf5Session lives: a session holds the library's one lock, and the first one makes the
// library quiet (no error stack on stderr), deaf to plug-ins, and keeps it from flushing broken files at exit, which
// crashes after a full disk. Rule: no HDF5 id outlives the sessions that use it unlocked; a class that keeps ids opens
// a session in its destructor too. Only the .cpp files of corpus shards include this header.

#include <hdf5.h>

#include <mutex>
#include <string>
#include <utility>

namespace capstan {

class Hdf5Session {
 public:
  Hdf5Session();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

/// Owner of one HDF5 id. close() checks; the destructor closes what was not closed and says nothing.
class Hdf5Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  Hdf5Handle() = default;
  Hdf5Handle(hid_t id, Closer closer) : id_(id), closer_(closer) {}
  ~Hdf5Handle() { release(); }
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), closer_(other.closer_) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    if (this != &other) {
      release();
      id_ = std::exchange(other.id_, -1);
      closer_ = other.closer_;
    }
    return *this;
  }
  hid_t get() const { return id_; }
  bool valid() const { return id_ >= 0; }
  /// False when the library reports a failure.
  bool close() { return id_ < 0 || closer_(std::exchange(id_, -1)) >= 0; }

 private:
  void release() { static_cast<void>(close()); }
  hid_t id_ = -1;
  Closer closer_ = nullptr;
};

/// Innermost message of the library's error stack, for our own messages; "" when there is none.
std::string hdf5_reason();

}  // namespace capstan
