#include "launch/converted_model.h"

#include <array>
#include <charconv>

#include "core/config/config_reader.h"
#include "core/config/parameter_count.h"
#include "core/error.h"
#include "io/corpus/manifest.h"
#include "io/safetensors.h"
#include "io/tokenizer/byte_tokenizer.h"
#include "io/weights/meta_layout.h"
#include "io/weights/tokenizer_output.h"
#include "launch/finished_run.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr const char* kModelConfig = "config.json";
constexpr uint64_t kMostTravelling = uint64_t{256} << 20;  ///< together: all of it is held

/// Files besides weights that belong to a model.
constexpr std::array kTravelling = {"config.json",
                                    "generation_config.json",
                                    "tokenizer.json",
                                    "tokenizer_config.json",
                                    "special_tokens_map.json",
                                    "added_tokens.json",
                                    "vocab.json",
                                    "merges.txt",
                                    "vocab.txt",
                                    "tokenizer.model",
                                    "tekken.json",
                                    "spiece.model",
                                    "sentencepiece.bpe.model",
                                    "chat_template.jinja",
                                    "chat_template.json"};

/// None may lie elsewhere: a link in somebody's directory could name any file of the user's.
std::vector<TravellingFile> read_travelling(const fs::path& directory) {
  std::vector<TravellingFile> files;
  uint64_t left = kMostTravelling;
  for (const char* name : kTravelling) {
    if (!anything_at(directory / name)) continue;
    const uint64_t bytes = size_of(open_beneath(directory, name), directory / name);
    if (bytes > left)
      throw Error::make(ExitCode::bad_data,
                        "{}: of {} bytes, and what stands beside it takes {}; wanted at most {} in all",
                        (directory / name).string(), bytes, kMostTravelling - left, kMostTravelling);
    files.push_back({name, read_file_beneath(directory, name, left)});
    left -= files.back().bytes.size();
  }
  return files;
}

bool has_tokenizer(const std::vector<TravellingFile>& files) {
  constexpr std::array names = {"tokenizer.json",          "tokenizer.model", "tekken.json", "spiece.model",
                                "sentencepiece.bpe.model", "vocab.json",      "vocab.txt"};
  for (const TravellingFile& file : files)
    for (const char* name : names)
      if (file.name == name) return true;
  return false;
}

std::shared_ptr<const Tokenizer> tokenizer_beside(const ConvertedModel& opened, const fs::path& directory) {
  const std::string* text = opened.travelling_file("tokenizer.json");
  if (text != nullptr && *text == hugging_face_tokenizer_files(ByteTokenizer(), 0).front().second)
    return std::make_shared<ByteTokenizer>();  // ours, in their words
  return load_tokenizer(directory);
}

void open_tokenizer(ConvertedModel& opened, const fs::path& directory) {
  if (!has_tokenizer(opened.travelling)) {
    opened.notices.push_back("there is no tokenizer beside the weights");
    return;
  }
  try {
    opened.tokenizer = tokenizer_beside(opened, directory);
  } catch (const Error& error) {
    opened.notices.push_back(fmt::format("the tokenizer cannot be read here and travels as it is: {}", error.what()));
    return;
  }
  if (opened.tokenizer->vocabulary() <= static_cast<uint64_t>(opened.model.vocabulary)) return;
  opened.notices.push_back(fmt::format("the tokenizer has {} tokens, the model {}: it travels, but is not used here",
                                       opened.tokenizer->vocabulary(), opened.model.vocabulary));
  opened.tokenizer = nullptr;
}

/// Parameters as the model declares them, to be asked for by name.
ParameterSet declared(const DecoderConfig& model) {
  ParameterSet parameters;
  const Decoder decoder(model, parameters);
  return parameters;
}

struct CheckpointPlace {
  fs::path run;
  int64_t step = -1;
};

/// RUN, or RUN/checkpoints/step-N.
CheckpointPlace checkpoint_place(const fs::path& path, int64_t step) {
  const fs::path clean = path.has_filename() ? path : path.parent_path();
  if (clean.parent_path().filename() != kRunCheckpointsName) return {clean, step};
  const std::string name = clean.filename().string();
  uint64_t named = 0;
  const auto read = std::from_chars(name.data() + std::min<size_t>(5, name.size()), name.data() + name.size(), named);
  if (read.ec != std::errc() || name != checkpoint_name(named))
    throw Error::make(ExitCode::missing_input, "{} is no checkpoint; wanted a run directory or its {}/step-N",
                      path.string(), kRunCheckpointsName);
  if (step >= 0 && static_cast<uint64_t>(step) != named)
    throw Error::make(ExitCode::usage, "--from names step {}, --step {}", named, step);
  return {clean.parent_path().parent_path(), static_cast<int64_t>(named)};
}

