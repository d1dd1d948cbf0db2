#include "launch/converter.h"

#include <boost/json.hpp>

#include "core/config/config_writer.h"
#include "core/error.h"
#include "core/failpoint.h"
#include "io/checkpoint/save.h"
#include "io/file_system.h"
#include "io/partial_claim.h"
#include "io/tokenizer/byte_tokenizer.h"
#include "io/weights/config_members.h"
#include "io/weights/gguf_output.h"
#include "io/weights/megatron_output.h"
#include "io/weights/model_settings.h"
#include "io/weights/tokenizer_output.h"
#include "launch/converted_model.h"
#include "launch/run_directory.h"
#include "launch/weights_proof.h"

namespace capstan {
namespace fs = std::filesystem;
namespace json = boost::json;
namespace {

using Format = ConversionRequest::Format;

const char* const kReportName = "conversion.json";

fs::path without_slash(const fs::path& path) {
  const fs::path clean = path.lexically_normal();
  return clean.has_filename() ? clean : clean.parent_path();
}

/// What is written until it is proved; removed unless it was given its final name.
class Unproved {
 public:
  Unproved(const fs::path& final_name, PartialClaim::Kind kind)
      : final_(final_name), partial_(partial_name(final_name)), claim_(partial_, kind) {
    try {
      refuse_taken(final_);  // by one that ended before the claim
    } catch (...) {
      remove();
      throw;
    }
  }
  ~Unproved() {
    if (!proved_) remove();
  }
  Unproved(const Unproved&) = delete;
  Unproved& operator=(const Unproved&) = delete;
  const fs::path& path() const { return partial_; }
  void publish() {
    if (failpoint("convert.before_rename"))
      throw Error::make(ExitCode::io_error, "{}: no space left on device", partial_.string());
    rename_durably(partial_, final_);
    proved_ = true;
  }

 private:
  void remove() {
    std::error_code ignored;
    fs::remove_all(partial_, ignored);
  }

  fs::path final_, partial_;
  PartialClaim claim_;
  bool proved_ = false;
};

class Conversion {
 public:
  Conversion(const ConversionRequest& request, Console& console)
      : request_(request), console_(console), from_(open_model(without_slash(request.from), request.step)) {
    console_.say(fmt::format("from     {}: {} layers, width {}, vocabulary {}, {} parameters", from_.described,
                             from_.model.layers, from_.model.width, from_.model.vocabulary,
                             from_.parameters.elements()));
    for (const std::string& notice : from_.notices) console_.say("note     " + notice);
  }

  void run() {
    if (request_.format == Format::gguf) return to_gguf();
    if (request_.format == Format::hf) return to_hugging_face();
    to_capstan();
  }

 private:
  ProgressReport progress(const char* what) {
    return [this, what](const OutputProgress& done) {
      const double share = done.total ? static_cast<double>(done.bytes) / static_cast<double>(done.total) : 1.0;
      console_.progress(
          fmt::format("{}  {:3.0f}%  {} of {}", what, 100.0 * share, bytes_text(static_cast<double>(done.bytes)),
                      bytes_text(static_cast<double>(done.total))),
          done.bytes == done.total);
    };
  }

  // ---- to a run directory

  void to_capstan() {
    Unproved out(without_slash(request_.to), PartialClaim::Kind::directory);
    const RunDirectory directory(out.path().string());
    write_checkpoint(directory);
    write_run_files(directory);
    Checkpoint written = Checkpoint::open(directory.checkpoints() / checkpoint_name(0));
    CheckpointSource source(written, from_.parameters);
    prove(source, out.path());
    out.publish();
    console_.say(
        fmt::format("run      {}: capstan generate --run {}; to go on training: capstan train {} "
                    "data.corpora=CORPUS train.steps=N schedule.warmup_steps=N",
                    request_.to, request_.to, (fs::path(request_.to) / "config.toml").string()));
  }

  RunConfig run_config() const {
    RunConfig config;
    config.model = from_.model;
    config.run.dir = without_slash(request_.to).string();
    return config;
  }

