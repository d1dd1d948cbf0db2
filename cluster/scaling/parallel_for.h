#pragma once
// Independent pieces of work over all cores. Pieces are taken in turn; the first exception is rethrown to the caller.

#include <cstddef>
#include <functional>

namespace capstan::scaling {

/// Called now and then from one thread at a time with (pieces done, pieces in all).
using Progress = std::function<void(size_t, size_t)>;

/// threads <= 0: as many as the machine has.
void parallel_for(size_t count, int threads, const std::function<void(size_t)>& piece, const Progress& progress = {});

}  // namespace capstan::scaling
