#include "launch/doctor_gpu.h"

#include <fmt/format.h>

#include <utility>

#include "launch/console.h"

namespace capstan {
namespace {

constexpr int kOldest = 8;  ///< compute capability that the kernels are written for

std::string text_of(const GpuReport::Gpu& gpu) {
  return fmt::format("{} (compute capability {}.{}, {})", gpu.name, gpu.major, gpu.minor, bytes_text(gpu.memory_bytes));
}

/// "8 x NVIDIA H100 (...)": like devices are counted, unlike ones named one by one.
std::string devices_text(const std::vector<GpuReport::Gpu>& gpus) {
  std::vector<std::pair<std::string, int>> kinds;
  for (const GpuReport::Gpu& gpu : gpus) {
    const std::string text = text_of(gpu);
    if (kinds.empty() || kinds.back().first != text) kinds.emplace_back(text, 0);
    ++kinds.back().second;
  }
  std::string out;
  for (const auto& [text, count] : kinds) out += fmt::format("{}{} x {}", out.empty() ? "" : ", ", count, text);
  return out;
}

Finding devices(const GpuReport& report, const kernels::CudaBuild& build) {
  if (!report.driver) return good("GPU", "none (no CUDA driver); train.device = \"cpu\" needs none");
  if (report.gpus.empty())
    return doubtful("GPU", "CUDA driver " + report.driver_version + ", but it shows no device",
                    "see nvidia-smi; in a container, pass the GPUs in. The CPU is used meanwhile");
  const std::string found = fmt::format("{}; CUDA driver {}", devices_text(report.gpus), report.driver_version);
  if (build.toolkit.empty())
    return doubtful("GPU", found, "this build has no CUDA and computes on the CPU: build where the CUDA toolkit is");
  for (const GpuReport::Gpu& gpu : report.gpus)
    if (gpu.major < kOldest)
      return doubtful("GPU", found, "compute capability 8.0 (A100) or newer is needed: set train.device = \"cpu\"");
  if (std::stoi("0" + report.driver_version) < std::stoi("0" + build.toolkit))
    return doubtful("GPU", found,
                    fmt::format("this build needs a driver for CUDA {} or newer: update it", build.toolkit));
  return good("GPU", found);
}

/// What is missing is worth a warning only where a GPU would use it.
Finding library(const kernels::CudaBuild::Library& library, size_t gpus) {
  if (!library.version.empty()) return good(library.name, library.version);
  const bool used = gpus > 0 && (library.needed || (library.name == "NCCL" && gpus > 1));
  if (used) return doubtful(library.name, "not found", library.why);
  return good(library.name, gpus > 0 && library.name == "cuDNN" ? "none; attention runs on our own kernels" : "none");
}

}  // namespace

std::vector<Finding> gpu_findings(const GpuReport& report, const kernels::CudaBuild& build) {
  std::vector<Finding> out = {devices(report, build)};
  out.push_back(good("CUDA (build)",
                     build.toolkit.empty() ? "none" : "toolkit " + build.toolkit + ", for sm_80, sm_90 and newer"));
  for (const kernels::CudaBuild::Library& each : build.libraries) out.push_back(library(each, report.gpus.size()));
  out.push_back(good("CUDA toolkit", report.toolkit.empty() ? "none" : report.toolkit));
  return out;
}

}  // namespace capstan