  void write_checkpoint(const RunDirectory& directory) {
    std::vector<LogicalTensor> tensors;
    std::vector<Slice> slices;
    OutputProgress state;
    const ProgressReport report = progress("writing");
    for (size_t i = 0; i < from_.parameters.size(); ++i) {
      const Parameter& parameter = from_.parameters.at(static_cast<int>(i));
      const LogicalTensor tensor{parameter.name, request_.dtype.value_or(from_.source->dtype(parameter.name)),
                                 parameter.logical_shape()};
      state.total += elements_of(tensor) * bytes_of(tensor.dtype);
      Slice slice{tensor.name, 0, elements_of(tensor)};
      auto stream = std::make_shared<ParameterStream>(*from_.source, tensor.name, tensor.shape, tensor.dtype);
      slice.fetch = [stream, &state, &report](uint64_t first, uint64_t bytes, void* dst) {
        failpoint("convert.tensor");
        stream->read(first, bytes, dst);
        report({state.bytes += bytes, state.total});
      };
      tensors.push_back(tensor);
      slices.push_back(std::move(slice));
    }
    TrainingState training;
    training.weights_only = true;
    training.tokenizer = from_.tokenizer ? from_.tokenizer->hash() : "";
    training.config = write_effective(run_config());
    LoneGroup alone;
    save_checkpoint(directory.checkpoints(), 0, std::move(tensors), std::move(slices), training.to_json(), alone, 2);
  }

  void write_run_files(const RunDirectory& directory) {
    directory.write_config(run_config());
    if (from_.tokenizer) from_.tokenizer->save(directory.path());
    if (from_.travelling.empty()) return;
    create_directory_durably(directory.travelling());
    for (const TravellingFile& file : from_.travelling) {
      write_file_atomically(directory.travelling() / file.name,
                            file.name == "config.json" ? retyped(file.bytes) : file.bytes);
    }
  }

  // ---- to a Hugging Face directory

  void to_hugging_face() {
    const ModelFamily& family = request_.family.empty() && from_.family && expresses(*from_.family)
                                    ? *from_.family
                                    : family_for(from_.model, request_.family);
    const TensorMap map(family, from_.model);
    Unproved out(without_slash(request_.to), PartialClaim::Kind::directory);
    const std::vector<WrittenFile> files =
        write_safetensors(out.path(), map, *from_.source, request_.dtype, request_.shard_bytes, progress("writing"));
    write_side_files(out.path(), map);
    const ConvertedModel written = open_hugging_face(out.path(), false);
    if (const auto differences = model_differences(from_.model, written.model); !differences.empty())
      throw Error::make(ExitCode::internal, "config.json says another model: {}", fmt::join(differences, "; "));
    prove(*written.source, out.path());
    out.publish();
    uint64_t bytes = 0;
    for (const WrittenFile& file : files) bytes += file.bytes;
    console_.say(fmt::format("written  {} ({}): {} in {} file{}", request_.to, family.architecture,
                             bytes_text(static_cast<double>(bytes)), files.size(), files.size() == 1 ? "" : "s"));
  }

  bool expresses(const ModelFamily& family) const {
    const FamilyModel back = read_model_config(write_model_config(family, from_.model, {}), family.model_type);
    return model_differences(from_.model, back.model).empty();
  }

  /// The type of most of what is written.
  DType main_dtype() const {
    std::map<DType, int64_t> elements;
    for (size_t i = 0; i < from_.parameters.size(); ++i) {
      const Parameter& parameter = from_.parameters.at(static_cast<int>(i));
      elements[request_.dtype.value_or(from_.source->dtype(parameter.name))] +=
          element_count(parameter.logical_shape());
    }
    return std::max_element(elements.begin(), elements.end(),
                            [](const auto& a, const auto& b) { return a.second < b.second; })
        ->first;
  }

  /// A config.json that came, saying the type of weights where they were given another since: by --dtype, or by
  /// training, which keeps masters.
  std::string retyped(const std::string& config) const {
    return request_.dtype || from_.trained ? with_dtype(config, torch_name(main_dtype())) : config;
  }

  static const char* torch_name(DType dtype) {
    return dtype == DType::f64    ? "float64"
           : dtype == DType::bf16 ? "bfloat16"
           : dtype == DType::f16  ? "float16"
                                  : "float32";
  }

  /// A config.json that still describes the model leaves as it came, or retyped; else it is written anew.
  std::string config_json(const TensorMap& map) const {
    const std::string* came = from_.travelling_file("config.json");
    ConfigExtras extras;
    extras.dtype = torch_name(main_dtype());
    if (came && still_true(*came, map.family())) return retyped(*came);
    if (from_.tokenizer) extras.begin_token = extras.end_token = from_.tokenizer->end_of_document();
    const std::string fresh = write_model_config(map.family(), from_.model, extras);
    return came ? with_token_ids_of(fresh, *came) : fresh;
  }

  bool still_true(const std::string& config, const ModelFamily& family) const {
    const FamilyModel said = read_model_config(config, "the config.json that came with the model");
    return said.family == &family && model_differences(said.model, from_.model).empty();
  }

