#include "launch/doctor_libraries.h"

#include <dlfcn.h>
#include <dnnl.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "parallel/mpi_session.h"

namespace capstan {

namespace {

/// A function of a loaded library, or null.
template <typename Function>
Function* function_of(void* library, const char* name) {
  return library ? reinterpret_cast<Function*>(dlsym(library, name)) : nullptr;
}

std::string onednn_isa() {
  switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_sse41:
      return "sse41";
    case dnnl_cpu_isa_avx:
      return "avx";
    case dnnl_cpu_isa_avx2:
      return "avx2";
    case dnnl_cpu_isa_avx2_vnni:
      return "avx2_vnni";
    case dnnl_cpu_isa_avx512_core:
      return "avx512_core";
    case dnnl_cpu_isa_avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl_cpu_isa_avx512_core_bf16:
      return "avx512_core_bf16";
    case dnnl_cpu_isa_avx512_core_amx:
      return "avx512_core_amx";
    default:
      return fmt::format("instruction set {:#x}", static_cast<unsigned>(dnnl_get_effective_cpu_isa()));
  }
}

/// The devices that the driver shows, by the driver's own interface: no toolkit is needed to ask.
void ask_driver(GpuReport& report) {
  void* cuda = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  auto* init = function_of<int(unsigned)>(cuda, "cuInit");
  auto* version = function_of<int(int*)>(cuda, "cuDriverGetVersion");
  auto* count = function_of<int(int*)>(cuda, "cuDeviceGetCount");
  auto* name = function_of<int(char*, int, int)>(cuda, "cuDeviceGetName");
  auto* attribute = function_of<int(int*, int, int)>(cuda, "cuDeviceGetAttribute");
  auto* memory = function_of<int(size_t*, int)>(cuda, "cuDeviceTotalMem_v2");
  if (!init || !version || !count || !name || !attribute || !memory) return;
  constexpr int kMajor = 75, kMinor = 76;  // of the compute capability, as cuda.h numbers attributes
  report.driver = true;
  int number = 0, devices = 0;
  if (version(&number) == 0) report.driver_version = fmt::format("{}.{}", number / 1000, number % 1000 / 10);
  if (init(0) != 0 || count(&devices) != 0) return;
  for (int device = 0; device < devices; ++device) {
    char text[256] = {};
    GpuReport::Gpu gpu;
    size_t bytes = 0;
    if (name(text, sizeof text - 1, device) != 0) continue;
    gpu.name = text;
    (void)attribute(&gpu.major, kMajor, device), (void)attribute(&gpu.minor, kMinor, device);
    if (memory(&bytes, device) == 0) gpu.memory_bytes = static_cast<double>(bytes);
    report.gpus.push_back(std::move(gpu));
  }
}

std::string toolkit_place() {
  std::vector<std::string> places;
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
    if (const char* place = std::getenv(variable)) places.emplace_back(place);
  places.insert(places.end(), {"/usr/local/cuda", "/usr/lib/cuda", "/usr"});
  std::error_code ignored;
  for (const std::string& place : places)
    if (std::filesystem::exists(place + "/bin/nvcc", ignored)) return place + "/bin/nvcc";
  return "";
}

}  // namespace

std::string compiler_text() { return "g++ or compatible " __VERSION__; }

std::string instruction_set_text() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return "avx512 with bf16";
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq"))
    return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
  return "older than avx2";
#else
  return "not x86-64";
#endif
}

std::string onednn_text() {
  const dnnl_version_t* v = dnnl_version();
  return fmt::format("{}.{}.{}, runs {}", v->major, v->minor, v->patch, onednn_isa());
}

std::string hdf5_text() {
  auto* version = function_of<int(unsigned*, unsigned*, unsigned*)>(RTLD_DEFAULT, "H5get_libversion");
  if (!version) {
    for (const char* name : {"libhdf5_serial.so.103", "libhdf5.so.103", "libhdf5.so"})
      if (void* library = dlopen(name, RTLD_LAZY | RTLD_LOCAL); library && !version)
        version = function_of<int(unsigned*, unsigned*, unsigned*)>(library, "H5get_libversion");
  }
  unsigned major = 0, minor = 0, release = 0;
  if (!version || version(&major, &minor, &release) < 0) return "";
  return fmt::format("{}.{}.{}", major, minor, release);
}

GpuReport gpu_report() {
  GpuReport report;
  ask_driver(report);
  report.toolkit = toolkit_place();
  return report;
}

std::vector<std::pair<std::string, std::string>> library_versions() {
  const std::string hdf5 = hdf5_text();
  return {{"compiler", compiler_text()},
          {"instruction set", instruction_set_text()},
          {"oneDNN", onednn_text()},
          {"HDF5", hdf5.empty() ? "not loaded" : hdf5},
          {"MPI", MpiSession::library()}};
}

}  // namespace capstan
