#include "launch/config_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "core/config/config_reader.h"
#include "core/config/config_writer.h"
#include "launch/reference_page.h"

namespace capstan {

namespace {

struct ConfigOptions {
  bool markdown = false;
  bool presets = false;
  std::vector<std::string> words;  ///< CONFIG.toml and overrides
};

void run_config(const ConfigOptions& options) {
  if (options.markdown)
    fmt::print("{}", reference_page());
  else if (options.presets)
    fmt::print("{}", preset_listing());
  else if (options.words.empty())
    fmt::print("{}", key_listing());
  else
    fmt::print("{}", write_effective(
                         load_run_config(options.words.front(), {options.words.begin() + 1, options.words.end()})));
}

}  // namespace

void add_config_command(CLI::App& app, std::function<void()>& action) {
  const auto options = std::make_shared<ConfigOptions>();
  CLI::App* verb = app.add_subcommand("config", "List all settings, or check a config and print it as effective");
  verb->add_option("config", options->words, "CONFIG.toml [key.path=value ...]: check it and print every setting");
  verb->add_flag("--markdown", options->markdown, "print the reference page of all settings");
  verb->add_flag("--presets", options->presets, "list the model presets with their sizes");
  verb->footer(
      "Examples:\n"
      "  capstan config                                     every setting, by section\n"
      "  capstan config --presets                           the models that model.preset can name\n"
      "  capstan config run.toml train.steps=10             check run.toml and show what would take effect");
  verb->callback([options, &action] { action = [options] { run_config(*options); }; });
}

}  // namespace capstan
