#include "core/config/config_reader.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>

#include "core/config/config_checks.h"
#include "core/config/config_mistakes.h"
#include "core/config/keys.h"
#include "core/config/nearest_name.h"
#include "core/config/presets.h"
#include "core/error.h"

namespace capstan {

namespace {

std::string described(const toml::node& node) {
  if (const auto* x = node.as_boolean()) return to_toml(x->get());
  if (const auto* x = node.as_integer()) return to_toml(x->get());
  if (const auto* x = node.as_floating_point()) return to_toml(x->get());
  if (const auto* x = node.as_string()) return to_toml(x->get());
  if (node.is_table()) return "a table";
  if (node.is_array()) return "an array";
  return "a date or time";
}

std::optional<ConfigValue> list_of(const toml::node& node) {
  std::vector<std::string> list;
  if (const auto* one = node.as_string()) return ConfigValue(std::vector{one->get()});
  const toml::array* array = node.as_array();
  if (!array) return std::nullopt;
  for (const toml::node& item : *array) {
    const auto* text = item.as_string();
    if (!text) return std::nullopt;
    list.push_back(text->get());
  }
  return ConfigValue(list);
}

std::optional<ConfigValue> numbers_of(const toml::node& node) {
  std::vector<double> list;
  const auto add = [&](const toml::node& item) {
    if (const auto* integer = item.as_integer())
      list.push_back(static_cast<double>(integer->get()));
    else if (const auto* real = item.as_floating_point())
      list.push_back(real->get());
    else
      return false;
    return true;
  };
  const toml::array* array = node.as_array();
  if (!array) return add(node) ? std::optional<ConfigValue>(list) : std::nullopt;
  for (const toml::node& item : *array)
    if (!add(item)) return std::nullopt;
  return ConfigValue(list);
}

/// The node as the key's type; nothing when it is of another type. A whole number is a number too.
std::optional<ConfigValue> value_of(const Key& key, const toml::node& node) {
  const auto* integer = node.as_integer();
  const auto* real = node.as_floating_point();
  const auto* text = node.as_string();
  switch (key.type) {
    case KeyType::boolean:
      if (const auto* flag = node.as_boolean()) return ConfigValue(flag->get());
      return std::nullopt;
    case KeyType::integer:
      return integer ? std::optional<ConfigValue>(integer->get()) : std::nullopt;
    case KeyType::real:
      if (integer) return ConfigValue(static_cast<double>(integer->get()));
      return real ? std::optional<ConfigValue>(real->get()) : std::nullopt;
    case KeyType::text:
    case KeyType::choice:
      return text ? std::optional<ConfigValue>(text->get()) : std::nullopt;
    case KeyType::text_list:
      return list_of(node);
    case KeyType::number_list:
      return numbers_of(node);
    case KeyType::choice_or_count:
      if (integer) return ConfigValue(integer->get());
      return text ? std::optional<ConfigValue>(text->get()) : std::nullopt;
  }
  return std::nullopt;
}

std::string unit_of(const Key& key) { return key.unit.empty() ? "" : " (" + key.unit + ")"; }

/// " did you mean ...?" for a value that is nearly one of the choices, or a float that is a whole number.
std::string value_hint(const Key& key, const toml::node& node) {
  if (const auto* text = node.as_string()) {
    const std::string near = nearest_name(text->get(), key.choices);
    if (!near.empty()) return fmt::format("; did you mean \"{}\"?", near);
  }
  if (const auto* real = node.as_floating_point(); real && key.type == KeyType::integer) {
    const double x = real->get();
    if (key.range.holds(x) && x == static_cast<double>(static_cast<int64_t>(x)))
      return fmt::format("; write {}", static_cast<int64_t>(x));
  }
  return "";
}

class Reader {
 public:
  explicit Reader(std::string file_name) : file_(std::move(file_name)) {}

  RunConfig read(std::string_view text, const std::vector<std::string>& overrides) {
    read_good(text, overrides);
    add_conflicts();
    mistakes_.throw_if_any();
    config_.model.dropout = config_.train.dropout;
    return config_;
  }

  /// Without a word of mistakes; what they are about stays as it was.
  RunConfig read_good(std::string_view text, const std::vector<std::string>& overrides) {
    const toml::table file = parse_file(text);
    const std::vector<Override> said = parse_overrides(overrides);
    apply_preset(file, said);
    read_table(file, "", file_);
    for (const Override& item : said) apply(item);
    return config_;
  }

