// label: cpu
// What is said of GPUs by doctor and in the run log, from made-up reports: no GPU is needed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "launch/device_meter.h"
#include "launch/doctor_gpu.h"

namespace capstan {
namespace {

using ::testing::HasSubstr;

kernels::CudaBuild whole_build() {
  return {"13.0",
          {{"cuBLASLt", "13.1.0", "", true}, {"cuDNN", "", "no libcudnn", false}, {"NCCL", "", "no libnccl", false}}};
}
GpuReport h100s(int count) {
  GpuReport report{true, "13.0", {}, ""};
  for (int i = 0; i < count; ++i) report.gpus.push_back({"NVIDIA H100", 9, 0, 80.0 * (1 << 30)});
  return report;
}

const Finding& of(const std::vector<Finding>& findings, const std::string& subject) {
  for (const Finding& finding : findings)
    if (finding.subject == subject) return finding;
  throw std::out_of_range(subject);
}

TEST(DoctorGpu, LikeDevicesAreCounted) {
  GpuReport report = h100s(2);
  report.gpus.push_back({"NVIDIA A100", 8, 0, 40.0 * (1 << 30)});
  const auto findings = gpu_findings(report, whole_build());
  EXPECT_EQ(of(findings, "GPU").verdict, Finding::Verdict::ok);
  EXPECT_THAT(of(findings, "GPU").found, HasSubstr("2 x NVIDIA H100 (compute capability 9.0, "));
  EXPECT_THAT(of(findings, "GPU").found, HasSubstr("1 x NVIDIA A100"));
  EXPECT_THAT(of(findings, "cuBLASLt").found, HasSubstr("13.1.0"));
}

TEST(DoctorGpu, WhatAJobNeedsIsAskedFor) {
  EXPECT_EQ(of(gpu_findings(h100s(2), whole_build()), "NCCL").verdict, Finding::Verdict::warn);
  EXPECT_EQ(of(gpu_findings(h100s(2), whole_build()), "NCCL").advice, "no libnccl");
  EXPECT_EQ(of(gpu_findings(h100s(1), whole_build()), "NCCL").verdict, Finding::Verdict::ok) << "one GPU needs none";
  EXPECT_THAT(of(gpu_findings(h100s(1), whole_build()), "cuDNN").found, HasSubstr("own kernels"));
  kernels::CudaBuild bare = whole_build();
  bare.libraries[0].version.clear(), bare.libraries[0].why = "set LD_LIBRARY_PATH";
  EXPECT_EQ(of(gpu_findings(h100s(1), bare), "cuBLASLt").verdict, Finding::Verdict::warn);
  EXPECT_EQ(of(gpu_findings(GpuReport{}, bare), "cuBLASLt").verdict, Finding::Verdict::ok) << "nothing would use it";
}

TEST(DoctorGpu, WhyAGpuIsNotUsed) {
  EXPECT_EQ(of(gpu_findings(GpuReport{}, whole_build()), "GPU").verdict, Finding::Verdict::ok);
  EXPECT_THAT(of(gpu_findings(h100s(1), {}), "GPU").advice, HasSubstr("no CUDA"));
  EXPECT_THAT(of(gpu_findings(h100s(0), whole_build()), "GPU").advice, HasSubstr("nvidia-smi"));
  GpuReport old_driver = h100s(1);
  old_driver.driver_version = "12.4";
  EXPECT_THAT(of(gpu_findings(old_driver, whole_build()), "GPU").advice, HasSubstr("driver for CUDA 13.0"));
  GpuReport old_device = h100s(1);
  old_device.gpus[0].major = 7;
  EXPECT_THAT(of(gpu_findings(old_device, whole_build()), "GPU").advice, HasSubstr("8.0"));
  EXPECT_NO_THROW(gpu_findings(GpuReport{true, "", {{"odd", 9, 0, 0}}, ""}, whole_build())) << "driver tells nothing";
}

TEST(DeviceMeter, OnceASecondAndOnlyWhatIsTold) {
  int asked = 0;
  DeviceMeter meter([&] {
    ++asked;
    return kernels::DeviceState{5e9, 1410.0, NAN, 390.5, asked == 1 ? "power cap" : ""};
  });
  const DeviceMeter::Clock::time_point start{std::chrono::hours(1)};
  MetricsLine line;
  meter.add_to(line, start);
  EXPECT_EQ(metrics_text(line),
            R"({"gpu_memory_bytes":5000000000,"gpu_clock_mhz":1410,"gpu_watts":390.5,"gpu_throttled":"power cap"})");
  MetricsLine soon;
  meter.add_to(soon, start + std::chrono::milliseconds(999));
  EXPECT_TRUE(soon.empty());
  MetricsLine later;
  meter.add_to(later, start + std::chrono::milliseconds(1000));
  EXPECT_EQ(later.size(), 3u);
  EXPECT_EQ(asked, 2);
  MetricsLine none;
  DeviceMeter().add_to(none, start);
  EXPECT_TRUE(none.empty());
}

GpuReading reading(double memory, double clock, double heat, const std::string& why = "") {
  return reading_of({memory, clock, heat, 300.0, why});
}

TEST(DeviceMeter, AddsTheExtremesOverAllRanks) {
  GpuBoard board;
  DeviceMeter meter([] { return kernels::DeviceState{5e9, 1410.0, 60.0, NAN, ""}; }, &board);
  const DeviceMeter::Clock::time_point start{std::chrono::hours(1)};
  MetricsLine early;
  meter.add_to(early, start);
  EXPECT_EQ(early.size(), 3u) << "nobody has reported yet";
  EXPECT_EQ(board.own().memory_bytes, 5e9);
  EXPECT_EQ(board.own().told, 1u);
  std::vector<GpuReading> of_ranks(9);  // rank 8 says nothing
  for (int rank = 0; rank < 8; ++rank) of_ranks[static_cast<size_t>(rank)] = reading(4e9 + rank, 1400.0 + rank, NAN);
  of_ranks[2] = reading(NAN, 900.0, 91.0, "heat"), of_ranks[3] = reading(1e9, 910.0, 90.0, "heat");
  of_ranks[6] = reading(9e9, 1000.0, 40.0, "power cap");
  board.publish(summary_of(of_ranks));
  MetricsLine line;
  meter.add_to(line, start + std::chrono::seconds(1));
  EXPECT_EQ(metrics_text(line),
            R"({"gpu_memory_bytes":5000000000,"gpu_clock_mhz":1410,"gpu_temperature":60,"gpu_ranks":8,)"
            R"("gpu_memory_bytes_max":9000000000,"gpu_clock_mhz_min":900,"gpu_temperature_max":91,)"
            R"("gpu_throttled_ranks":"heat: 2-3; power cap: 6"})");
  board.publish(summary_of({reading(1, 2, 3)}));
  MetricsLine single;
  meter.add_to(single, start + std::chrono::seconds(2));
  EXPECT_EQ(single.size(), 3u) << "its own are all there are";
}

}  // namespace
}  // namespace capstan
