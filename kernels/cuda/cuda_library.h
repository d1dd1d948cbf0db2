#pragma once
// One of CUDA's libraries, loaded by name when it is first called, so that the program starts on machines without it:
// libcublasLt (loaded/), libcudnn (cudnn/) and libnccl (parallel/loaded/) are never linked. A file for each defines the
// functions that are called, hidden, and passes them on; who calls them sees the vendor's header and nothing else.
// Rule: a library stays loaded until the process ends, since graphs may hold its kernels.

#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace capstan::kernels::cuda {

class CudaLibrary {
 public:
  /// Asks the loader (LD_LIBRARY_PATH, the bundle's lib/, ldconfig's list) and then where toolkits are installed.
  explicit CudaLibrary(std::string name) : name_(std::move(name)) {
    std::string first_failure;
    const char* home = std::getenv("CUDA_HOME");
    for (const std::string& place :
         {std::string(), home ? std::string(home) + "/lib64/" : std::string(), std::string("/usr/local/cuda/lib64/")}) {
      library_ = ::dlopen((place + name_).c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library_ != nullptr) return;
      const char* error = ::dlerror();
      if (first_failure.empty()) first_failure = error ? error : "not found";
    }
    why_ = name_ + " could not be loaded (" + first_failure +
           "): set LD_LIBRARY_PATH to the folder that holds it, or unpack the bundle's CUDA libraries beside it";
  }
  CudaLibrary(const CudaLibrary&) = delete;
  CudaLibrary& operator=(const CudaLibrary&) = delete;

  bool loaded() const { return library_ != nullptr; }
  /// Empty when it is loaded.
  const std::string& why() const { return why_; }
  /// Null when the library is not there, or is too old for it.
  template <typename Function>
  Function* find(const char* function) const {
    return library_ ? reinterpret_cast<Function*>(::dlsym(library_, function)) : nullptr;
  }
  /// Throws std::runtime_error instead.
  template <typename Function>
  Function* need(const char* function) const {
    if (library_ == nullptr) throw std::runtime_error(why_);
    if (auto* found = find<Function>(function)) return found;
    throw std::runtime_error(name_ + " is older than this build needs: it has no " + function);
  }

 private:
  std::string name_, why_;
  void* library_ = nullptr;
};

}  // namespace capstan::kernels::cuda

/// Defines a function of the library that `library()` returns. Hidden, so that no library's own calls are caught.
#define CAPSTAN_LOADED(library, result, name, parameters, arguments)        \
  extern "C" __attribute__((visibility("hidden"))) result name parameters { \
    static auto* const loaded = library().need<decltype(::name)>(#name);    \
    return loaded arguments;                                                \
  }