 private:
  struct Override {
    std::string key;
    std::string text;    ///< as typed
    toml::table holder;  ///< the value under "v", when it is TOML
  };

  toml::table parse_file(std::string_view text) {
    if (text.size() > kLargestConfigFile)
      throw Error::make(ExitCode::config, "{}: wanted a configuration of at most {} bytes, got more", file_,
                        kLargestConfigFile);
    try {
      return toml::parse(text, file_);
    } catch (const toml::parse_error& e) {
      mistakes_.add(place_of(e.source(), file_), "not TOML: " + shown(std::string(e.description())));
      return {};
    }
  }

  std::vector<Override> parse_overrides(const std::vector<std::string>& overrides) {
    std::vector<Override> out;
    for (const std::string& item : overrides) {
      const size_t equals = item.find('=');
      if (equals == std::string::npos || equals == 0) {
        mistakes_.add({"command line"}, fmt::format("wanted key.path=value, got {}", shown(to_toml(item))));
        continue;
      }
      Override parsed{item.substr(0, equals), item.substr(equals + 1), {}};
      parsed.holder = holder_of(parsed.text);
      out.push_back(std::move(parsed));
    }
    return out;
  }

  /// A table with one entry "v": the text read as a TOML value, or as a string when it is not one.
  static toml::table holder_of(const std::string& text) {
    try {
      toml::table holder = toml::parse("v = " + text);
      if (holder.size() == 1) return holder;
    } catch (const toml::parse_error&) {
    }
    toml::table holder;
    holder.insert("v", text);
    return holder;
  }

  void apply_preset(const toml::table& file, const std::vector<Override>& overrides) {
    const Key& key = *find_config_key("model.preset");
    std::string name;
    ConfigPlace place;
    if (const toml::node* node = file.at_path("model.preset").node(); node && node->is_string()) {
      name = node->as_string()->get();
      place = place_of(node->source(), file_);
    }
    for (const Override& item : overrides)
      if (item.key == key.name) {
        name = item.text.starts_with('"') ? item.holder["v"].value_or(item.text) : item.text;
        place = {"command line"};
      }
    if (name.empty()) return;
    const std::optional<std::string_view> text = preset_text(name);
    if (!text) {
      const std::string near = nearest_name(name, preset_names());
      mistakes_.add(place, fmt::format("model.preset: no preset is called {}; {}", shown(to_toml(name)),
                                       near.empty() ? "capstan config --presets lists them"
                                                    : fmt::format("did you mean \"{}\"?", near)));
      bad_.insert(key.name);
      return;
    }
    read_table(toml::parse(*text), "", "preset " + name);
  }

  static ConfigPlace place_of(const toml::source_region& region, const std::string& source) {
    return {source, static_cast<int>(region.begin.line), static_cast<int>(region.begin.column)};
  }

  void read_table(const toml::table& table, const std::string& section, const std::string& source) {
    for (auto&& [key, node] : table) {
      const std::string leaf(key.str());
      const std::string name = section.empty() ? leaf : section + "." + leaf;
      const Key* known = leaf.find('.') == std::string::npos ? find_config_key(name) : nullptr;
      if (known)
        set(*known, node, place_of(node.source(), source));
      else if (!section.empty() || !is_section(name))
        unknown(name, node.is_table(), place_of(key.source(), source));
      else if (const toml::table* inner = node.as_table())
        read_table(*inner, name, source);
      else
        mistakes_.add(place_of(node.source(), source),
                      fmt::format("{}: wanted a section [{}], got {}", name, name, shown(described(node))));
    }
  }

  static bool is_section(const std::string& name) {
    const std::vector<std::string> sections = config_sections();
    return std::find(sections.begin(), sections.end(), name) != sections.end();
  }

  void unknown(const std::string& name, bool table, const ConfigPlace& place) {
    std::string near = table ? nearest_name(name, config_sections()) : "";
    if (near.empty()) near = nearest_config_name(name);
    mistakes_.add(place,
                  fmt::format("{}: unknown {}; {}", shown(name), table ? "section" : "key",
                              near.empty() ? "capstan config lists all keys" : fmt::format("did you mean {}?", near)));
  }

