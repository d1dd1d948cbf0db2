#pragma once
// Runs the part of a verb that talks to the other ranks. The clever thing is what happens when it fails: the message is
// printed while the session still lives and only then is the job ended, since a rank that has gone silent is waited
// for, and a session that an exception destroys takes the job down before anybody has read why. A JointError needs no
// such end: the ranks that are to say it do, and all leave. Rule: one call per process; everything that uses the
// session's communicators is destroyed before `body` returns.

#include <functional>

#include "launch/start_watch.h"
#include "parallel/mpi_session.h"

namespace capstan {

/// Throws ExitRequest with the error's code after a failure of `body`; an ExitRequest of `body` passes through, and
/// then all ranks must throw it.
void run_on_ranks(const MpiOptions& options, const std::function<void(MpiSession&)>& body);
/// For a body with a watch of its own, which tells the one of the start when that is over; else it is over with MPI's.
void run_on_ranks(const MpiOptions& options, const std::function<void(MpiSession&, StartWatch&)>& body);

}  // namespace capstan
