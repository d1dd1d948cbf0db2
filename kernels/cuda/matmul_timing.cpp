#include "kernels/cuda/matmul_timing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace capstan::kernels::cuda {
namespace {

constexpr size_t kBeyondCache = size_t{192} << 20;  // the largest cache is 60 MiB in 2025's H200, 126 MiB in B200
constexpr size_t kMostSets = 8;
constexpr int kRounds = 3;
constexpr double kSecondsOfRound = 2e-3;
constexpr double kHopeless = 1.25;  // slower than the best by this after one round: not timed again

size_t apart(size_t bytes) { return (bytes + 255) / 256 * 256; }

/// One allocation that holds `sets` sets of operands and one scratch, filled.
class Operands {
 public:
  Operands(DeviceRuntime& device, const ProductMemory& m) : device_(device), memory_(m) {
    sets_ = std::clamp<size_t>(kBeyondCache / std::max<size_t>(m.operands(), 1), 1, kMostSets);
    try {
      take();
    } catch (const OutOfDeviceMemory&) {
      sets_ = 1;
      take();
    }
    fill();
  }
  ~Operands() { device_.release(base_); }
  Operands(const Operands&) = delete;
  Operands& operator=(const Operands&) = delete;

  MatmulArgs set(size_t i) const {
    char* at = base_ + i % sets_ * set_bytes();
    MatmulArgs args;
    args.a = at, args.b = at += apart(memory_.a), args.c = at += apart(memory_.b);
    at += apart(memory_.c);
    args.bias = memory_.bias > 0 ? at : nullptr;
    at += apart(memory_.bias);
    args.aux = memory_.aux > 0 ? at : nullptr;
    at += apart(memory_.aux);
    args.bias_gradient = memory_.bias_gradient > 0 ? at : nullptr;
    args.stream = device_.main_stream();
    return args;
  }
  void* scratch() const { return base_ + sets_ * set_bytes(); }

 private:
  size_t set_bytes() const {
    return apart(memory_.a) + apart(memory_.b) + apart(memory_.c) + apart(memory_.bias) + apart(memory_.aux) +
           apart(memory_.bias_gradient);
  }
  void take() {
    bytes_ = sets_ * set_bytes() + apart(memory_.scratch);
    base_ = static_cast<char*>(device_.allocate(bytes_));
  }

  /// Small numbers of either sign in every type: exponents below 1, other bits at random.
  void fill() {
    std::vector<uint16_t> pattern(size_t{1} << 20);
    uint32_t state = 0x9e3779b9u;
    for (uint16_t& word : pattern) {
      state = state * 1664525u + 1013904223u;
      word = static_cast<uint16_t>((state >> 16 & 0x83ffu) | 0x3800u);  // 2^-15 in bf16, 0.5 to 1 in f16, 3e-5 in f32
    }
    const size_t whole = sets_ * set_bytes(), piece = pattern.size() * sizeof(uint16_t);
    for (size_t at = 0; at < whole; at += piece)
      device_.copy_in(base_ + at, pattern.data(), std::min(piece, whole - at), device_.main_stream());
    device_.finish(device_.main_stream());
  }

  DeviceRuntime& device_;
  ProductMemory memory_;
  size_t sets_ = 1, bytes_ = 0;
  char* base_ = nullptr;
};

}  // namespace

ProductMemory product_memory(const MatmulShape& s, size_t scratch_bytes) {
  const auto bytes = [](int64_t rows, int64_t columns, DType t) {
    return static_cast<size_t>(rows) * static_cast<size_t>(columns) * bytes_of(t);
  };
  const bool aux = s.keeps_input || s.activation_gradient != ActivationKind::none;
  return {bytes(s.m, s.k, s.a), bytes(s.k, s.n, s.b),           s.bias ? bytes(1, s.n, s.a) : 0,
          bytes(s.m, s.n, s.c), aux ? bytes(s.m, s.n, s.c) : 0, s.bias_gradient ? bytes(1, s.m, DType::f32) : 0,
          scratch_bytes};
}

ProductTiming time_products(DeviceRuntime& device, const ProductMemory& memory, size_t ways,
                            const std::function<bool(size_t, const MatmulArgs&, void*)>& run) {
  std::unique_ptr<Operands> operands;
  try {
    operands = std::make_unique<Operands>(device, memory);
  } catch (const OutOfDeviceMemory&) {
    return {};
  }
  const Event first = device.make_event(), last = device.make_event();
  size_t turn = 0;
  /// Seconds a run; negative when it cannot run.
  const auto seconds = [&](size_t way, int runs) {
    device.record(first, device.main_stream());
    for (int i = 0; i < runs; ++i)
      if (!run(way, operands->set(turn++), operands->scratch())) return -1.0;
    device.record(last, device.main_stream());
    device.finish(last);
    return device.seconds_between(first, last) / runs;
  };
  ProductTiming best{ways, 0.0};
  for (size_t way = 0; way < ways; ++way) {
    const double cold = seconds(way, 1);  // loads the kernel
    if (cold < 0) continue;
    const double warm = seconds(way, 2);
    const int runs = static_cast<int>(std::clamp(kSecondsOfRound / std::max(warm, 1e-7), 3.0, 50.0));
    double least = seconds(way, runs);
    const bool hopeless = best.index < ways && least > kHopeless * best.seconds;
    for (int round = 1; round < kRounds && !hopeless; ++round) least = std::min(least, seconds(way, runs));
    if (best.index == ways || least < best.seconds) best = {way, least};
  }
  if (best.index == ways) throw std::runtime_error("no algorithm that cuBLASLt offered for a product could run");
  return best;
}

}  // namespace capstan::kernels::cuda
