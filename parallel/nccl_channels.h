#pragma once
// Paths between stages over NCCL. A path has a group of its two ranks, a stream and a ring of slots on either side. The
// sender copies a message into a slot on the stream of computation, the path's stream sends it; the receiver's path
// stream receives into a slot as soon as that is free, computation waits for it and copies it out. The host waits
// nowhere and runs ahead of the device, so a message is asked for long before it is needed. Streams wait for each other
// by events alone: no path holds up another, nor computation but where the ring is full or empty.
// What moves from call to call is the slot, so these calls cannot be part of a captured graph.

#include <memory>
#include <vector>

#include "parallel/communicator_count.h"
#include "parallel/nccl_state.h"

namespace capstan {

/// Collective over the group of `parent`, which stays as long as the paths.
std::unique_ptr<Channels> nccl_channels(NcclHandle& parent, kernels::Stream stream,
                                        const std::vector<ChannelSpec>& paths, int capacity,
                                        CommunicationCounter& counter);

}  // namespace capstan
