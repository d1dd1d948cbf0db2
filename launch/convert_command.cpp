#include "launch/convert_command.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <map>
#include <memory>
#include <utility>

#include "core/error.h"
#include "launch/converter.h"

namespace capstan {
namespace {

/// "5GB", "512MiB", "1000000": bytes.
uint64_t parse_bytes(const std::string& text, const char* option) {
  static const std::map<std::string, double> units = {{"", 1},         {"B", 1},       {"KB", 1e3},     {"MB", 1e6},
                                                      {"GB", 1e9},     {"TB", 1e12},   {"KiB", 0x1p10}, {"MiB", 0x1p20},
                                                      {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  const size_t digits = text.find_first_not_of("0123456789.");
  const std::string number = text.substr(0, digits), unit = digits == text.npos ? "" : text.substr(digits);
  const auto known = units.find(unit);
  double value = 0.0;
  const auto [end, problem] = std::from_chars(number.data(), number.data() + number.size(), value);
  const bool whole = problem == std::errc() && end == number.data() + number.size() && known != units.end();
  if (whole) value *= known->second;
  if (!whole || !(value >= 1.0) || value > 1e18)
    throw Error::make(ExitCode::usage, "{}: wanted a size such as 5GB or 512MiB, got '{}'", option, text);
  return static_cast<uint64_t>(value);
}

struct ConvertArguments {
  ConversionRequest request;
  std::string format, dtype = "stored", shard_size = "5GB", memory = "3GiB";
  bool no_verify = false;
};

void convert_from(const ConvertArguments& arguments) {
  ConversionRequest request = arguments.request;
  const std::map<std::string, ConversionRequest::Format> formats = {{"hf", ConversionRequest::Format::hf},
                                                                    {"megatron", ConversionRequest::Format::megatron},
                                                                    {"gguf", ConversionRequest::Format::gguf},
                                                                    {"capstan", ConversionRequest::Format::capstan}};
  const std::map<std::string, DType> dtypes = {{"f32", DType::f32}, {"f16", DType::f16}, {"bf16", DType::bf16}};
  for (const auto& [option, path] : {std::pair{"--from", &request.from}, std::pair{"--to", &request.to}})
    if (path->empty()) throw Error::make(ExitCode::usage, "{}: wanted a name, got an empty one", option);
  request.format = formats.at(arguments.format);
  if (arguments.dtype != "stored") request.dtype = dtypes.at(arguments.dtype);
  request.shard_bytes = parse_bytes(arguments.shard_size, "--shard-size");
  request.memory = parse_bytes(arguments.memory, "--memory");
  request.verify = !arguments.no_verify;
  Console console(true);
  convert(request, console);
}

}  // namespace

void add_convert_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* verb = app.add_subcommand("convert", "models and corpora to and from Hugging Face, GGUF and Megatron");
  const auto arguments = std::make_shared<ConvertArguments>();
  ConversionRequest& request = arguments->request;
  verb->add_option("--from", request.from, "run directory, one of its checkpoints, Hugging Face directory, or corpus")
      ->required();
  verb->add_option("--to", request.to, "what to write; must not be there yet (megatron: the prefix of .bin and .idx)")
      ->required();
  verb->add_option("--format", arguments->format,
                   "capstan: a run directory; hf: a Hugging Face directory; gguf: one file; megatron: tokens of a "
                   "corpus")
      ->required()
      ->check(CLI::IsMember({"hf", "megatron", "gguf", "capstan"}));
  verb->add_option("--dtype", arguments->dtype, "type of the written weights")
      ->capture_default_str()
      ->check(CLI::IsMember({"stored", "f32", "f16", "bf16"}));
  verb->add_option("--shard-size", arguments->shard_size, "hf: largest file")->capture_default_str();
  verb->add_option("--family", request.family, "hf: model_type to write; default: the one that expresses the model");
  verb->add_option("--step", request.step, "the run's checkpoint of this step; default: the newest")
      ->check(CLI::NonNegativeNumber);
  verb->add_option("--split", request.split, "megatron: train or validation")
      ->capture_default_str()
      ->check(CLI::IsMember({"train", "validation"}));
  verb->add_option("--memory", arguments->memory,
                   "for the model that the proof runs; of a larger one, its first layers")
      ->capture_default_str();
  verb->add_option("--threads", request.threads, "of the proof; 0: all processors")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  verb->add_flag("--no-verify", arguments->no_verify,
                 "do not read back what was written, nor run it: a fault of disk or program would go unnoticed");
  verb->footer(
      "Examples:\n"
      "  capstan convert --from models/gpt2 --to runs/gpt2 --format capstan\n"
      "  capstan convert --from runs/mine --to mine-hf --format hf --dtype bf16 --shard-size 2GB\n"
      "  capstan convert --from runs/mine --to mine.gguf --format gguf --dtype f16\n"
      "  capstan convert --from corpora/web --to web_text_document --format megatron\n"
      "What was written is read back, compared bit by bit and run beside the source before it gets its name.");
  verb->callback([arguments, &action] { action = [arguments] { convert_from(*arguments); }; });
}

}  // namespace capstan
