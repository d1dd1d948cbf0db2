#pragma once
// How a thread beside the run ends a job whose communicating thread may be stuck for ever: it says why, past every
// stream and lock, and leaves; the launcher, which then has to end the other ranks, is looked after. Rule: launch/
// only.

#include <string_view>

namespace capstan {

/// To the error output, whole, without a stream: that may be locked by a thread that is stuck.
void say_past_locks(std::string_view text);

/// Open MPI's launcher when this process is its child, else 0. Asked early: the launcher may be gone later.
int launcher_of_this_process();

/// Ends this process with the code of a lost peer, and a launcher (0: none) that does not end by itself ten seconds
/// later.
[[noreturn]] void leave_job(int launcher);

}  // namespace capstan