  void set(const Key& key, const toml::node& node, const ConfigPlace& place) {
    const std::optional<ConfigValue> value = value_of(key, node);
    if (!value || !key.accepts(*value)) {
      mistakes_.add(place, fmt::format("{}: wanted {}{}, got {}{}", key.name, key.wanted(), unit_of(key),
                                       shown(described(node)), value_hint(key, node)));
      bad_.insert(key.name);
      return;
    }
    key.set(config_, *value);
    places_[key.name] = place;
  }

  void apply(const Override& item) {
    const Key* key = find_config_key(item.key);
    if (!key) return unknown(item.key, false, {"command line"});
    const bool is_text = key->type == KeyType::text || key->type == KeyType::choice;
    const toml::node& node = *item.holder.get("v");
    if ((is_text && !node.is_string()) || (key->type == KeyType::text_list && !node.is_array() && !node.is_string())) {
      toml::table holder;  // a directory named 12 or 2024-01-01 is a name all the same
      holder.insert("v", item.text);
      return set_from_command_line(*key, *holder.get("v"));
    }
    set_from_command_line(*key, node);
  }

  void set_from_command_line(const Key& key, const toml::node& node) {
    if (!is_utf8(node)) {
      mistakes_.add({"command line"}, key.name + ": wanted text in UTF-8, got other bytes");
      bad_.insert(key.name);
      return;
    }
    set(key, node, {"command line"});
  }

  /// Whether the effective config, which is TOML, can hold it.
  static bool is_utf8(const toml::node& node) {
    const auto* text = node.as_string();
    if (!text) return true;
    try {
      return toml::parse("v = " + to_toml(text->get())).size() == 1;
    } catch (const toml::parse_error&) {
      return false;
    }
  }

  void add_conflicts() {
    for (const Conflict& conflict : config_conflicts(config_)) {
      const auto wrong = [this](const std::string& key) { return bad_.contains(key); };
      if (std::any_of(conflict.keys.begin(), conflict.keys.end(), wrong)) continue;
      ConfigPlace place;
      for (const std::string& key : conflict.keys)
        if (place.source.empty() && places_.contains(key)) place = places_[key];
      mistakes_.add(place, conflict.keys.front() + ": " + conflict.message);
    }
  }

  std::string file_;
  RunConfig config_;
  ConfigMistakes mistakes_;
  std::map<std::string, ConfigPlace> places_;
  std::set<std::string> bad_;
};

std::string read_limited(const std::string& path) {
  std::error_code failure;
  if (!std::filesystem::exists(path, failure))
    throw Error::make(ExitCode::missing_input, "{}: no such configuration file", shown(path));
  if (std::filesystem::is_directory(path, failure))
    throw Error::make(ExitCode::missing_input, "{}: wanted a configuration file, got a directory", shown(path));
  std::ifstream in(path, std::ios::binary);
  std::string text(kLargestConfigFile + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad() || (!in.is_open())) throw Error::make(ExitCode::missing_input, "{}: cannot be read", shown(path));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

/// The run directory whose record this file is; empty: it is none. That directory may have been moved or copied since.
std::string run_of_record(const std::filesystem::path& file) {
  namespace fs = std::filesystem;
  std::error_code failure;
  const fs::path directory = file.has_parent_path() ? file.parent_path() : fs::path(".");
  if (file.filename() != kRunConfigName || !fs::is_directory(directory / kRunCheckpointsName, failure)) return {};
  fs::path named = directory.lexically_normal();
  if (!named.has_filename()) named = named.parent_path();
  const std::string last = named.filename().string();
  if (!last.empty() && last != "." && last != "..") return named.string();
  return fs::weakly_canonical(directory, failure).string();  // runs are called by the last name of their path
}

}  // namespace

RunConfig parse_run_config(std::string_view text, const std::string& file_name,
                           const std::vector<std::string>& overrides) {
  return Reader(shown(file_name)).read(text, overrides);
}

RunConfig readable_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  try {
    return Reader(path).read_good(read_limited(path), overrides);
  } catch (const Error&) {  // no file, or one that is too large
    return Reader(path).read_good("", overrides);
  }
}

RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  RunConfig config = parse_run_config(read_limited(path), path, overrides);
  const bool named = std::any_of(overrides.begin(), overrides.end(),
                                 [](const std::string& word) { return word.rfind("run.dir", 0) == 0; });
  if (const std::string run = run_of_record(path); !named && !run.empty()) config.run.dir = run;
  if (config.run.dir.empty()) config.run.dir = "runs/" + std::filesystem::path(path).stem().string();
  return config;
}

}  // namespace capstan