ConvertedModel open_run_model(const fs::path& path, int64_t wanted_step) {
  const CheckpointPlace place = checkpoint_place(path, wanted_step);
  const RunDirectory directory(place.run.string());
  ConvertedModel opened;
  opened.checkpoint = std::make_unique<Checkpoint>(
      place.step < 0 ? newest_checkpoint(directory, opened.notices, Verified::as_it_is_read)
                     : Checkpoint::open(directory.checkpoints() / checkpoint_name(static_cast<uint64_t>(place.step))));
  const std::string where = opened.checkpoint->path().string();
  const TrainingState state = TrainingState::from_json(opened.checkpoint->state(), where);
  const RunConfig config = parse_run_config(state.config, "config of " + where);
  opened.described = fmt::format("step {} of {}", state.step, place.run.string());
  opened.model = config.model;
  opened.trained = !state.weights_only;
  opened.parameters = declared(opened.model);
  opened.source = std::make_unique<CheckpointSource>(*opened.checkpoint, opened.parameters);
  if (directory_at(directory.travelling())) opened.travelling = read_travelling(directory.travelling());
  try {
    opened.tokenizer = tokenizer_of(directory, config, state.tokenizer);
  } catch (const Error& error) {
    opened.notices.push_back(fmt::format("no tokenizer travels: {}", error.what()));
  }
  if (const std::string* text = opened.travelling_file(kModelConfig))
    opened.family = read_model_config(*text, (directory.travelling() / kModelConfig).string()).family;
  return opened;
}

/// In double: what a file says may be more than 64 bits hold.
double numbers_described(DecoderConfig model) {
  const double layers = static_cast<double>(model.layers);
  model.layers = 1;
  const double one = static_cast<double>(parameter_count(model));
  model.layers = 2;
  return one + (layers - 1) * (static_cast<double>(parameter_count(model)) - one);
}

/// Before anything is laid out by what a config says: it takes work and memory by the number of layers and of rows.
/// Where the two are of one size, a wrong config is told tensor by tensor.
void check_size(const ConvertedModel& opened, const fs::path& config) {
  constexpr double kFarMore = 8;
  if (static_cast<uint64_t>(opened.model.layers) > opened.files->tensors().size())
    throw Error::make(ExitCode::bad_data, "{}: {} layers, but the files hold {} tensors in all", config.string(),
                      opened.model.layers, opened.files->tensors().size());
  double numbers = 0;
  for (const auto& [name, tensor] : opened.files->tensors()) {
    double elements = 1;
    for (const int64_t extent : tensor.shape) elements *= static_cast<double>(extent);
    numbers += elements;
  }
  if (const double described = numbers_described(opened.model); described > kFarMore * numbers)
    throw Error::make(ExitCode::bad_data, "{}: a model of {:.0f} parameters, but the files hold {:.0f} numbers in all",
                      config.string(), described, numbers);
}

/// With family, model and files there: the map of names, and the parameters by it.
void open_tensors(ConvertedModel& opened, const fs::path& config, const ModelFamily& names) {
  check_size(opened, config);
  opened.map = std::make_unique<TensorMap>(names, opened.model);
  auto source = std::make_unique<MappedSource>(*opened.files, *opened.map);
  opened.notices = source->unused().notices;
  opened.parameters = opened.map->parameters();
  opened.source = std::move(source);
}

}  // namespace

const std::string* ConvertedModel::travelling_file(std::string_view name) const {
  for (const TravellingFile& file : travelling)
    if (file.name == name) return &file.bytes;
  return nullptr;
}

bool is_hugging_face(const fs::path& path) { return anything_at(path / kModelConfig); }
bool is_corpus(const fs::path& path) {
  return anything_at(path / kManifestName) && !directory_at(path / "checkpoints") &&
         path.filename().string().rfind("step-", 0) != 0;
}

ConvertedModel open_hugging_face(const fs::path& directory, bool with_tokenizer) {
  ConvertedModel opened;
  opened.travelling = read_travelling(directory);
  const std::string* text = opened.travelling_file(kModelConfig);
  if (text == nullptr) throw Error::make(ExitCode::missing_input, "{} holds no {}", directory.string(), kModelConfig);
  opened.files = open_safetensors_directory(directory);
  const FamilyModel found = read_model_config(*text, (directory / kModelConfig).string());
  opened.family = found.family, opened.model = found.model;
  opened.described = fmt::format("Hugging Face {}", opened.family->model_type);
  open_tensors(opened, directory / kModelConfig, *opened.family);
  if (with_tokenizer) open_tokenizer(opened, directory);
  return opened;
}

ConvertedModel open_meta(const fs::path& directory) {
  ConvertedModel opened;
  opened.travelling = read_travelling(directory);
  opened.files = open_meta_weights(directory);
  const fs::path params = directory / kMetaParams;
  opened.model =
      read_meta_params(read_file_beneath(directory, kMetaParams, kMaxModelConfigBytes), *opened.files, params.string());
  opened.described = fmt::format("{} beside {}", kMetaParams, kMetaWeights);
  open_tensors(opened, params, meta_family());
  open_tokenizer(opened, directory);
  return opened;
}

ConvertedModel open_model(const fs::path& path, int64_t step) {
  if (!directory_at(path))
    throw Error::make(ExitCode::missing_input,
                      "there is no directory {}; wanted a run directory or a Hugging Face model directory",
                      path.string());
  if (is_hugging_face(path)) return open_hugging_face(path, true);
  if (anything_at(path / kMetaParams)) return open_meta(path);
  return open_run_model(path, step);
}

}  // namespace capstan
