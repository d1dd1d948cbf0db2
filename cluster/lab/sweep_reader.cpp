#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "cluster/lab/sweep_spec.h"
#include "core/config/config_mistakes.h"
#include "core/config/config_reader.h"
#include "core/config/key.h"
#include "core/config/nearest_name.h"
#include "core/config/presets.h"
#include "core/error.h"
#include "io/file_system.h"

namespace capstan {
namespace {

bool is_sweep_header(std::string_view line) {
  const size_t first = line.find_first_not_of(" \t");
  if (first == std::string_view::npos || line[first] != '[') return false;
  const size_t name = line.find_first_not_of("[ \t", first);
  if (name == std::string_view::npos || line.substr(name, 5) != "sweep") return false;
  const char next = name + 5 < line.size() ? line[name + 5] : ' ';
  return next == '.' || next == ']' || next == ' ' || next == '\t';
}

/// Brackets that a line opens more than it closes, those in strings and comments left out.
int brackets_opened(std::string_view line) {
  int open = 0;
  char quote = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == '\\' && quote == '"') ++i;
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '#') {
      break;
    } else {
      open += c == '[' ? 1 : c == ']' ? -1 : 0;
    }
  }
  return open;
}

/// The file with the sweep's sections as empty lines: what is left is a run's file whose lines have kept their numbers.
std::string without_sweep_sections(const std::string& text) {
  std::string out;
  bool ours = false;
  int open = 0;  // brackets of an array of several lines: what begins with one inside is no header
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line(text.data() + begin, end - begin);
    const size_t first = line.find_first_not_of(" \t");
    if (open == 0 && first != std::string_view::npos && line[first] == '[') ours = is_sweep_header(line);
    open = std::max(0, open + brackets_opened(line));
    if (!ours) out += line;
    if (end < text.size()) out += '\n';
    begin = end + 1;
  }
  return out;
}

std::string got(const toml::node& node) {
  if (const auto* x = node.as_boolean()) return to_toml(x->get());
  if (const auto* x = node.as_integer()) return to_toml(x->get());
  if (const auto* x = node.as_floating_point()) return to_toml(x->get());
  if (const auto* x = node.as_string()) return shown(to_toml(x->get()));
  return node.is_table() ? "a table" : node.is_array() ? "an array" : "a date or time";
}

std::optional<double> number_of(const toml::node& node) {
  if (const auto* i = node.as_integer()) return static_cast<double>(i->get());
  if (const auto* d = node.as_floating_point()) return d->get();
  return {};
}

/// All elements by `read`, or the node itself as a list of one.
template <typename T, typename Read>
std::optional<std::vector<T>> list_from(const toml::node& node, const Read& read) {
  std::vector<T> out;
  const auto add = [&](const toml::node& item) {
    const std::optional<T> value = read(item);
    if (value) out.push_back(*value);
    return value.has_value();
  };
  if (const toml::array* array = node.as_array()) {
    for (const toml::node& item : *array)
      if (!add(item)) return {};
    return out;
  }
  return add(node) ? std::optional(out) : std::nullopt;
}

std::optional<std::string> text_of(const toml::node& node) { return node.value_exact<std::string>(); }

std::optional<ConfigValue> typed(const SweepKey& key, const toml::node& node) {
  switch (key.type) {
    case KeyType::integer:
      if (const auto* i = node.as_integer()) return ConfigValue(i->get());
      return {};
    case KeyType::real:
      if (const auto number = number_of(node)) return ConfigValue(*number);
      return {};
    case KeyType::text:
    case KeyType::choice:
      if (const auto text = text_of(node)) return ConfigValue(*text);
      return {};
    case KeyType::text_list:
      if (auto list = list_from<std::string>(node, text_of)) return ConfigValue(*list);
      return {};
    case KeyType::number_list:
      if (auto list = list_from<double>(node, number_of)) return ConfigValue(*list);
      return {};
    default:
      return {};
  }
}

/// The same wording and the same acceptance as for the keys of a run.
Key as_config_key(const SweepKey& key) {
  Key out;
  out.name = key.name, out.type = key.type, out.unit = key.unit, out.range = key.range, out.choices = key.choices;
  return out;
}

class SweepReader {
 public:
  explicit SweepReader(std::string file) : file_(std::move(file)) {}

  SweepSpec read(const std::string& text, const std::vector<std::string>& overrides) {
    spec_.file = file_;
    split_overrides(overrides);
    try {
      const toml::table table = toml::parse(text, file_);
      if (const toml::table* sweep = table["sweep"].as_table())
        read_table(*sweep, "sweep");
      else
        mistakes_.add({file_}, "there is no section [sweep]: a sweep file is a run's file with sections [sweep...]");
    } catch (const toml::parse_error& error) {
      mistakes_.add({file_, static_cast<int>(error.source().begin.line), static_cast<int>(error.source().begin.column)},
                    "not TOML: " + shown(std::string(error.description())));
      mistakes_.throw_if_any();
    }
    for (const std::string& item : ours_) apply(item);
    if (!bad_) check();
    read_base(text);
    return spec_;
  }

