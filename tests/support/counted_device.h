#pragma once
// A device that counts how often its host waits for it.

#include "kernels/device.h"

namespace capstan::testing {

class CountedDevice final : public kernels::DeviceRuntime {
 public:
  explicit CountedDevice(kernels::DeviceRuntime& inner) : inner_(inner) {}
  size_t waits() const { return waits_; }

  kernels::DeviceFacts facts() const override { return inner_.facts(); }
  kernels::DeviceState state() const override { return inner_.state(); }
  void* allocate(size_t bytes) override { return inner_.allocate(bytes); }
  void release(void* memory) noexcept override { inner_.release(memory); }
  void* allocate_pinned(size_t bytes) override { return inner_.allocate_pinned(bytes); }
  void release_pinned(void* memory) noexcept override { inner_.release_pinned(memory); }
  void copy_in(void* device, const void* host, size_t bytes, kernels::Stream stream) override {
    inner_.copy_in(device, host, bytes, stream);
  }
  void copy_out(void* host, const void* device, size_t bytes, kernels::Stream stream) override {
    inner_.copy_out(host, device, bytes, stream);
  }
  void write_number(uint64_t* pinned, uint64_t number, kernels::Stream stream) override {
    inner_.write_number(pinned, number, stream);
  }
  kernels::Stream main_stream() const override { return inner_.main_stream(); }
  kernels::Stream open_stream() override { return inner_.open_stream(); }
  kernels::Event make_event() override { return inner_.make_event(); }
  void record(kernels::Event event, kernels::Stream stream) override { inner_.record(event, stream); }
  void wait(kernels::Stream stream, kernels::Event event) override { inner_.wait(stream, event); }
  bool is_past(kernels::Event event) const override { return inner_.is_past(event); }
  void finish(kernels::Event event) const override {
    ++waits_;
    inner_.finish(event);
  }
  void finish(kernels::Stream stream) const override {
    ++waits_;
    inner_.finish(stream);
  }
  double seconds_between(kernels::Event first, kernels::Event last) const override {
    return inner_.seconds_between(first, last);
  }
  void begin_capture(kernels::Stream stream) override { inner_.begin_capture(stream); }
  std::unique_ptr<kernels::DeviceGraph> end_capture(kernels::Stream stream) override {
    return inner_.end_capture(stream);
  }
  void drop_capture(kernels::Stream stream) noexcept override { inner_.drop_capture(stream); }
  void push_range(const char* name) override { inner_.push_range(name); }
  void pop_range() override { inner_.pop_range(); }

 private:
  kernels::DeviceRuntime& inner_;
  mutable size_t waits_ = 0;
};

}  // namespace capstan::testing
