#include "kernels/cuda/attention_graphs.h"

namespace capstan::kernels::cuda {

std::unique_ptr<AttentionGraphs> open_cudnn_graphs(std::string& why) {
  why = "built without cuDNN and its frontend";
  return nullptr;
}

std::unique_ptr<AttentionGraphs> describe_cudnn_graphs(const std::string&, int, std::string& why) {
  return open_cudnn_graphs(why);
}

}  // namespace capstan::kernels::cuda
