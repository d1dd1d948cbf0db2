#include "io/corpus/stream_requests.h"

#include <algorithm>
#include <chrono>

namespace capstan {

StreamRequests::StreamRequests(size_t limit, const std::function<void()>& start,
                               std::function<void(StreamRequest&)> read)
    : limit_(std::max<size_t>(limit, 1)), read_(std::move(read)) {
  thread_ = std::thread([this, &start] { run(start); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return started_; });
  if (!start_error_) return;
  lock.unlock();
  thread_.join();
  std::rethrow_exception(start_error_);
}

StreamRequests::~StreamRequests() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void StreamRequests::prefetch(uint64_t first, int64_t count, bool hint) {
  std::lock_guard lock(mutex_);
  if (hint) hinted_ = true;
  if (!hint && hinted_) return;
  if (find(first, count)) return;
  if (StreamRequest* request = vacant(false)) queue(*request, first, count);
}

StreamRequest& StreamRequests::claim(uint64_t first, int64_t count) {
  std::unique_lock lock(mutex_);
  StreamRequest* request = find(first, count);
  if (!request) {
    request = vacant(true);
    if (!request) request = requests_.emplace_back(std::make_unique<StreamRequest>()).get();
    queue(*request, first, count);
  }
  request->claimed = true;
  if (request->state != StreamRequest::State::ready) {
    const auto begin = std::chrono::steady_clock::now();
    changed_.wait(lock, [&] { return request->state == StreamRequest::State::ready; });
    waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  return *request;
}

void StreamRequests::release(StreamRequest& request) {
  std::lock_guard lock(mutex_);
  request.state = StreamRequest::State::free;
  request.claimed = false;
  request.error = nullptr;
}

double StreamRequests::waited() const {
  std::lock_guard lock(mutex_);
  return waited_;
}

StreamRequest* StreamRequests::find(uint64_t first, int64_t count) {
  for (const auto& request : requests_)
    if (request->state != StreamRequest::State::free && !request->claimed && request->first == first &&
        request->count == count)
      return request.get();
  return nullptr;
}

/// A free request, a new one while there are few, or (for who must have one) the oldest that was read in vain.
StreamRequest* StreamRequests::vacant(bool must) {
  StreamRequest* oldest = nullptr;
  for (const auto& request : requests_) {
    if (request->state == StreamRequest::State::free) return request.get();
    if (request->state == StreamRequest::State::ready && !request->claimed &&
        (!oldest || request->order < oldest->order))
      oldest = request.get();
  }
  if (requests_.size() < limit_) return requests_.emplace_back(std::make_unique<StreamRequest>()).get();
  return must ? oldest : nullptr;
}

void StreamRequests::queue(StreamRequest& request, uint64_t first, int64_t count) {
  request.first = first;
  request.count = count;
  request.order = next_order_++;
  request.error = nullptr;
  request.state = StreamRequest::State::queued;
  changed_.notify_all();
}

StreamRequest* StreamRequests::next_queued() {
  StreamRequest* best = nullptr;
  for (const auto& request : requests_)
    if (request->state == StreamRequest::State::queued &&
        (!best || std::pair(!request->claimed, request->order) < std::pair(!best->claimed, best->order)))
      best = request.get();
  return best;
}

void StreamRequests::run(const std::function<void()>& start) {
  std::exception_ptr error;
  try {
    start();
  } catch (...) {
    error = std::current_exception();
  }
  std::unique_lock lock(mutex_);
  start_error_ = error;
  started_ = true;
  changed_.notify_all();
  while (!error) {
    StreamRequest* request = nullptr;
    changed_.wait(lock, [&] { return stop_ || (request = next_queued()); });
    if (stop_) return;
    request->state = StreamRequest::State::reading;
    lock.unlock();
    try {
      read_(*request);
    } catch (...) {
      request->error = std::current_exception();
    }
    lock.lock();
    request->state = StreamRequest::State::ready;
    changed_.notify_all();
  }
}

}  // namespace capstan