  void write_side_files(const fs::path& directory, const TensorMap& map) {
    write_file_atomically(directory / "config.json", config_json(map));
    for (const TravellingFile& file : from_.travelling)
      if (file.name != "config.json") write_file_atomically(directory / file.name, file.bytes);
    if (from_.travelling_file("tokenizer.json") || !from_.tokenizer) return;
    for (const auto& [name, text] : hugging_face_tokenizer_files(*from_.tokenizer, from_.model.context))
      if (!from_.travelling_file(name)) write_file_atomically(directory / name, text);
  }

  // ---- to GGUF

  void to_gguf() {
    const GgufModel described = gguf_model(from_.model, from_.tokenizer.get());
    for (const std::string& notice : described.notices) console_.say("note     " + notice);
    const TensorMap map(*described.family, from_.model);
    Unproved out(without_slash(request_.to), PartialClaim::Kind::file);
    write_gguf(out.path(), described, map, *from_.source, request_.dtype, progress("writing"));
    const std::unique_ptr<TensorFiles> files = open_gguf(out.path());
    MappedSource written(*files, map);
    prove(written, "");
    out.publish();
    console_.say(fmt::format("written  {} ({}), {}", request_.to, described.family->model_type,
                             bytes_text(static_cast<double>(fs::file_size(without_slash(request_.to))))));
  }

  // ---- the proof

  void prove(ParameterSource& written, const fs::path& report_directory) {
    if (!request_.verify) {
      console_.say("proof    none (--no-verify): what was written was neither read back nor run");
      return;
    }
    ProofOptions options;
    options.memory = request_.memory, options.threads = request_.threads;
    const WeightsProof proof = prove_weights(from_.model, from_.parameters, *from_.source, written, options,
                                             [report = progress("reading back")](uint64_t done, uint64_t total) {
                                               report({done, total});
                                             });
    if (!proof.good())
      throw Error::make(ExitCode::bad_data, "the proof failed: {}; nothing was kept under {}", proof.problem(),
                        request_.to);
    say(proof);
    if (!report_directory.empty()) write_file_atomically(report_directory / kReportName, report_text(proof));
  }

  void say(const WeightsProof& proof) {
    console_.say(fmt::format("proof    {} parameters, {} numbers, bit for bit what was to be written: xxh3 {}",
                             proof.parameters, proof.elements, proof.written.hex()));
    if (proof.layers_run == 0) {
      console_.say("proof    logits were not compared: the model does not fit into the memory allowed (--memory)");
      return;
    }
    console_.say(
        fmt::format("proof    logits of {} tokens through {} of {} layers: largest difference {:.3g}, KL "
                    "{:.3g} nats ({:.1g} allowed)",
                    proof.tokens, proof.layers_run, proof.layers, proof.largest_difference, proof.divergence,
                    proof.allowed_divergence));
  }

  std::string report_text(const WeightsProof& proof) const {
    return json::serialize(json::object{{"from", from_.described},
                                        {"parameters", proof.parameters},
                                        {"numbers", proof.elements},
                                        {"xxh3_source", proof.source.hex()},
                                        {"xxh3_written", proof.written.hex()},
                                        {"layers", proof.layers},
                                        {"layers_run", proof.layers_run},
                                        {"tokens", proof.tokens},
                                        {"largest_logit_difference", proof.largest_difference},
                                        {"kl_nats", proof.divergence},
                                        {"kl_allowed", proof.allowed_divergence}}) +
           "\n";
  }

  const ConversionRequest& request_;
  Console& console_;
  ConvertedModel from_;
};

void convert_corpus(const ConversionRequest& request, Console& console) {
  if (!is_corpus(request.from))
    throw Error::make(ExitCode::missing_input,
                      "{} is no corpus; --format megatron writes the tokens of a corpus as .bin and .idx",
                      request.from);
  const MegatronCounts counts =
      write_megatron(request.from, request.split, request.to, request.verify, [&](uint64_t done, uint64_t total) {
        console.progress(fmt::format("writing  {} of {} tokens", done, total), done == total);
      });
  console.say(fmt::format("written  {}.bin and {}.idx: {} documents, {} tokens of {} bytes{}", request.to, request.to,
                          counts.documents, counts.tokens, counts.token_bytes,
                          request.verify ? ", read back and equal" : ""));
}

}  // namespace

void convert(const ConversionRequest& request, Console& console) {
  if (request.format == Format::megatron) return convert_corpus(request, console);
  refuse_taken(without_slash(request.to));
  Conversion(request, console).run();
}

}  // namespace capstan
