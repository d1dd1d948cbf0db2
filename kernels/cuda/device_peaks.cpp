#include "kernels/cuda/device_peaks.h"

namespace capstan::kernels::cuda {

DevicePeaks device_peaks(std::string_view name) {
  // From the data sheets, TFLOP/s without sparsity, at boost clock. The first line that fits counts.
  constexpr struct {
    std::string_view type, variant;
    double bf16, tf32, f32;
  } kPeaks[] = {
      {"A100", "", 312, 156, 19.5},      {"A800", "", 312, 156, 19.5},     {"H100", "PCIe", 756, 378, 51},
      {"H100", "NVL", 835, 417, 60},     {"H100", "", 989.4, 494.7, 66.9}, {"H800", "PCIe", 756, 378, 51},
      {"H800", "", 989.4, 494.7, 66.9},  {"H200", "NVL", 835, 417, 60},    {"H200", "", 989.4, 494.7, 66.9},
      {"GH200", "", 989.4, 494.7, 66.9}, {"GB200", "", 2500, 1250, 80},    {"B200", "", 2250, 1125, 75},
  };
  const auto word = [&](std::string_view what) {  // as a whole word: "RTX A1000" is no A100
    for (size_t at = name.find(what); at != std::string_view::npos; at = name.find(what, at + 1)) {
      const auto letter = [&](size_t i) {
        const char c = i < name.size() ? name[i] : ' ';
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
      };
      if ((at == 0 || !letter(at - 1)) && !letter(at + what.size())) return true;
    }
    return false;
  };
  for (const auto& peak : kPeaks)
    if (word(peak.type) && (peak.variant.empty() || word(peak.variant)))
      return {peak.bf16 * 1e12, peak.tf32 * 1e12, peak.f32 * 1e12};
  return {};
}

}  // namespace capstan::kernels::cuda
