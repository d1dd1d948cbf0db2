// Streams and events. Work of a stream is run at once, or (Switches::late) only when somebody waits for it, so that a
// missing wait shows.

#include <memory>
#include <utility>
#include <vector>

#include "streams.h"

namespace emulated_cuda {
namespace {

std::mutex registry_mutex;

std::set<Stream*>& streams() {
  static std::set<Stream*>& all = *new std::set<Stream*>;
  return all;
}

thread_local cudaError_t last_error = cudaSuccess;

/// The default stream, one for each OS thread.
struct DefaultStream {
  Stream stream;
  DefaultStream() {
    const std::scoped_lock lock(registry_mutex);
    streams().insert(&stream);
  }
  ~DefaultStream() {
    const std::scoped_lock lock(registry_mutex);
    streams().erase(&stream);
  }
};

bool run_one(Stream& stream) {
  const std::scoped_lock running(stream.running);
  Work work;
  {
    const std::scoped_lock lock(stream.queue_mutex);
    if (stream.queue.empty()) return false;
    work = std::move(stream.queue.front());
    stream.queue.pop_front();
  }
  work();
  return true;
}

void run_all(Stream& stream) {
  while (run_one(stream)) {
  }
}

void run_until(Record& record) {
  while (!record.done && run_one(*record.stream)) {
  }
}

}  // namespace

Stream& resolve(cudaStream_t stream) {
  static thread_local DefaultStream own;
  return stream != nullptr ? *stream : own.stream;
}

void push(Stream& stream, Work work) {
  {
    const std::scoped_lock lock(stream.queue_mutex);
    stream.queue.push_back(std::move(work));
  }
  if (!switches().late) run_all(stream);
}

bool is_live(cudaStream_t stream) {
  const std::scoped_lock lock(registry_mutex);
  return stream == nullptr || streams().count(stream) > 0;
}

cudaError_t status(cudaError_t value) {
  if (value != cudaSuccess) last_error = value;
  return value;
}

cudaError_t enqueue(cudaStream_t handle, Work work) {
  if (!is_live(handle)) return cudaErrorInvalidResourceHandle;
  Stream& stream = resolve(handle);
  const Work guarded = [work = std::move(work)] {
    const DeviceAccess access;
    work();
  };
  if (handle == nullptr && capture_forbids()) return cudaErrorStreamCaptureImplicit;
  if (stream.capture == nullptr) {
    push(stream, guarded);
  } else if (stream.capture->spoilt) {
    return cudaErrorStreamCaptureInvalidated;
  } else {
    add_node(stream, guarded);
  }
  return cudaSuccess;
}

}  // namespace emulated_cuda

using namespace emulated_cuda;

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new Stream;
  const std::scoped_lock lock(registry_mutex);
  streams().insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr || !is_live(stream)) return status(cudaErrorInvalidResourceHandle);
  run_all(*stream);
  const std::scoped_lock lock(registry_mutex);
  streams().erase(stream);
  return cudaSuccess;  // the object stays: records of events point to it
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  if (!is_live(handle)) return status(cudaErrorInvalidResourceHandle);
  Stream& stream = resolve(handle);
  if (stream.capture != nullptr) return spoil(*stream.capture, cudaErrorStreamCaptureUnsupported);
  if (handle == nullptr && capture_forbids()) return status(cudaErrorStreamCaptureUnsupported);
  run_all(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  if (!is_live(handle)) return status(cudaErrorInvalidResourceHandle);
  Stream& stream = resolve(handle);
  if (stream.capture != nullptr) return spoil(*stream.capture, cudaErrorStreamCaptureUnsupported);
  return run_one(stream) ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  if (capture_forbids()) return status(cudaErrorStreamCaptureUnsupported);
  resolve(nullptr);
  std::vector<Stream*> own;
  {
    const std::scoped_lock lock(registry_mutex);
    for (Stream* stream : streams()) {
      if (stream->owner == std::this_thread::get_id() && stream->capture == nullptr) own.push_back(stream);
    }
  }
  for (Stream* stream : own) run_all(*stream);
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  if (!is_live(stream)) return status(cudaErrorInvalidResourceHandle);
  Stream& s = resolve(stream);
  if (s.capture != nullptr) {
    if (s.capture->spoilt) return status(cudaErrorStreamCaptureInvalidated);
    add_node(
        s, [=] { function(data); }, true);
  } else {
    push(s, [=] { function(data); });
  }
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new Event;
  (*event)->timed = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  if (event == nullptr || !is_live(handle)) return status(cudaErrorInvalidResourceHandle);
  Stream& stream = resolve(handle);
  if (stream.capture != nullptr) {
    if (stream.capture->spoilt) return status(cudaErrorStreamCaptureInvalidated);
    event->capture = stream.capture;
    event->nodes = stream.tail;
    event->record.reset();
    return cudaSuccess;
  }
  const auto record = std::make_shared<Record>();
  record->stream = &stream;
  event->record = record;
  event->capture = nullptr;
  push(stream, [record] {
    record->at = std::chrono::steady_clock::now();
    record->done = true;
  });
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  if (event == nullptr || !is_live(handle)) return status(cudaErrorInvalidResourceHandle);
  Stream& stream = resolve(handle);
  if (event->capture != nullptr) {
    if (stream.capture == nullptr) {
      stream.capture = event->capture;
      stream.capture->members.insert(&stream);
      stream.tail = event->nodes;
    } else if (stream.capture != event->capture) {
      return spoil(*stream.capture, cudaErrorStreamCaptureMerge);
    } else {
      stream.tail.insert(event->nodes.begin(), event->nodes.end());
    }
    return cudaSuccess;
  }
  if (event->record == nullptr) return cudaSuccess;  // never recorded: nothing to wait for
  if (stream.capture != nullptr) return spoil(*stream.capture, cudaErrorStreamCaptureIsolation);
  push(stream, [record = event->record] { run_until(*record); });
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event == nullptr) return status(cudaErrorInvalidResourceHandle);
  if (event->capture != nullptr) return spoil(*event->capture, cudaErrorCapturedEvent);
  if (event->record == nullptr || event->record->done) return cudaSuccess;
  run_one(*event->record->stream);  // who asks again and again comes to an end
  return cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return status(cudaErrorInvalidResourceHandle);
  if (event->capture != nullptr) return spoil(*event->capture, cudaErrorCapturedEvent);
  const std::shared_ptr<Record> record = event->record;
  if (record != nullptr) run_until(*record);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  for (const cudaEvent_t event : {start, end}) {
    if (event == nullptr || !event->timed || event->record == nullptr) return status(cudaErrorInvalidResourceHandle);
    if (!event->record->done) return status(cudaErrorNotReady);
  }
  *milliseconds = std::chrono::duration<float, std::milli>(end->record->at - start->record->at).count();
  return cudaSuccess;
}
