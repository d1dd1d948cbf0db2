#include "cluster/scaling/parallel_for.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace capstan::scaling {

void parallel_for(size_t count, int threads, const std::function<void(size_t)>& piece, const Progress& progress) {
  std::atomic<size_t> next{0}, done{0};
  std::mutex guard;
  std::exception_ptr failure;
  const auto work = [&] {
    try {
      for (size_t i = next++; i < count; i = next++) {
        piece(i);
        const size_t finished = ++done;
        if (!progress) continue;
        const std::lock_guard<std::mutex> lock(guard);
        progress(finished, count);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!failure) failure = std::current_exception();
      next = count;
    }
  };
  size_t wanted = threads > 0 ? static_cast<size_t>(threads) : std::max(1u, std::thread::hardware_concurrency());
  wanted = std::max<size_t>(1, std::min(wanted, count));
  std::vector<std::thread> others;
  for (size_t i = 1; i < wanted; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace capstan::scaling
