#pragma once
// The versions of the libraries that are really loaded, and what a processor offers. HDF5 and the GPU's libraries are
// found by name at run time, so that the answer is about this machine and not about the one that built the program.

#include <string>
#include <utility>
#include <vector>

namespace capstan {

std::string compiler_text();
std::string instruction_set_text();  ///< "avx512 with bf16", "avx512", "avx2", "older than avx2"
std::string onednn_text();           ///< "2.6.3, runs avx512_core_bf16"
std::string hdf5_text();             ///< "1.10.8"; empty: not loaded

struct GpuReport {
  struct Gpu {
    std::string name;
    int major = 0, minor = 0;  ///< compute capability
    double memory_bytes = 0;
  };
  bool driver = false;
  std::string driver_version;  ///< of CUDA, as "12.2"
  std::vector<Gpu> gpus;
  std::string toolkit;  ///< where it is; empty: none
};
GpuReport gpu_report();

/// Name and version, for --version.
std::vector<std::pair<std::string, std::string>> library_versions();

}  // namespace capstan
