#include "core/host_mirrors.h"

#include "core/error.h"

namespace capstan {

HostMirrors::~HostMirrors() {
  for (auto& [address, mirror] : mirrors_)
    for (void* host : mirror.host) device_.release_pinned(host);
}

HostMirrors::Mirror& HostMirrors::of(void* device, size_t bytes) {
  Mirror& mirror = mirrors_[device];
  if (mirror.device == nullptr) {
    mirror.device = device, mirror.bytes = bytes;
    for (int i = 0; i < 2; ++i) {
      mirror.host[static_cast<size_t>(i)] = device_.allocate_pinned(bytes);
      mirror.sent[static_cast<size_t>(i)] = device_.make_event();
    }
    bytes_ += 2 * bytes;
  }
  CAPSTAN_CHECK(mirror.bytes == bytes, "a tensor of {} bytes is seen as one of {}", mirror.bytes, bytes);
  return mirror;
}

void* HostMirrors::write(void* device, size_t bytes) {
  Mirror& mirror = of(device, bytes);
  if (!mirror.written) {
    mirror.now = 1 - mirror.now;
    device_.finish(mirror.sent[static_cast<size_t>(mirror.now)]);
    mirror.written = true;
    written_.push_back(&mirror);
    if (written_.capacity() < mirrors_.size()) written_.reserve(2 * mirrors_.size());
  }
  return mirror.host[static_cast<size_t>(mirror.now)];
}

const void* HostMirrors::read(void* device, size_t bytes) {
  Mirror& mirror = of(device, bytes);
  void* host = mirror.host[static_cast<size_t>(mirror.now)];
  if (mirror.written) return host;
  // On the main stream it is behind the upload of this very buffer.
  device_.copy_out(host, device, bytes, device_.main_stream());
  device_.record(mirror.sent[static_cast<size_t>(mirror.now)], device_.main_stream());
  device_.finish(mirror.sent[static_cast<size_t>(mirror.now)]);
  return host;
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
