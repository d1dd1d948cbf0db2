#include "core/config/config_mistakes.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "core/error.h"

namespace capstan {

namespace {
constexpr size_t kMostShown = 50;     // mistakes in one report
constexpr size_t kLongestText = 120;  // bytes of a user's text
}  // namespace

std::string ConfigPlace::text() const { return line > 0 ? fmt::format("{}:{}:{}", source, line, column) : source; }

void ConfigMistakes::add(const ConfigPlace& place, std::string message) {
  list_.push_back({place, std::move(message)});
}

void ConfigMistakes::throw_if_any() const {
  if (list_.empty()) return;
  std::vector<Mistake> sorted = list_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Mistake& a, const Mistake& b) {
    const bool a_later = a.place.line == 0, b_later = b.place.line == 0;  // the file first, then the command line
    return std::tie(a_later, a.place.line, a.place.column) < std::tie(b_later, b.place.line, b.place.column);
  });
  std::string report = fmt::format("{} mistake{} in the configuration:", sorted.size(), sorted.size() == 1 ? "" : "s");
  for (size_t i = 0; i < std::min(sorted.size(), kMostShown); ++i) {
    const std::string place = sorted[i].place.text();
    report += fmt::format("\n  {}{}{}", place, place.empty() ? "" : ": ", sorted[i].message);
  }
  if (sorted.size() > kMostShown) report += fmt::format("\n  and {} more", sorted.size() - kMostShown);
  throw Error(ExitCode::config, report);
}

std::string shown(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (out.size() >= kLongestText) return out + "...";
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out;
}

}  // namespace capstan
