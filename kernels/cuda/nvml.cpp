#include "kernels/cuda/nvml.h"

#include <dlfcn.h>

namespace capstan::kernels::cuda {
namespace {

// The few names of nvml.h that are used, as its binary interface has them; a toolkit does not always bring the header.
using NvmlDevice = struct NvmlDeviceOpaque*;
constexpr int kNvmlSuccess = 0, kClockSm = 1, kTemperatureGpu = 0;

class Nvml final : public DeviceMonitor {
 public:
  ~Nvml() override {
    if (started_) shutdown_();
    if (library_ != nullptr) ::dlclose(library_);
  }

  bool open(const std::string& pci_bus_id) {
    library_ = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) return false;
    int (*start)() = nullptr;
    int (*find)(const char*, NvmlDevice*) = nullptr;
    if (!load(start, "nvmlInit_v2") || !load(shutdown_, "nvmlShutdown") ||
        !load(find, "nvmlDeviceGetHandleByPciBusId_v2") || start() != kNvmlSuccess)
      return false;
    started_ = true;
    load(clock_, "nvmlDeviceGetClockInfo");
    load(temperature_, "nvmlDeviceGetTemperature");
    load(power_, "nvmlDeviceGetPowerUsage");
    if (!load(reasons_, "nvmlDeviceGetCurrentClocksEventReasons"))
      load(reasons_, "nvmlDeviceGetCurrentClocksThrottleReasons");  // its name before driver 535
    return find(pci_bus_id.c_str(), &device_) == kNvmlSuccess;
  }

  void fill(DeviceState& state) const override {
    unsigned value = 0;
    if (clock_ && clock_(device_, kClockSm, &value) == kNvmlSuccess) state.clock_mhz = value;
    if (temperature_ && temperature_(device_, kTemperatureGpu, &value) == kNvmlSuccess) state.temperature = value;
    if (power_ && power_(device_, &value) == kNvmlSuccess) state.watts = value / 1000.0;
    unsigned long long reasons = 0;
    if (reasons_ && reasons_(device_, &reasons) == kNvmlSuccess) state.throttled = throttle_reasons(reasons);
  }

 private:
  template <typename Function>
  bool load(Function& function, const char* name) const {
    function = reinterpret_cast<Function>(::dlsym(library_, name));
    return function != nullptr;
  }

  void* library_ = nullptr;
  bool started_ = false;
  NvmlDevice device_ = nullptr;
  int (*shutdown_)() = nullptr;
  int (*clock_)(NvmlDevice, int, unsigned*) = nullptr;
  int (*temperature_)(NvmlDevice, int, unsigned*) = nullptr;
  int (*power_)(NvmlDevice, unsigned*) = nullptr;
  int (*reasons_)(NvmlDevice, unsigned long long*) = nullptr;
};

}  // namespace

std::string throttle_reasons(unsigned long long reasons) {
  constexpr struct {
    unsigned long long bit;
    const char* words;
  } kReasons[] = {{0x2, "clock setting"}, {0x4, "power cap"},        {0x8, "hardware slowdown"}, {0x10, "sync boost"},
                  {0x20, "heat"},         {0x40, "heat (hardware)"}, {0x80, "power brake"},      {0x100, "display"}};
  std::string text;
  for (const auto& reason : kReasons)
    if (reasons & reason.bit) text += (text.empty() ? "" : ", ") + std::string(reason.words);
  return text;
}

std::unique_ptr<DeviceMonitor> open_device_monitor(const std::string& pci_bus_id) {
  auto monitor = std::make_unique<Nvml>();
  if (!monitor->open(pci_bus_id)) return nullptr;
  return monitor;
}

}  // namespace capstan::kernels::cuda
