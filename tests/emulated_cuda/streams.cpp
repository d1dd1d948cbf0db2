// Streams, events, capture and graphs. A stream is a queue of closures: run at once, or (Switches::late) only
// when somebody waits for it, so that a missing wait shows. A graph is closures with the edges that events made.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"
#include "emulated_cuda.h"

namespace emulated_cuda {

using Work = std::function<void()>;

struct Node {
  Work work;
  std::set<size_t> after;
  bool of_host = false;  // may not touch device memory
};

struct Graph {
  std::vector<Node> nodes;
};
struct GraphExec {
  std::vector<Node> nodes;
};

struct Capture {
  Graph graph;
  Stream* origin = nullptr;
  std::set<Stream*> members;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread;
  bool spoilt = false;
};

struct Stream {
  std::mutex queue_mutex;
  std::recursive_mutex running;  // one runs it at a time
  std::deque<Work> queue;
  std::thread::id owner = std::this_thread::get_id();
  Capture* capture = nullptr;
  std::set<size_t> tail;  // nodes that the next captured node comes after
};

/// One recording of an event: done when its stream has come past it.
struct Record {
  Stream* stream = nullptr;
  std::atomic<bool> done = false;
  std::chrono::steady_clock::time_point at;
};

struct Event {
  bool timed = true;
  std::shared_ptr<Record> record;
  Capture* capture = nullptr;  // recorded while capturing
  std::set<size_t> nodes;
};

namespace {

std::mutex registry_mutex;

std::set<Stream*>& streams() {
  static std::set<Stream*>& all = *new std::set<Stream*>;
  return all;
}
std::set<Capture*>& captures() {
  static std::set<Capture*>& all = *new std::set<Capture*>;
  return all;
}

thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
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

Stream& resolve(cudaStream_t stream) {
  static thread_local DefaultStream own;
  return stream != nullptr ? *stream : own.stream;
}

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

void push(Stream& stream, Work work) {
  {
    const std::scoped_lock lock(stream.queue_mutex);
    stream.queue.push_back(std::move(work));
  }
  if (!switches().late) run_all(stream);
}

cudaError_t spoil(Capture& capture, cudaError_t value) {
  capture.spoilt = true;
  return status(value);
}

void add_node(Stream& stream, Work work, bool of_host = false) {
  Graph& graph = stream.capture->graph;
  graph.nodes.push_back({std::move(work), stream.tail, of_host});
  stream.tail = {graph.nodes.size() - 1};
}

/// Every node before one of `tail`, those included.
std::set<size_t> history(const Graph& graph, const std::set<size_t>& tail) {
  std::set<size_t> seen = tail;
  std::vector<size_t> open(tail.begin(), tail.end());
  while (!open.empty()) {
    const size_t node = open.back();
    open.pop_back();
    for (const size_t before : graph.nodes[node].after) {
      if (seen.insert(before).second) open.push_back(before);
    }
  }
  return seen;
}

/// As recorded, or (late) always the youngest node that may run. Memory is opened once for
/// all kernels between two functions of the host.
void run_graph(const std::vector<Node>& nodes) {
  std::optional<DeviceAccess> access;
  const auto run = [&](const Node& node) {
    if (node.of_host)
      access.reset();
    else if (!access)
      access.emplace();
    node.work();
  };
  if (!switches().late) {
    for (const Node& node : nodes) run(node);
    return;
  }
  std::vector<bool> done(nodes.size(), false);
  for (size_t count = 0; count < nodes.size(); ++count) {
    for (size_t i = nodes.size(); i-- > 0;) {
      const auto& after = nodes[i].after;
      if (done[i] || !std::all_of(after.begin(), after.end(), [&](size_t n) { return done[n]; })) continue;
      run(nodes[i]);
      done[i] = true;
      break;
    }
  }
}

}  // namespace

bool is_live(cudaStream_t stream) {
  const std::scoped_lock lock(registry_mutex);
  return stream == nullptr || streams().count(stream) > 0;
}

bool is_capturing(cudaStream_t stream) { return resolve(stream).capture != nullptr; }

cudaError_t status(cudaError_t value) {
  if (value != cudaSuccess) last_error = value;
  return value;
}

bool capture_forbids() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return false;
  const std::scoped_lock lock(registry_mutex);
  bool forbids = false;
  for (Capture* capture : captures()) {
    const bool own = capture->thread == std::this_thread::get_id();
    if (capture->mode == cudaStreamCaptureModeRelaxed) continue;
    if (!own && (capture->mode != cudaStreamCaptureModeGlobal || thread_mode != cudaStreamCaptureModeGlobal)) continue;
    capture->spoilt = true;
    forbids = true;
  }
  return forbids;
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

// Capture and graphs.

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  if (handle == nullptr) return status(cudaErrorStreamCaptureUnsupported);
  if (!is_live(handle)) return status(cudaErrorInvalidResourceHandle);
  if (handle->capture != nullptr) return spoil(*handle->capture, cudaErrorStreamCaptureUnsupported);
  auto* capture = new Capture;  // stays: events point to it
  capture->origin = handle;
  capture->members = {handle};
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  handle->capture = capture;
  handle->tail.clear();
  const std::scoped_lock lock(registry_mutex);
  captures().insert(capture);
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  *graph = nullptr;
  if (handle == nullptr || !is_live(handle)) return status(cudaErrorInvalidResourceHandle);
  Capture* capture = handle->capture;
  if (capture == nullptr) return status(cudaErrorInvalidValue);
  if (capture->origin != handle) return spoil(*capture, cudaErrorStreamCaptureUnmatched);
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id()) {
    return spoil(*capture, cudaErrorStreamCaptureWrongThread);
  }
  const std::set<size_t> joined = history(capture->graph, handle->tail);
  bool unjoined = false;
  for (Stream* member : capture->members) {
    for (const size_t node : member->tail) unjoined |= joined.count(node) == 0;
    member->capture = nullptr;
    member->tail.clear();
  }
  {
    const std::scoped_lock lock(registry_mutex);
    captures().erase(capture);
  }
  if (capture->spoilt || unjoined) {
    capture->graph.nodes.clear();
    return status(capture->spoilt ? cudaErrorStreamCaptureInvalidated : cudaErrorStreamCaptureUnjoined);
  }
  *graph = new Graph(std::move(capture->graph));
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* answer) {
  const Capture* capture = resolve(stream).capture;
  *answer = capture == nullptr ? cudaStreamCaptureStatusNone
            : capture->spoilt  ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, thread_mode);
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void*, size_t* count) {
  *count = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  if (graph == nullptr) return status(cudaErrorInvalidValue);
  *executable = new GraphExec{graph->nodes};
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (executable == nullptr || !is_live(stream)) return status(cudaErrorInvalidResourceHandle);
  Stream& s = resolve(stream);
  if (s.capture != nullptr) return spoil(*s.capture, cudaErrorStreamCaptureUnsupported);
  push(s, [nodes = executable->nodes] { run_graph(nodes); });
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
