#include "parallel/rank_threads.h"

#include <omp.h>

#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"
#include "parallel/thread_communicator.h"

namespace capstan {
namespace {

/// The failure that came first; what the other ranks throw because of it comes later.
class FirstFailure {
 public:
  void add(std::exception_ptr failure) {
    std::lock_guard lock(mutex_);
    if (!first_) first_ = std::move(failure);
  }
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr first_;
};

void run_rank(Communicator& group, const std::function<void(Communicator&)>& body, const RankThreadOptions& options,
              FirstFailure& first) {
  const auto failed = [&](const std::string& why) {
    first.add(std::current_exception());  // before the others can throw because of it
    group.abort(why, static_cast<int>(ExitCode::peer_lost));
  };
  try {
    if (options.omp_threads > 0) omp_set_num_threads(options.omp_threads);
    body(group);
  } catch (const std::exception& e) {
    failed(e.what());
  } catch (...) {
    failed("an exception that is not a std::exception");
  }
}

}  // namespace

void run_rank_threads(int ranks, const std::function<void(Communicator&)>& body, RankThreadOptions options) {
  CAPSTAN_CHECK(ranks >= 1, "a job of {} ranks", ranks);
  WaitPolicy policy{fewer_cores_than(ranks), options.hang_seconds, std::make_shared<GroupFault>()};
  auto groups = thread_communicators(ranks, policy);
  FirstFailure first;
  {
    std::vector<std::jthread> threads;
    for (auto& group : groups) threads.emplace_back([&] { run_rank(*group, body, options, first); });
  }
  first.rethrow();
}

}  // namespace capstan
