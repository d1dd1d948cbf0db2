#pragma once
// Named failpoints: places where a test makes the program fail as a disk, a peer or a signal would.
//   CAPSTAN_FAIL=name:k:action[,name:k:action...]
// fires at the k-th hit (counted from 1) of that name in this process; an optional @rank after the action limits it to
// one rank (OMPI_COMM_WORLD_RANK or CAPSTAN_RANK). Actions: kill (SIGKILL), exit, throw (Error io_error), enospc,
// term, usr1 (signals to itself), stop (SIGSTOP), nan (failpoint() returns true: the caller spoils its number),
// sleep (1 s). Off, failpoint() costs one predictable branch. The table is read once from the environment: it is the
// one piece of process-wide state in the project, and it is never written after that.

#include <string_view>

namespace capstan {

namespace detail {
bool failpoints_enabled();
bool failpoint_hit(std::string_view name);
}  // namespace detail

/// True when an armed failpoint of action `nan` or `enospc` fired here; other actions do not return normally.
inline bool failpoint(std::string_view name) {
  return __builtin_expect(detail::failpoints_enabled(), false) && detail::failpoint_hit(name);
}

}  // namespace capstan
