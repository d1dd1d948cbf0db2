// Copies and fills, queued as work of a stream.

#include <cstring>
#include <memory>
#include <vector>

#include "cuda_runtime_api.h"
#include "emulated_cuda.h"

using namespace emulated_cuda;

namespace {

bool direction_is_true(Where to, Where from, cudaMemcpyKind kind) {
  const bool to_device = to == Where::device, from_device = from == Where::device;
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
      return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return to_device && from_device;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

struct Rows {
  char* to;
  size_t to_pitch;
  const char* from;
  size_t from_pitch, width, height;

  void run() const {
    for (size_t row = 0; row < height; ++row) std::memcpy(to + row * to_pitch, from + row * from_pitch, width);
  }
  size_t to_bytes() const { return height == 0 ? 0 : (height - 1) * to_pitch + width; }
  size_t from_bytes() const { return height == 0 ? 0 : (height - 1) * from_pitch + width; }
};

/// Host memory that is not pinned is staged, as CUDA does: what is read is read before the call returns, and what is
/// written has been written then.
cudaError_t copy_rows(const Rows& rows, cudaMemcpyKind kind, cudaStream_t stream) {
  if (rows.width == 0 || rows.height == 0) return cudaSuccess;
  if (rows.height > 1 && (rows.to_pitch < rows.width || rows.from_pitch < rows.width)) {
    return status(cudaErrorInvalidValue);
  }
  const Where to = where_is(rows.to, rows.to_bytes()), from = where_is(rows.from, rows.from_bytes());
  if (!direction_is_true(to, from, kind)) return status(cudaErrorInvalidValue);
  if (!is_live(stream)) return status(cudaErrorInvalidResourceHandle);
  const bool capturing = is_capturing(stream);
  if (from == Where::host && !capturing) {
    const auto staged = std::make_shared<std::vector<char>>(rows.from, rows.from + rows.from_bytes());
    Rows late = rows;
    late.from = staged->data();
    if (const cudaError_t wrong = enqueue(stream, [late, staged] { late.run(); }); wrong != cudaSuccess) {
      return status(wrong);
    }
  } else if (const cudaError_t wrong = enqueue(stream, [rows] { rows.run(); }); wrong != cudaSuccess) {
    return status(wrong);
  }
  if (to == Where::host && !capturing) return cudaStreamSynchronize(stream);
  return cudaSuccess;
}

/// The default stream waits for all others of this thread.
cudaError_t wait_for_all() { return cudaDeviceSynchronize(); }

}  // namespace

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy_rows({static_cast<char*>(to), bytes, static_cast<const char*>(from), bytes, bytes, 1}, kind, stream);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy_rows({static_cast<char*>(to), to_pitch, static_cast<const char*>(from), from_pitch, width, height}, kind,
                   stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (capture_forbids()) return status(cudaErrorStreamCaptureImplicit);
  if (const cudaError_t wrong = wait_for_all(); wrong != cudaSuccess) return wrong;
  if (const cudaError_t wrong = cudaMemcpyAsync(to, from, bytes, kind, nullptr); wrong != cudaSuccess) return wrong;
  return cudaStreamSynchronize(nullptr);
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  if (capture_forbids()) return status(cudaErrorStreamCaptureImplicit);
  if (const cudaError_t wrong = wait_for_all(); wrong != cudaSuccess) return wrong;
  const cudaError_t wrong = cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
  return wrong != cudaSuccess ? wrong : cudaStreamSynchronize(nullptr);
}
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
  if (width == 0 || height == 0) return cudaSuccess;
  if (where_is(to, (height - 1) * pitch + width) == Where::host) return status(cudaErrorInvalidValue);
  return status(enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row) std::memset(static_cast<char*>(to) + row * pitch, value, width);
  }));
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return cudaMemset2DAsync(to, bytes, value, bytes, 1, stream);
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (capture_forbids()) return status(cudaErrorStreamCaptureImplicit);
  if (const cudaError_t wrong = wait_for_all(); wrong != cudaSuccess) return wrong;
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
