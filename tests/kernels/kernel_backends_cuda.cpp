// The CUDA backend as the backend under test, on a device or (CAPSTAN_EMULATED_CUDA) over the emulation. Behind each
// entry of the table: the call is given a stream, is captured into a graph, and the graph is launched and waited for;
// so a kernel that allocates, waits or leaves its stream is found by any test. Small things that tests keep on the host
// (keys of dropout) are put into device memory. In the emulation each call runs with another order of blocks and
// threads, and every third as late as its graph allows.

#include <gtest/gtest.h>

#include <iostream>
#include <type_traits>

#include "kernels/cuda/cuda_device.h"
#include "tests/kernels/kernel_backends.h"
#ifdef CAPSTAN_EMULATED_CUDA
#include "emulated_cuda.h"
#endif

namespace capstan::kernels::testing {
namespace {

struct UnderTest {
  std::unique_ptr<DeviceRuntime> device;
  std::string absent;  // why there is none
  Backend table;       // as it is
  Backend wrapped;     // as tests see it
  Stream stream = nullptr;
  uint64_t* dropout_key = nullptr;
  uint64_t* first_sample = nullptr;

  UnderTest();
};

UnderTest& under_test() {
  static UnderTest& one = *new UnderTest;  // never destroyed: the driver may be gone by then
  return one;
}

void change_order() {
#ifdef CAPSTAN_EMULATED_CUDA
  using emulated_cuda::Order;
  static uint64_t turn = 0;
  emulated_cuda::Switches& all = emulated_cuda::switches();
  ++turn;
  all.order = turn % 4 == 0 ? Order::forward : turn % 4 == 1 ? Order::reversed : Order::shuffled;
  all.seed = turn;
  all.late = turn % 3 == 0;
#endif
}

/// Captured, launched, waited for.
template <typename Call>
void replay(const Call& call) {
  UnderTest& u = under_test();
  change_order();
  u.device->finish(u.stream);
  u.device->begin_capture(u.stream);
  std::unique_ptr<DeviceGraph> graph;
  try {
    call();
    graph = u.device->end_capture(u.stream);
  } catch (...) {
    u.device->drop_capture(u.stream);
    throw;
  }
  graph->launch(u.stream);
  u.device->finish(u.stream);
}

void place(const uint64_t*& from, uint64_t* slot) {
  if (from == nullptr) return;
  UnderTest& u = under_test();
  u.device->copy_in(slot, from, sizeof *from, u.stream);
  u.device->finish(u.stream);
  from = slot;
}

/// The call as the device wants it.
template <typename Args>
Args placed(Args args) {
  UnderTest& u = under_test();
  args.stream = u.stream;
  if constexpr (requires { args.dropout.first_sample; }) {
    place(args.dropout.key, u.dropout_key);
    place(args.dropout.first_sample, u.first_sample);
  }
  return args;
}

template <typename Entry>
struct ArgsOf;
template <typename Args>
struct ArgsOf<void (*)(const Args&)> {
  using Type = Args;
};
template <typename Args>
struct ArgsOf<std::function<void(const Args&)>> {
  using Type = Args;
};

template <auto Entry>
void wrap() {
  using Args = typename ArgsOf<std::remove_reference_t<decltype(under_test().table.*Entry)>>::Type;
  UnderTest& u = under_test();
  if (!(u.table.*Entry)) return;  // the test of the table tells
  u.wrapped.*Entry = [](const Args& args) {
    const Args there = placed(args);
    replay([&] { (under_test().table.*Entry)(there); });
  };
}

class ReplayedMatmul final : public PreparedMatmul {
 public:
  explicit ReplayedMatmul(std::unique_ptr<PreparedMatmul> prepared) : prepared_(std::move(prepared)) {}
  size_t scratch_bytes() const override { return prepared_->scratch_bytes(); }
  void run(const MatmulArgs& args, void* scratch) const override {
    const MatmulArgs there = placed(args);
    replay([&] { prepared_->run(there, scratch); });
  }

 private:
  std::unique_ptr<PreparedMatmul> prepared_;
};

template <auto... Entries>
void wrap_all() {
  (wrap<Entries>(), ...);
}

void wrap_table() {
  UnderTest& u = under_test();
  u.wrapped = u.table;
  u.wrapped.prepare_matmul = [](const MatmulShape& shape) -> std::unique_ptr<PreparedMatmul> {
    return std::make_unique<ReplayedMatmul>(under_test().table.prepare_matmul(shape));
  };
  wrap_all<&Backend::bias_gradient, &Backend::activation, &Backend::activation_backward, &Backend::norm,
           &Backend::norm_backward, &Backend::attention, &Backend::attention_backward, &Backend::rotary,
           &Backend::embedding, &Backend::embedding_backward, &Backend::dropout, &Backend::cross_entropy,
           &Backend::cross_entropy_backward, &Backend::cross_entropy_statistics, &Backend::cross_entropy_combine,
           &Backend::copy, &Backend::fill, &Backend::add, &Backend::scale, &Backend::cast, &Backend::not_finite,
           &Backend::cache_append, &Backend::begin_step, &Backend::square_sum, &Backend::clip, &Backend::adamw>();
}

UnderTest::UnderTest() {
  try {
    device = open_cuda_device(0);
  } catch (const std::runtime_error& error) {
    absent = error.what();
    return;
  }
  CudaOptions options;
  options.products.time = false;
#ifdef CAPSTAN_EMULATED_CUDA
  options.products.workspace_bytes = 256 << 10;  // it is filled and read for every product
#endif
  table = cuda_backend(*device, options);
  stream = device->main_stream();
  dropout_key = static_cast<uint64_t*>(device->allocate(2 * sizeof(uint64_t)));
  first_sample = dropout_key + 1;
}

/// Where there is no device every test says that it skipped.
class NeedsDevice final : public ::testing::Environment {
  void SetUp() override {
    if (under_test().device == nullptr) GTEST_SKIP() << "SKIP: " << under_test().absent;
  }
};

const auto* const kNeedsDevice = ::testing::AddGlobalTestEnvironment(new NeedsDevice);

}  // namespace

std::vector<Backend> all_backends() {
  UnderTest& u = under_test();
  if (u.device == nullptr) return {};
  if (u.wrapped.name.empty()) wrap_table();
  return {u.wrapped};
}

DeviceRuntime* device_of(const Backend& backend) {
  UnderTest& u = under_test();
  return u.device != nullptr && backend.name == u.table.name ? u.device.get() : nullptr;
}

}  // namespace capstan::kernels::testing
