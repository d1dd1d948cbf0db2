#pragma once
// What a library that runs attention as prepared graphs offers: a graph for one shape, forward or backward, with plain
// mask (causal, window) and nothing else. kernels/cuda/cudnn/ makes them by cuDNN, absent/ there makes none.

#include <memory>
#include <string>

#include "kernels/attention.h"

namespace capstan::kernels::cuda {

class AttentionGraph {
 public:
  virtual ~AttentionGraph() = default;
  virtual size_t workspace_bytes() const = 0;
};

class ForwardGraph : public AttentionGraph {
 public:
  /// args.logsumexp is there; workspace on a boundary of 256 bytes.
  virtual void run(const AttentionArgs& args, void* workspace) const = 0;
};

class BackwardGraph : public AttentionGraph {
 public:
  virtual void run(const AttentionBackwardArgs& args, void* workspace) const = 0;
};

/// Graphs may outlive this. One thread.
class AttentionGraphs {
 public:
  virtual ~AttentionGraphs() = default;
  virtual std::string version() const = 0;
  /// Null when the library has no deterministic way for this shape on this device.
  virtual std::unique_ptr<ForwardGraph> forward(const AttentionShape& shape) = 0;
  virtual std::unique_ptr<BackwardGraph> backward(const AttentionShape& shape) = 0;
  /// The library's own words for the last null.
  virtual std::string refusal() const = 0;
};

/// By cuDNN on the current device; null, and the reason in `why`, where that cannot be.
std::unique_ptr<AttentionGraphs> open_cudnn_graphs(std::string& why);

/// For a device that is only described, by cuDNN's JSON of its properties: graphs can be built, not run. What a
/// cluster's devices will take, and how much workspace, is known on a machine without one.
std::unique_ptr<AttentionGraphs> describe_cudnn_graphs(const std::string& device, int capability, std::string& why);

}  // namespace capstan::kernels::cuda
