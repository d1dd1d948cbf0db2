#pragma once
// Attention by a library's graphs (cuDNN) for what they cover, by what the table holds already, our own kernels, else.
//   covered: bf16 and f16; all queries against all keys, causal or not, with or without window; grouped heads; head
//   sizes that are multiples of 8 up to 128 (256 on Hopper); operands on 16-byte boundaries
//   own: documents, prefix and key lengths, ALiBi, tables, relative terms, dropout (its numbers are keyed by logical
//   element), blocks of longer sequences, merging, accumulating, f32, keys that are not the queries' own
// Only deterministic graphs are taken. cuDNN's backward then keeps a matrix of queries x keys per head in its
// workspace: where that passes a limit, one graph for some of the samples or heads runs several times, one after the
// other, in one workspace. Graphs are built when scratch is asked for, which is when an op is
// bound, and kept by shape; a call finds its graph, allocates nothing on the device and may be captured. libcudnn is
// loaded when the table is made: a machine without it runs on the own kernels.

#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/cuda/attention_graphs.h"
#include "kernels/device.h"

namespace capstan::kernels::cuda {

struct AttentionOptions {
  bool cudnn = true;           ///< false: the own kernels for all
  size_t workspace_limit = 0;  ///< of a graph; 0: a thirty-second of the device's memory
};

/// Puts cuDNN before the attention of `table`, whose four functions must be there. The text says which version runs, or
/// why the own kernels do.
std::string add_cudnn_attention(Backend& table, const DeviceFacts& device, const AttentionOptions& options = {});

/// The same with graphs of any maker.
void add_attention_graphs(Backend& table, std::shared_ptr<AttentionGraphs> graphs, const DeviceFacts& device,
                          const AttentionOptions& options = {});

/// Whether a call of this shape, apart from the mask's operands and dropout, is one for graphs on this device.
bool graphs_cover(const AttentionShape& shape, const DeviceFacts& device);

}  // namespace capstan::kernels::cuda
