#include "core/config/config_writer.h"

#include <fmt/format.h>

#include "core/config/keys.h"

namespace capstan {

namespace {

/// With what zero stands for written out, so that "as many as heads" and that number are no difference.
RunConfig resolved(RunConfig config) {
  DecoderConfig& m = config.model;
  m.kv_heads = m.kv();
  m.head_size = m.head();
  m.hidden = m.mlp();
  return config;
}

}  // namespace

std::string write_effective(const RunConfig& config) {
  std::string out = "# Every setting of this run as it took effect; capstan config explains each.\n";
  std::string section;
  for (const Key& key : config_keys()) {
    if (key.section() != section) out += fmt::format("\n[{}]\n", key.section());
    section = key.section();
    out += fmt::format("{} = {}\n", key.leaf(), to_toml(key.get(config)));
  }
  return out;
}

std::string canonical(const RunConfig& config) {
  std::string out;
  for (const Key& key : config_keys()) out += fmt::format("{} = {}\n", key.name, to_toml(key.get(config)));
  return out;
}

std::vector<ConfigDifference> resume_differences(const RunConfig& before, const RunConfig& after) {
  std::vector<ConfigDifference> out;
  const RunConfig old_config = resolved(before), new_config = resolved(after);
  for (const Key& key : config_keys()) {
    const ConfigValue was = key.get(old_config), is = key.get(new_config);
    if (key.get(before) == key.get(after)) continue;  // what follows from another key is that key's difference
    if (was != is) out.push_back({key.name, to_toml(was), to_toml(is), key.on_resume});
  }
  return out;
}

}  // namespace capstan
