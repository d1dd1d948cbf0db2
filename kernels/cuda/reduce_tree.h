#pragma once
// The sum over ranks of kernels/reduce_tree.h on a CUDA device: one pass over the inputs.

#include "kernels/reduce_tree.h"

namespace capstan::kernels::cuda {

/// Throws std::invalid_argument for a dtype that cannot be summed or more ranks than the tree is deep.
void reduce_tree(const ReduceTreeArgs& args);

}  // namespace capstan::kernels::cuda
