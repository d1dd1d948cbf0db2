#pragma once
// What streams, events, captures and graphs of the emulation are made of: inside the emulation only. A stream is a
// queue of closures; while it is captured they become nodes of a graph, with the edges that events made. A stream
// that was created, and a capture, are never freed: events point to them.

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
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

/// The default stream of this OS thread for null.
Stream& resolve(cudaStream_t stream);

/// Puts work at the end of a stream that is not captured.
void push(Stream& stream, Work work);

/// Puts a node at the end of a stream that is captured.
void add_node(Stream& stream, Work work, bool of_host = false);

/// What was asked ends the capture, and is refused.
cudaError_t spoil(Capture& capture, cudaError_t value);

}  // namespace emulated_cuda