 private:
  void split_overrides(const std::vector<std::string>& overrides) {
    for (const std::string& item : overrides)
      (item.starts_with("sweep.") ? ours_ : spec_.base_settings).push_back(item);
  }

  void read_table(const toml::table& table, const std::string& section) {
    for (auto&& [key, node] : table) {
      const std::string name = section + "." + std::string(key.str());
      const toml::source_region& place = node.source();
      if (name == "sweep.overrides") {
        read_overrides(node);
      } else if (const SweepKey* known = find(name)) {
        set(*known, node, {file_, static_cast<int>(place.begin.line), static_cast<int>(place.begin.column)});
      } else if (node.is_table() && is_section(name)) {
        read_table(*node.as_table(), name);
      } else {
        unknown(name, {file_, static_cast<int>(key.source().begin.line), static_cast<int>(key.source().begin.column)});
      }
    }
  }

  void read_overrides(const toml::node& node) {
    const ConfigPlace place{file_, static_cast<int>(node.source().begin.line),
                            static_cast<int>(node.source().begin.column)};
    if (!node.is_table()) return add(place, "sweep.overrides: wanted a table of PATTERN = [\"key=value\", ...]");
    for (auto&& [key, value] : *node.as_table()) {
      const auto settings = list_from<std::string>(value, text_of);
      if (!settings)
        add(place, fmt::format("sweep.overrides.{}: wanted a list of \"key=value\", got {}",
                               shown(std::string(key.str())), got(value)));
      else
        spec_.overrides.push_back({std::string(key.str()), *settings});
    }
  }

  static const SweepKey* find(const std::string& name) {
    for (const SweepKey& key : sweep_keys())
      if (key.name == name) return &key;
    return nullptr;
  }
  static bool is_section(const std::string& name) {
    for (const SweepKey& key : sweep_keys())
      if (key.name.starts_with(name + ".")) return true;
    return false;
  }

  void add(const ConfigPlace& place, std::string message) {
    mistakes_.add(place, std::move(message));
    bad_ = true;
  }

  void unknown(const std::string& name, const ConfigPlace& place) {
    std::vector<std::string> names;
    for (const SweepKey& key : sweep_keys()) names.push_back(key.name);
    const std::string near = nearest_name(name, names);
    add(place,
        fmt::format("{}: unknown key; {}", shown(name),
                    near.empty() ? "capstan sweep --keys lists all keys" : fmt::format("did you mean {}?", near)));
  }

