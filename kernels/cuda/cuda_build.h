#pragma once
// What this build has of CUDA and which of CUDA's libraries it finds here: for people (doctor, --version). Loads the
// libraries to ask them; wakes no device.

#include <string>
#include <vector>

namespace capstan::kernels {

struct CudaBuild {
  std::string toolkit;  ///< that it was compiled with, "13.0"; empty: built without CUDA
  struct Library {
    std::string name;     ///< "cuBLASLt"
    std::string version;  ///< of what was loaded; empty: it was not
    std::string why;      ///< it was not, and what to do
    bool needed = false;  ///< by every training on a GPU
  };
  std::vector<Library> libraries;
};

CudaBuild cuda_build();

}  // namespace capstan::kernels
