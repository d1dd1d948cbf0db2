// Capture and graphs: closures with the edges that events made. A launch runs them as recorded, or (Switches::late)
// in the latest order that the edges allow.

#include <algorithm>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "streams.h"

namespace emulated_cuda {
namespace {

std::mutex captures_mutex;

std::set<Capture*>& captures() {
  static std::set<Capture*>& all = *new std::set<Capture*>;
  return all;
}

thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

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

bool is_capturing(cudaStream_t stream) { return resolve(stream).capture != nullptr; }

cudaError_t spoil(Capture& capture, cudaError_t value) {
  capture.spoilt = true;
  return status(value);
}

void add_node(Stream& stream, Work work, bool of_host) {
  Graph& graph = stream.capture->graph;
  graph.nodes.push_back({std::move(work), stream.tail, of_host});
  stream.tail = {graph.nodes.size() - 1};
}

bool capture_forbids() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return false;
  const std::scoped_lock lock(captures_mutex);
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

}  // namespace emulated_cuda

using namespace emulated_cuda;

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
  const std::scoped_lock lock(captures_mutex);
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
    const std::scoped_lock lock(captures_mutex);
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
