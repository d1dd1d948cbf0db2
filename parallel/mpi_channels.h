#pragma once
// Paths over MPI calls: a message is copied into a buffer of the path and sent without waiting (MPI_Isend, a tag for
// each path); the buffer is waited for when the ring comes round to it.

#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <memory>
#include <vector>

#include "core/communicator.h"
#include "parallel/communicator_count.h"
#include "parallel/mpi_session.h"

namespace capstan {

/// The communicator must stay as long as the paths. Of the options: message_bytes and turn.
std::unique_ptr<Channels> mpi_channels(MPI_Comm group, int first_tag, const std::vector<ChannelSpec>& paths,
                                       int capacity, const MpiOptions& options, CommunicationCounter& counter);

}  // namespace capstan
