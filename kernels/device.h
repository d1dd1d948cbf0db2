#pragma once
// DeviceRuntime: what a device with memory of its own does besides kernels: memory, copies to and from it, streams,
// events, and graphs (a captured sequence of what was queued, replayed by one call). core/ runs plans through this page
// and never sees a vendor's header; a rank that computes on its host has none. One rank owns one device and calls from
// one thread, but for finish(), which any thread may call. Calls throw std::runtime_error with what failed, the
// device's own words and what to do; memory that is not there throws OutOfDeviceMemory.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "kernels/types.h"

namespace capstan::kernels {

/// A point in the work of a stream (cudaEvent_t).
using Event = struct EventTag*;

struct OutOfDeviceMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct DeviceFacts {
  int index = 0;
  std::string name;          ///< "NVIDIA A100-SXM4-80GB"
  int major = 0, minor = 0;  ///< compute capability
  int multiprocessors = 0;
  size_t memory_bytes = 0, free_bytes = 0;
  std::string driver, runtime;  ///< versions: "13.0"
  /// What the device can do at most with dense products of this type, FLOP/s; 0: not known for this device.
  double peak_bf16 = 0.0, peak_tf32 = 0.0, peak_f32 = 0.0;
};

/// What changes while a job runs; NAN where the device does not tell.
struct DeviceState {
  double memory_used_bytes = 0.0;
  double clock_mhz = 0.0, temperature = 0.0, watts = 0.0;
  std::string throttled;  ///< why the clock is held down: "power cap", "heat"; empty: it is not
};

/// What was captured from a stream. Launching queues all of it.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  virtual void launch(Stream stream) = 0;
};

class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;
  virtual DeviceFacts facts() const = 0;
  virtual DeviceState state() const = 0;

  /// Zeroed memory of the device, aligned to 256 bytes; bytes > 0.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  /// Memory of the host, zeroed, which copies reach without a detour.
  virtual void* allocate_pinned(size_t bytes) = 0;
  virtual void release_pinned(void* memory) noexcept = 0;

  /// Copies are queued; the host's side stays as it is until the stream is past them (pinned or not).
  virtual void copy_in(void* device, const void* host, size_t bytes, Stream stream) = 0;
  virtual void copy_out(void* host, const void* device, size_t bytes, Stream stream) = 0;

  /// Queues one write into pinned memory, where the host reads it without waiting.
  virtual void write_number(uint64_t* pinned, uint64_t number, Stream stream) = 0;

  /// The stream of computation, made with the runtime; more are opened and live as long as it.
  virtual Stream main_stream() const = 0;
  virtual Stream open_stream() = 0;
  /// Events live as long as the runtime; one that was never recorded is past.
  virtual Event make_event() = 0;
  virtual void record(Event event, Stream stream) = 0;
  virtual void wait(Stream stream, Event event) = 0;  ///< the stream waits, not the host
  virtual bool is_past(Event event) const = 0;
  virtual void finish(Event event) const = 0;  ///< the host waits
  virtual void finish(Stream stream) const = 0;
  /// Seconds of the device between two recorded events that are past.
  virtual double seconds_between(Event first, Event last) const = 0;

  /// What is queued from here on is kept instead of done, until end_capture.
  virtual void begin_capture(Stream stream) = 0;
  virtual std::unique_ptr<DeviceGraph> end_capture(Stream stream) = 0;
  /// Ends a capture that failed on the way.
  virtual void drop_capture(Stream stream) noexcept = 0;

  /// A named range for profilers; of this thread.
  virtual void push_range(const char* name) = 0;
  virtual void pop_range() = 0;
};

}  // namespace capstan::kernels
