#pragma once
// Checks of numbers on the command line. Where a range has no upper end CLI11 prints the largest double, all 309 digits
// of it; these say in words what was wanted.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string>

namespace capstan {

/// A finite number above 0.
inline CLI::Validator above_zero() {
  return {[](std::string& text) {
            char* end = nullptr;
            const double value = std::strtod(text.c_str(), &end);
            const bool good = !text.empty() && *end == '\0' && std::isfinite(value) && value > 0;
            return good ? std::string() : fmt::format("wanted a number above 0, got '{}'", text.substr(0, 40));
          },
          "POSITIVE"};
}

/// 0, 1, 2, ...
inline CLI::Validator zero_or_more() {
  return {[](std::string& text) {
            long long value = 0;
            const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
            const bool good = problem == std::errc() && end == text.data() + text.size() && value >= 0;
            return good ? std::string() : fmt::format("wanted a whole number from 0 on, got '{}'", text.substr(0, 40));
          },
          "NONNEGATIVE"};
}

}  // namespace capstan
