#include "io/hdf5_handle.h"

#include <algorithm>
#include <string_view>

namespace capstan {
namespace {

std::recursive_mutex& library_lock() {
  static std::recursive_mutex mutex;  // guards the state of a library that is itself process-wide
  return mutex;
}

bool prepare_library() {
  H5dont_atexit();
  H5open();
  H5PLset_loading_state(0);
  return true;
}

herr_t keep_innermost(unsigned, const H5E_error2_t* error, void* out) {
  if (error->desc) *static_cast<std::string*>(out) = error->desc;
  return 0;
}

}  // namespace

Hdf5Session::Hdf5Session() : lock_(library_lock()) {
  static const bool prepared = prepare_library();
  static_cast<void>(prepared);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // every time: builds with thread safety keep this per thread
}

std::string hdf5_reason() {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_innermost, &reason);
  // A failed system call is told at length, over several lines; what strerror said is the part that helps.
  constexpr std::string_view kMark = "error message = '";
  if (const size_t at = reason.find(kMark); at != std::string::npos) {
    reason.erase(0, at + kMark.size());
    reason.resize(std::min(reason.find('\''), reason.size()));
  }
  std::replace(reason.begin(), reason.end(), '\n', ' ');
  return reason;
}

}  // namespace capstan
