#pragma once
// Small random models of every family as transformers saved them, with its logits (tests/io/make_weight_fixtures.py),
// and what tests do with them: hold logits against them, copy one and change it a little.

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "io/file_system.h"
#include "io/safetensors.h"
#include "launch/converted_model.h"
#include "launch/weights_proof.h"
#include "tests/support/outcome.h"
#include "tests/support/temporary_directory.h"

namespace capstan {

namespace fs = std::filesystem;
using support::TemporaryDirectory;

inline const fs::path kFixtures =
    fs::path(getenv("CAPSTAN_SOURCE") ? getenv("CAPSTAN_SOURCE") : ".") / "tests/io/golden/weights";

inline std::vector<std::string> fixture_names() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(kFixtures))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

struct Wanted {
  std::vector<int32_t> tokens;
  std::vector<float> logits;
};

inline Wanted wanted_of(const std::string& name) {
  const SafetensorsFile file = SafetensorsFile::open(kFixtures / name / "logits.safetensors");
  Wanted wanted;
  std::vector<int64_t> tokens(file.find("tokens")->bytes / 8);
  file.read("tokens", tokens.data(), 0, tokens.size() * 8);
  wanted.tokens.assign(tokens.begin(), tokens.end());
  wanted.logits.resize(file.find("logits")->bytes / 4);
  file.read("logits", wanted.logits.data(), 0, wanted.logits.size() * 4);
  return wanted;
}

struct Distance {
  double largest = 0.0, divergence = 0.0;
};

inline Distance distance(const std::vector<std::vector<float>>& rows, const std::vector<float>& wanted) {
  Distance found;
  for (size_t t = 0; t < rows.size(); ++t) {
    const float* other = wanted.data() + t * rows[t].size();
    double sum_a = 0.0, sum_b = 0.0;
    for (size_t i = 0; i < rows[t].size(); ++i)
      sum_a += std::exp(double{rows[t][i]}), sum_b += std::exp(double{other[i]});
    double divergence = 0.0;
    for (size_t i = 0; i < rows[t].size(); ++i) {
      found.largest = std::max(found.largest, std::abs(double{rows[t][i]} - double{other[i]}));
      const double p = rows[t][i] - std::log(sum_a), q = other[i] - std::log(sum_b);
      divergence += std::exp(q) * (q - p);
    }
    found.divergence = std::max(found.divergence, divergence);
  }
  return found;
}

inline Distance distance_of(const std::string& name, ConvertedModel& model) {
  const Wanted wanted = wanted_of(name);
  return distance(logits_of(model.model, *model.source, wanted.tokens, 1), wanted.logits);
}

inline std::string text_of_file(const fs::path& path) { return read_whole_file(path, 1 << 24); }

inline void write_text_file(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  if (at != std::string::npos) text.replace(at, from.size(), to);
  return text;
}

inline fs::path copy_of(const std::string& name, const TemporaryDirectory& folder) {
  fs::copy(kFixtures / name, folder / name, fs::copy_options::recursive);
  return folder / name;
}

}  // namespace capstan
