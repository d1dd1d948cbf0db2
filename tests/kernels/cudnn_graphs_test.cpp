// label: cpu, links: capstan_cuda
// cuDNN takes our attention graphs for devices that are only described to it: no GPU is needed, libcudnn is. Without a
// driver it goes as far as compiling the kernels it chose, so pattern, strides and sizes are its own; with one the
// graphs are built. Skips where libcudnn, its headers or the toolkit are not there.
#include <gtest/gtest.h>

#include "kernels/cuda/attention_graphs.h"
#include "kernels/cuda/graph_attention.h"

namespace capstan::kernels::testing {
namespace {

struct Described {
  const char* name;
  int capability, multiprocessors, shared_bytes;
};
constexpr Described kA100{"NVIDIA A100-SXM4-80GB", 80, 108, 166912}, kH100{"NVIDIA H100 80GB HBM3", 90, 132, 232448};

/// The properties as cuDNN writes them.
std::string json_of(const Described& d) {
  const auto field = [](const char* name, const std::string& value) {
    return "\"" + std::string(name) + "\":" + value;
  };
  std::string text = "{" + field("deviceName", "\"" + std::string(d.name) + "\"");
  text += "," + field("deviceVer", std::to_string(10 * d.capability));
  text += "," + field("multiProcessorCount", std::to_string(d.multiprocessors));
  text += "," + field("maxSharedMemoryPerBlockOptin", std::to_string(d.shared_bytes));
  for (const auto& [name, value] :
       std::initializer_list<std::pair<const char*, const char*>>{{"maxGridSize", "[2147483647,65535,65535]"},
                                                                  {"maxBlockSize", "[1024,1024,64]"},
                                                                  {"regsPerBlock", "65536"},
                                                                  {"warpSize", "32"},
                                                                  {"maxSharedMemoryPerBlock", "49152"},
                                                                  {"reservedSharedMemoryPerBlock", "1024"},
                                                                  {"maxRegistersPerSM", "65536"},
                                                                  {"maxCtasPerSM", "32"},
                                                                  {"maxThreadsPerBlock", "1024"},
                                                                  {"maxThreadsPerSM", "2048"},
                                                                  {"pciDeviceId", "0"},
                                                                  {"isTccDriver", "0"},
                                                                  {"supportCoopLaunch", "1"},
                                                                  {"smClockRateKHz", "1410000"},
                                                                  {"memClockRateKHz", "1593000"},
                                                                  {"l2CacheSize", "41943040"},
                                                                  {"driverVer", "13000"},
                                                                  {"cudaDeviceId", "0"},
                                                                  {"totalGlobalMem", "85000000000"},
                                                                  {"cudnnVersion", "91900"}})
    text += "," + field(name, value);
  return text + "}";
}

struct Setting {
  const char* name;
  int64_t batch, tokens, heads, kv_heads, head_size, window = 0;
  bool causal = true;
  DType dtype = DType::bf16;
  bool fused = false;  ///< q, k and v side by side in one row
};

AttentionShape shape_of(const Setting& s) {
  AttentionShape shape;
  shape.batch = s.batch, shape.queries = shape.keys = s.tokens;
  shape.heads = s.heads, shape.kv_heads = s.kv_heads, shape.head_size = s.head_size;
  shape.q_stride = shape.o_stride = s.heads * s.head_size, shape.kv_stride = s.kv_heads * s.head_size;
  if (s.fused) shape.q_stride = shape.kv_stride = (s.heads + 2 * s.kv_heads) * s.head_size;
  shape.window = s.window, shape.causal = s.causal, shape.dtype = s.dtype, shape.scale = 0.125;
  return shape;
}

constexpr Setting kSettings[] = {
    {"gpt2", 4, 1024, 12, 12, 64},
    {"grouped", 1, 4096, 32, 8, 128},
    {"window", 2, 2048, 16, 16, 128, 512},
    {"both_ways", 2, 512, 12, 12, 64, 0, false},
    {"both_ways_window", 2, 1024, 12, 12, 64, 128, false},
    {"f16", 2, 512, 8, 8, 64, 0, true, DType::f16},
    {"odd_length", 3, 1000, 12, 4, 80},
    {"fused_rows", 2, 1024, 12, 12, 64, 0, true, DType::bf16, true},
};

bool lacks_driver_only(const std::string& refusal) {
  return refusal.find("RUNTIME_PREREQUISITE_MISSING") != std::string::npos;
}

class CudnnGraphs : public ::testing::TestWithParam<Described> {};

TEST_P(CudnnGraphs, AreBuiltForWhatWeSayTheyCover) {
  std::string why;
  const auto graphs = cuda::describe_cudnn_graphs(json_of(GetParam()), GetParam().capability, why);
  if (!graphs) GTEST_SKIP() << why;
  DeviceFacts facts;
  facts.major = GetParam().capability / 10;
  for (const Setting& setting : kSettings) {
    const AttentionShape s = shape_of(setting);
    ASSERT_TRUE(cuda::graphs_cover(s, facts)) << setting.name;
    const auto forward = graphs->forward(s);
    EXPECT_TRUE(forward || lacks_driver_only(graphs->refusal())) << setting.name << ": " << graphs->refusal();
    const auto backward = graphs->backward(s);
    EXPECT_TRUE(backward || lacks_driver_only(graphs->refusal())) << setting.name << ": " << graphs->refusal();
    if (!backward) continue;
    // Deterministic: no sum of many blocks by atomics, so the weights' gradients are kept, in 16 bits.
    EXPECT_GE(backward->workspace_bytes(), static_cast<size_t>(s.batch * s.heads * s.queries * s.keys) * 2)
        << setting.name;
  }
}

TEST_P(CudnnGraphs, ARefusalIsNotTakenForAMissingDriver) {
  std::string why;
  const auto graphs = cuda::describe_cudnn_graphs(json_of(GetParam()), GetParam().capability, why);
  if (!graphs) GTEST_SKIP() << why;
  AttentionShape s = shape_of(kSettings[0]);
  s.head_size = 60;  // 120 bytes
  EXPECT_EQ(graphs->forward(s), nullptr);
  EXPECT_FALSE(lacks_driver_only(graphs->refusal())) << graphs->refusal();
}

INSTANTIATE_TEST_SUITE_P(Devices, CudnnGraphs, ::testing::Values(kA100, kH100),
                         [](const auto& test) { return "sm_" + std::to_string(test.param.capability); });

TEST(CudnnGraphsOfNoDevice, ADescriptionThatIsNoneIsRefusedInWords) {
  std::string why;
  EXPECT_EQ(cuda::describe_cudnn_graphs("{}", 90, why), nullptr);
  EXPECT_FALSE(why.empty());
}

}  // namespace
}  // namespace capstan::kernels::testing
