#pragma once
// StreamRequests: the desk between whoever wants samples and the one thread that reads them. Requests are recycled, so
// that nothing large is allocated once a run is under way. What somebody waits for comes before what somebody may want.

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "io/corpus/objective.h"

namespace capstan {

struct StreamRequest {
  enum class State { free, queued, reading, ready };
  State state = State::free;
  bool claimed = false;  ///< a fill() waits for it
  uint64_t first = 0;
  int64_t count = 0;
  uint64_t order = 0;
  std::vector<uint32_t> tokens;  // (count, window)
  std::vector<uint8_t> marks;    // (count, window)
  std::vector<SampleKey> keys;   // (count)
  std::exception_ptr error;
};

class StreamRequests {
 public:
  /// The thread runs `start` once, whose error the constructor throws, and then `read` for one request at a time.
  StreamRequests(size_t limit, const std::function<void()>& start, std::function<void(StreamRequest&)> read);
  ~StreamRequests();

  /// Without a hint it is a guess, and guesses end with the first hint.
  void prefetch(uint64_t first, int64_t count, bool hint);
  /// Waits for the request's tokens; the caller gives it back with release().
  StreamRequest& claim(uint64_t first, int64_t count);
  void release(StreamRequest& request);
  double waited() const;

 private:
  StreamRequest* find(uint64_t first, int64_t count);
  StreamRequest* vacant(bool must);
  void queue(StreamRequest& request, uint64_t first, int64_t count);
  StreamRequest* next_queued();
  void run(const std::function<void()>& start);

  const size_t limit_;
  const std::function<void(StreamRequest&)> read_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<StreamRequest>> requests_;
  uint64_t next_order_ = 0;
  bool hinted_ = false, started_ = false, stop_ = false;
  std::exception_ptr start_error_;
  double waited_ = 0;
  std::thread thread_;
};

}  // namespace capstan
