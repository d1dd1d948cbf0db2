#include "launch/reference_page.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/config/keys.h"
#include "core/config/parameter_count.h"
#include "core/config/presets.h"

namespace capstan {

namespace {

std::string in_cell(std::string text) {
  for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.replace(at, 1, "\\|");
  return text;
}

std::string default_of(const Key& key) {
  static const RunConfig defaults;
  return to_toml(key.get(defaults));
}

std::string resume_text(const Key& key) { return key.on_resume == OnResume::may_change ? "may change" : "fixed"; }

std::string grouped(int64_t n) {
  std::string digits = fmt::format("{}", n);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

std::vector<std::pair<std::string, DecoderConfig>> presets_by_family() {
  std::vector<std::pair<std::string, DecoderConfig>> out;
  for (const std::string& name : preset_names()) out.emplace_back(name, preset_model(name));
  const auto family = [](const std::string& name) { return name.substr(0, name.find('-')); };
  std::stable_sort(out.begin(), out.end(), [&](const auto& a, const auto& b) {
    if (family(a.first) != family(b.first)) return family(a.first) < family(b.first);
    return parameter_count(a.second) < parameter_count(b.second);
  });
  return out;
}

std::string vocabulary_text(const DecoderConfig& model) {
  return model.vocabulary ? fmt::format("{}", model.vocabulary) : "corpus";
}

constexpr const char* kPageHead = R"(# Settings

Made by `capstan config --markdown` from the table in core/config/keys.cpp; change that, not this page.

A run is described by a TOML file, and every key can be set again on the command line:

    mpirun -n 2 capstan train run.toml train.steps=500 data.corpora=/data/books

A value on the command line is read as TOML; what is not TOML is a string, so quotes are seldom needed. Strength, from
weakest: the defaults below, then `model.preset`, then the file, then the command line from left to right. Relative paths
are taken from the working directory. All mistakes are reported at once, each with file:line:column; the program then
ends with exit code 78. `capstan config run.toml` checks a file and prints it as effective.

"On resume" says whether a run that continues from a checkpoint accepts another value. What may change is announced;
what is fixed is refused.
)";

}  // namespace

std::string reference_page() {
  std::string page = kPageHead, section;
  for (const Key& key : config_keys()) {
    if (key.section() != section)
      page += fmt::format(
          "\n## [{}]\n\n| key | accepts | unit | default | on resume | |\n| --- | --- | --- | --- | --- "
          "| --- |\n",
          key.section());
    section = key.section();
    page += fmt::format("| `{}` | {} | {} | `{}` | {} | {} |\n", key.name, in_cell(key.wanted()), key.unit,
                        default_of(key), resume_text(key), in_cell(key.sentence));
  }
  page +=
      "\n## Presets\n\n| model.preset | layers | width | heads | key/value heads | context | vocabulary | parameters "
      "|\n| --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (const auto& [name, m] : presets_by_family())
    page += fmt::format("| `{}` | {} | {} | {} | {} | {} | {} | {} |\n", name, m.layers, m.width, m.heads, m.kv(),
                        m.context, vocabulary_text(m), grouped(parameter_count(m)));
  return page + "\nWhere the vocabulary is the corpus's, the parameters are counted without embeddings of tokens.\n";
}

std::string key_listing() {
  std::string out = "Settings of a run, as [section] key of its TOML file or section.key=value on the command line.\n";
  std::string section;
  for (const Key& key : config_keys()) {
    if (key.section() != section) out += fmt::format("\n[{}]\n", key.section());
    section = key.section();
    const std::string unit = key.unit.empty() ? "" : " (" + key.unit + ")";
    out += fmt::format("  {:<20} {}{}; default {}{}\n      {}\n", key.leaf(), key.wanted(), unit, default_of(key),
                       key.on_resume == OnResume::fixed ? "; fixed on resume" : "", key.sentence);
  }
  return out;
}

std::string preset_listing() {
  std::string out = fmt::format("{:<12} {:>6} {:>6} {:>5} {:>8} {:>7} {:>10} {:>16}\n", "preset", "layers", "width",
                                "heads", "kv heads", "context", "vocabulary", "parameters");
  for (const auto& [name, m] : presets_by_family())
    out += fmt::format("{:<12} {:>6} {:>6} {:>5} {:>8} {:>7} {:>10} {:>16}\n", name, m.layers, m.width, m.heads, m.kv(),
                       m.context, vocabulary_text(m), grouped(parameter_count(m)));
  return out + "Where the vocabulary is the corpus's, parameters are counted without embeddings of tokens.\n";
}

}  // namespace capstan
