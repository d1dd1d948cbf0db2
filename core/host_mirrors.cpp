#include "core/host_mirrors.h"

namespace capstan {

HostMirrors::~HostMirrors() {
  for (auto& [address, mirror] : mirrors_)
    for (void* host : mirror.host) device_.release_pinned(host);
  if (stage_ != nullptr) device_.release_pinned(stage_);
}

HostMirrors::Mirror& HostMirrors::of(void* device, size_t bytes) {
  Mirror& mirror = mirrors_[{device, bytes}];
  if (mirror.device == nullptr) {
    mirror.device = device, mirror.bytes = bytes;
    for (int i = 0; i < 2; ++i) {
      mirror.host[static_cast<size_t>(i)] = device_.allocate_pinned(bytes);
      mirror.sent[static_cast<size_t>(i)] = device_.make_event();
    }
    bytes_ += 2 * bytes;
  }
  return mirror;
}

void* HostMirrors::write(void* device, size_t bytes) {
  Mirror& mirror = of(device, bytes);
  if (!mirror.written) {
    mirror.now = 1 - mirror.now;
    const kernels::Event before = mirror.sent[static_cast<size_t>(mirror.now)];
    if (!device_.is_past(before)) device_.finish(before);
    mirror.written = true;
    written_.push_back(&mirror);
  }
  return mirror.host[static_cast<size_t>(mirror.now)];
}

const void* HostMirrors::read(void* device, size_t bytes) {
  Mirror& mirror = of(device, bytes);
  void* host = mirror.host[static_cast<size_t>(mirror.now)];
  upload();
  device_.copy_out(host, device, bytes, device_.main_stream());
  device_.record(mirror.sent[static_cast<size_t>(mirror.now)], device_.main_stream());
  device_.finish(mirror.sent[static_cast<size_t>(mirror.now)]);
  return host;
}

void* HostMirrors::stage(size_t bytes) {
  if (bytes > stage_bytes_) {
    if (stage_ != nullptr) device_.release_pinned(std::exchange(stage_, nullptr));
    stage_bytes_ = 0;
    stage_ = device_.allocate_pinned(bytes);
    stage_bytes_ = bytes;
  }
  return stage_;
}

void HostMirrors::upload() {
  for (Mirror* mirror : written_) {
    const size_t now = static_cast<size_t>(mirror->now);
    device_.copy_in(mirror->device, mirror->host[now], mirror->bytes, device_.main_stream());
    device_.record(mirror->sent[now], device_.main_stream());
    mirror->written = false;
  }
  written_.clear();
}

}  // namespace capstan
