#pragma once
// The kernels of a backend for hosts as kernels of a device of threads (tests/support/thread_device.h): each call is
// put into the stream it names, with its arguments as they were.

#include "kernels/backend.h"
#include "tests/support/thread_device.h"

namespace capstan::testing {

inline const kernels::Backend& kernels_behind_streams() {
  static const kernels::Backend backend = kernels::cpu_backend();
  return backend;
}

template <typename Args, void (*kernels::Backend::*Kernel)(const Args&)>
void queued(const Args& args) {
  enqueue(args.stream, [args] { (kernels_behind_streams().*Kernel)(args); });
}

class QueuedMatmul final : public kernels::PreparedMatmul {
 public:
  explicit QueuedMatmul(std::shared_ptr<kernels::PreparedMatmul> inner) : inner_(std::move(inner)) {}
  size_t scratch_bytes() const override { return inner_->scratch_bytes(); }
  void run(const kernels::MatmulArgs& args, void* scratch) const override {
    enqueue(args.stream, [inner = inner_, args, scratch] { inner->run(args, scratch); });
  }

 private:
  std::shared_ptr<kernels::PreparedMatmul> inner_;
};

inline kernels::Backend queued_backend() {
  using namespace kernels;
  Backend b = kernels_behind_streams();
  b.prepare_matmul = [](const MatmulShape& shape) -> std::unique_ptr<PreparedMatmul> {
    return std::make_unique<QueuedMatmul>(kernels_behind_streams().prepare_matmul(shape));
  };
  b.attention = [](const AttentionArgs& args) {
    enqueue(args.stream, [args] { kernels_behind_streams().attention(args); });
  };
  b.attention_backward = [](const AttentionBackwardArgs& args) {
    enqueue(args.stream, [args] { kernels_behind_streams().attention_backward(args); });
  };
  b.bias_gradient = queued<BiasGradientArgs, &Backend::bias_gradient>;
  b.activation = queued<ActivationArgs, &Backend::activation>;
  b.activation_backward = queued<ActivationBackwardArgs, &Backend::activation_backward>;
  b.norm = queued<NormArgs, &Backend::norm>;
  b.norm_backward = queued<NormBackwardArgs, &Backend::norm_backward>;
  b.rotary = queued<RotaryArgs, &Backend::rotary>;
  b.embedding = queued<EmbeddingArgs, &Backend::embedding>;
  b.embedding_backward = queued<EmbeddingBackwardArgs, &Backend::embedding_backward>;
  b.dropout = queued<DropoutArgs, &Backend::dropout>;
  b.cross_entropy = queued<CrossEntropyArgs, &Backend::cross_entropy>;
  b.cross_entropy_backward = queued<CrossEntropyBackwardArgs, &Backend::cross_entropy_backward>;
  b.cross_entropy_statistics = queued<CrossEntropyStatisticsArgs, &Backend::cross_entropy_statistics>;
  b.cross_entropy_combine = queued<CrossEntropyCombineArgs, &Backend::cross_entropy_combine>;
  b.copy = queued<CopyArgs, &Backend::copy>;
  b.fill = queued<FillArgs, &Backend::fill>;
  b.add = queued<AddArgs, &Backend::add>;
  b.scale = queued<ScaleArgs, &Backend::scale>;
  b.cast = queued<CastArgs, &Backend::cast>;
  b.not_finite = queued<NotFiniteArgs, &Backend::not_finite>;
  b.cache_append = queued<CacheAppendArgs, &Backend::cache_append>;
  b.begin_step = queued<BeginStepArgs, &Backend::begin_step>;
  b.square_sum = queued<SquareSumArgs, &Backend::square_sum>;
  b.clip = queued<ClipArgs, &Backend::clip>;
  b.adamw = queued<AdamWArgs, &Backend::adamw>;
  return b;
}

}  // namespace capstan::testing