  void set(const SweepKey& key, const toml::node& node, const ConfigPlace& place) {
    const std::optional<ConfigValue> value = typed(key, node);
    const Key rule = as_config_key(key);
    if (!value || !rule.accepts(*value)) {
      const std::string near = node.is_string() ? nearest_name(node.as_string()->get(), key.choices) : "";
      return add(place, fmt::format("{}: wanted {}{}, got {}{}", key.name, rule.wanted(),
                                    key.unit.empty() ? "" : " (" + key.unit + ")", got(node),
                                    near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
    }
    key.set(spec_, *value);
    places_[key.name] = place;
  }

  void apply(const std::string& item) {
    const size_t equals = item.find('=');
    const std::string name = item.substr(0, equals), text = equals == std::string::npos ? "" : item.substr(equals + 1);
    const SweepKey* key = find(name);
    if (!key) return unknown(name, {"command line"});
    toml::table holder;
    try {
      holder = toml::parse("v = " + text);
    } catch (const toml::parse_error&) {
      holder.insert_or_assign("v", text);
    }
    if (holder.size() != 1 || !holder.contains("v")) return add({"command line"}, "wanted key.path=value");
    if (key->type == KeyType::text && !holder["v"].is_string()) holder.insert_or_assign("v", text);
    set(*key, *holder.get("v"), {"command line"});
  }

  void conflict(const std::string& key, const std::string& message) {
    add(places_.contains(key) ? places_[key] : ConfigPlace{file_}, key + ": " + message);
  }

  void check_sizes() {
    const SweepSpec::Sizes& sizes = spec_.sizes;
    if (sizes.presets.empty() && sizes.shapes.empty() && sizes.targets.empty())
      conflict("sweep.sizes.shapes", "no sizes: give sweep.sizes.shapes, .targets or .presets");
    for (const std::string& name : sizes.presets)
      if (!preset_text(name))
        conflict("sweep.sizes.presets",
                 fmt::format("no preset is called {}{}", shown(name),
                             nearest_name(name, preset_names()).empty()
                                 ? ""
                                 : "; did you mean " + nearest_name(name, preset_names()) + "?"));
    for (const std::string& shape : sizes.shapes) {
      int width = 0, layers = 0, end = 0;
      if (std::sscanf(shape.c_str(), "%6dx%6d%n", &width, &layers, &end) != 2 ||
          static_cast<size_t>(end) != shape.size() || width < 2 || layers < 1)
        conflict("sweep.sizes.shapes",
                 fmt::format("wanted WIDTHxLAYERS such as \"64x3\", got {}", shown(to_toml(shape))));
    }
  }

  void check_budgets() {
    const SweepSpec::Budgets& b = spec_.budgets;
    if (b.flops.empty() && b.tokens.empty() && b.tokens_per_parameter.empty())
      conflict("sweep.budgets.flops", "no budgets: give sweep.budgets.flops, .tokens or .tokens_per_parameter");
    if (b.sizes_each > 0 && (!(b.centre_flops > 0) || !(b.centre_n > 0)))
      conflict("sweep.budgets.sizes_each", "needs an expected optimum: sweep.budgets.centre_flops and .centre_n");
    if (spec_.cooldown_share > 0 && !b.flops.empty())
      conflict("sweep.cooldown_share",
               "cooldowns branch at horizons in tokens: give sweep.budgets.tokens or "
               ".tokens_per_parameter, not .flops");
    if (spec_.held_out.flops > 0 && !b.flops.empty() &&
        spec_.held_out.flops <= *std::max_element(b.flops.begin(), b.flops.end()))
      conflict("sweep.held_out.flops", "a held-out budget is larger than those of the ladder");
    if ((spec_.noise.flops > 0) != !spec_.noise.seeds.empty())
      conflict("sweep.noise.flops", "sweep.noise needs both flops and seeds");
  }

  void check_rules() {
    const SweepSpec::LearningRate& rate = spec_.learning_rate;
    const std::set<double> distinct(rate.candidates.begin(), rate.candidates.end());
    if (rate.rule == SweepSpec::Rule::search && (distinct.size() < 2 || !(rate.search_flops > 0)))
      conflict("sweep.learning_rate.rule",
               "a search needs at least two distinct sweep.learning_rate.candidates and search_flops");
    if (spec_.seeds.empty()) conflict("sweep.seeds", "wanted at least one seed");
    for (const std::vector<double>* list : {&spec_.seeds, &spec_.noise.seeds})
      for (const double seed : *list)
        if (seed != std::floor(seed)) conflict("sweep.seeds", fmt::format("wanted whole numbers, got {}", seed));
    for (const double seed : spec_.noise.seeds)
      if (std::count(spec_.seeds.begin(), spec_.seeds.end(), seed) > 0)
        conflict("sweep.noise.seeds", fmt::format("seed {} is one of sweep.seeds already", seed));
  }

  void check() {
    check_sizes();
    check_budgets();
    check_rules();
  }

  /// The run's part is read by the run's own reader; its mistakes are told together with ours.
  void read_base(const std::string& text) {
    spec_.base_text = without_sweep_sections(text);
    std::string theirs;
    try {
      spec_.base = parse_run_config(spec_.base_text, file_, spec_.base_settings);
      if (spec_.base.data.corpora.empty()) add({file_}, "data.corpora: a sweep needs a corpus");
    } catch (const Error& error) {
      theirs = error.what();
    }
    try {
      mistakes_.throw_if_any();
    } catch (const Error& error) {
      throw Error(error.code(),
                  std::string(error.what()) + (theirs.empty() ? "" : "\nand in the settings of the runs, " + theirs));
    }
    if (!theirs.empty()) throw Error(ExitCode::config, theirs);
  }

  std::string file_;
  SweepSpec spec_;
  ConfigMistakes mistakes_;
  std::vector<std::string> ours_;
  std::map<std::string, ConfigPlace> places_;
  bool bad_ = false;
};

}  // namespace

SweepSpec parse_sweep(const std::string& text, const std::string& file, const std::vector<std::string>& overrides) {
  SweepSpec spec = SweepReader(shown(file)).read(text, overrides);
  const std::string stem = std::filesystem::path(file).stem().string();
  if (spec.name.empty()) spec.name = stem;
  if (spec.dir.empty()) spec.dir = "runs/" + stem;
  if (spec.held_out.threads == 0) spec.held_out.threads = spec.threads;
  return spec;
}

SweepSpec load_sweep(const std::string& path, const std::vector<std::string>& overrides) {
  std::error_code failure;
  if (!std::filesystem::is_regular_file(path, failure))
    throw Error::make(ExitCode::missing_input, "{}: no such sweep file", shown(path));
  return parse_sweep(read_whole_file(path, kLargestConfigFile), path, overrides);
}

bool matches_pattern(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] == '*')
    return matches_pattern(pattern.substr(1), name) || (!name.empty() && matches_pattern(pattern, name.substr(1)));
  return !name.empty() && (pattern[0] == '?' || pattern[0] == name[0]) &&
         matches_pattern(pattern.substr(1), name.substr(1));
}

}  // namespace capstan
