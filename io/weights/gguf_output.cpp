#include "io/weights/gguf_output.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/failpoint.h"
#include "io/file_system.h"
#include "io/weights/family_config.h"
#include "io/weights/model_settings.h"
#include "kernels/rotary.h"

namespace capstan {
namespace {

using enum RowPacking;

/// A Hugging Face family and the architecture that runs it. `fixed` are the settings that its graph computes: it does
/// not look at what a file says of others, so a model that has them otherwise would run and be wrong.
struct GgufFamily {
  std::vector<const char*> model_types;
  ModelFamily family;
};

std::vector<NameRow> fused_names(const char* attention_norm, const char* mlp_norm) {
  return {{"token_embedding", "token_embd"},
          {"position_embedding", "position_embd"},
          {"embedding_norm", "token_embd_norm"},
          {"layers.#.attention_norm", attention_norm},
          {"layers.#.attention.q", "blk.#.attn_qkv", stacked},
          {"layers.#.attention.k", "blk.#.attn_qkv", stacked},
          {"layers.#.attention.v", "blk.#.attn_qkv", stacked},
          {"layers.#.attention.o", "blk.#.attn_output"},
          {"layers.#.mlp_norm", mlp_norm},
          {"layers.#.mlp.up", "blk.#.ffn_up"},
          {"layers.#.mlp.down", "blk.#.ffn_down"},
          {"final_norm", "output_norm"},
          {"head", "output"}};
}

std::vector<NameRow> split_names() {
  return {{"token_embedding", "token_embd"},
          {"layers.#.attention_norm", "blk.#.attn_norm"},
          {"layers.#.attention.q", "blk.#.attn_q"},
          {"layers.#.attention.k", "blk.#.attn_k"},
          {"layers.#.attention.v", "blk.#.attn_v"},
          {"layers.#.attention.q_norm", "blk.#.attn_q_norm"},
          {"layers.#.attention.k_norm", "blk.#.attn_k_norm"},
          {"layers.#.attention.o", "blk.#.attn_output"},
          {"layers.#.mlp_norm", "blk.#.ffn_norm"},
          {"layers.#.mlp.gate", "blk.#.ffn_gate"},
          {"layers.#.mlp.up", "blk.#.ffn_up"},
          {"layers.#.mlp.down", "blk.#.ffn_down"},
          {"final_norm", "output_norm"},
          {"head", "output"}};
}

ModelFamily architecture(const char* name, std::vector<NameRow> names, RotaryOrder rotary,
                         std::vector<const char*> computed) {
  return {name, name, "", std::move(computed), {}, {}, std::move(names), rotary};
}

const std::vector<GgufFamily>& gguf_families() {
  constexpr const char *kNorm = "blk.#.attn_norm", *kMlpNorm = "blk.#.ffn_norm";
  constexpr const char *kGelu = "activation=gelu_tanh|gelu", *kSilu = "activation=swiglu";
  const std::vector<const char*> biased = {kGelu, "bias_qkv=on", "bias_attention_output=on", "bias_mlp=on"};
  const std::vector<const char*> untied = {
      kGelu, "tied=false", "bias_qkv=on", "bias_attention_output=on", "bias_mlp=on", "rotary_scaling=none|linear"};
  const std::vector<const char*> bare = {kGelu,          "norm_placement=parallel|parallel_two",
                                         "bias_qkv=off", "bias_attention_output=off",
                                         "bias_mlp=off", "rotary_scaling=none|linear|yarn"};
  const std::vector<const char*> qwen3 = {kSilu, "bias_qkv=off", "bias_attention_output=off",
                                          "rotary_scaling=none|linear|yarn"};
  static const std::vector<GgufFamily> all = {
      {{"llama", "mistral"}, architecture("llama", split_names(), RotaryOrder::interleaved, {kSilu})},
      {{"qwen2"},
       architecture("qwen2", split_names(), RotaryOrder::half_split, {kSilu, "rotary_scaling=none|linear|yarn"})},
      {{"qwen3"}, architecture("qwen3", split_names(), RotaryOrder::half_split, qwen3)},
      {{"gpt2"}, architecture("gpt2", fused_names(kNorm, kMlpNorm), RotaryOrder::as_ours, biased)},
      {{"gpt_neox"}, architecture("gptneox", fused_names(kNorm, kMlpNorm), RotaryOrder::half_split, untied)},
      {{"bloom"}, architecture("bloom", fused_names(kNorm, kMlpNorm), RotaryOrder::as_ours, {})},
      {{"falcon"}, architecture("falcon", fused_names(kNorm, kMlpNorm), RotaryOrder::half_split, bare)},
      {{"falcon two norms"},
       architecture("falcon", fused_names("blk.#.attn_norm_2", "blk.#.attn_norm"), RotaryOrder::half_split, bare)}};
  return all;
}

/// Falcon's two norms have names of their own there.
std::string type_there(const ModelFamily& family) {
  for (const NameRow& row : family.names)
    if (std::string_view(row.ours) == "layers.#.mlp_norm" && std::string_view(row.theirs).ends_with(".ln_mlp"))
      return "falcon two norms";
  return family.model_type;
}

/// By what llama.cpp divides each frequency; a table of its own, since its metadata have no words for llama3's rule.
std::vector<float> llama3_divisors(const DecoderConfig& model) {
  kernels::RotaryScale scale;
  scale.kind = kernels::RotaryScale::Kind::llama3;
  scale.factor = model.rotary_factor, scale.low = model.rotary_low, scale.high = model.high_frequency();
  scale.context = static_cast<double>(model.original_context());
  const int64_t dims = model.rotary_dims();
  std::vector<float> divisors;
  for (int64_t pair = 0; pair < dims / 2; ++pair) {
    const double frequency = std::pow(model.rotary_base, -2.0 * static_cast<double>(pair) / static_cast<double>(dims));
    divisors.push_back(static_cast<float>(frequency / scale.scaled(frequency, pair, dims, model.rotary_base)));
  }
  return divisors;
}

/// llama.cpp multiplies by its own 0.1 ln(factor) + 1, and takes the two bounds of the ramp from its command line only.
void add_yarn(const DecoderConfig& model, const std::string& arch, GgufModel& out) {
  const double usual = 0.1 * std::log(model.rotary_factor) + 1.0;
  if (model.rotary_amplitude() != usual)
    out.metadata.emplace_back(arch + ".rope.scaling.attn_factor", static_cast<float>(model.rotary_amplitude() / usual));
  if (model.rotary_low != 1.0 || model.high_frequency() != 32.0)
    out.notices.push_back(
        fmt::format("llama.cpp must be started with --yarn-beta-slow {} --yarn-beta-fast {}: it does "
                    "not read them from the file",
                    model.rotary_low, model.high_frequency()));
}

void add_rotary(const DecoderConfig& model, const std::string& arch, GgufModel& out) {
  if (model.positions != Positions::rotary) return;
  out.metadata.emplace_back(arch + ".rope.dimension_count", static_cast<uint32_t>(model.rotary_dims()));
  out.metadata.emplace_back(arch + ".rope.freq_base", static_cast<float>(model.rotary_base));
  if (model.rotary_scaling == RotaryScaling::none) return;
  if (model.rotary_scaling == RotaryScaling::llama3) {
    out.constants.emplace_back("rope_freqs.weight", llama3_divisors(model));
    return;
  }
  const bool yarn = model.rotary_scaling == RotaryScaling::yarn;
  if (yarn) add_yarn(model, arch, out);
  out.metadata.emplace_back(arch + ".rope.scaling.type", std::string(yarn ? "yarn" : "linear"));
  out.metadata.emplace_back(arch + ".rope.scaling.factor", static_cast<float>(model.rotary_factor));
  out.metadata.emplace_back(arch + ".rope.scaling.original_context_length",
                            static_cast<uint32_t>(model.original_context()));
}

void add_switches(const DecoderConfig& model, const std::string& arch, GgufModel& out) {
  const auto put = [&](const char* key, int64_t value) {
    out.metadata.emplace_back(arch + "." + key, static_cast<uint32_t>(value));
  };
  put("context_length", model.context);
  put("embedding_length", model.width);
  put("block_count", model.layers);
  put("feed_forward_length", model.mlp());
  put("attention.head_count", model.heads);
  put("attention.head_count_kv", model.kv());
  put("vocab_size", model.vocabulary);
  if (model.head() * model.heads != model.width || arch == "llama" || arch == "qwen3") {
    put("attention.key_length", model.head());
    put("attention.value_length", model.head());
  }
  out.metadata.emplace_back(
      arch + (model.norm == NormKind::rms ? ".attention.layer_norm_rms_epsilon" : ".attention.layer_norm_epsilon"),
      static_cast<float>(model.norm_epsilon));
  if (model.positions == Positions::alibi) out.metadata.emplace_back(arch + ".attention.max_alibi_bias", 8.0f);
  if (model.parallel_block())
    out.metadata.emplace_back(arch + ".use_parallel_residual", true);
  else if (arch == "gptneox")
    out.metadata.emplace_back(arch + ".use_parallel_residual", false);
  add_rotary(model, arch, out);
}

bool stays_f32(const MappedTensor& tensor) {
  return tensor.shape.size() == 1 || tensor.name.rfind("position_embd", 0) == 0;
}

uint32_t file_type(DType dtype) { return dtype == DType::f16 ? 1 : dtype == DType::bf16 ? 32 : 0; }

DType gguf_dtype(const MappedTensor& tensor, const ParameterSource& source, std::optional<DType> wanted) {
  return stays_f32(tensor) ? DType::f32 : output_dtype(tensor, source, wanted);
}

}  // namespace

GgufModel gguf_model(const DecoderConfig& model, const Tokenizer* tokenizer) {
  const ModelFamily& theirs = family_for(model);
  const std::string type = type_there(theirs);
  GgufModel out;
  std::string known;
  for (const GgufFamily& row : gguf_families())
    for (const char* name : row.model_types) {
      if (type == name) out.family = &row.family;
      known += fmt::format("{}{}", known.empty() ? "" : ", ", name);
    }
  if (!out.family)
    throw Error::make(ExitCode::config, "llama.cpp has no architecture for {} models; it has those for {}", type,
                      known);
  const std::string arch = out.family->model_type;
  if (const auto otherwise = settings_otherwise(model, out.family->fixed); !otherwise.empty())
    throw Error::make(ExitCode::config, "llama.cpp's {} does not compute this model: {}", arch,
                      fmt::join(otherwise, "; "));
  out.metadata.emplace_back("general.architecture", arch);
  out.metadata.emplace_back("general.alignment", static_cast<uint32_t>(kGgufAlignment));
  out.metadata.emplace_back("general.quantization_version", uint32_t{2});
  add_switches(model, arch, out);
  if (arch == "falcon") out.metadata.emplace_back("falcon.tensor_data_layout", std::string("jploski"));
  if (model.window > 0)
    out.notices.push_back(fmt::format("llama.cpp's {} has no sliding window: texts longer than {} tokens will differ",
                                      arch, model.window));
  if (model.activation == Activation::gelu)
    out.notices.push_back("llama.cpp computes GELU by its tanh approximation: logits will differ a little");
  add_gguf_tokenizer(tokenizer, model.vocabulary, out);
  return out;
}

void write_gguf(const std::filesystem::path& path, const GgufModel& described, const TensorMap& map,
                ParameterSource& source, std::optional<DType> dtype, const ProgressReport& progress) {
  std::vector<GgufTensor> tensors;
  OutputProgress state;
  DType most = DType::f32;
  for (const MappedTensor& tensor : map.tensors()) {
    tensors.push_back({tensor.name, gguf_dtype(tensor, source, dtype), tensor.shape});
    if (tensor.shape.size() == 2 && !stays_f32(tensor)) most = tensors.back().dtype;
  }
  for (const auto& [name, numbers] : described.constants)
    tensors.push_back({name, DType::f32, {static_cast<int64_t>(numbers.size())}});
  GgufMetadata metadata = described.metadata;
  metadata.emplace_back("general.file_type", file_type(most));
  const std::string header = gguf_header(metadata, tensors);
  DurableFile file(path);
  file.write(header);
  for (const GgufTensor& tensor : tensors) state.total += tensor.bytes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    failpoint("convert.tensor");
    const std::string padding(header.size() + tensors[i].offset - file.size(), '\0');
    file.write(padding);
    const auto put = [&](const void* data, uint64_t bytes) {
      file.write(data, bytes);
      progress({state.bytes += bytes, state.total});
    };
    if (const size_t mapped = map.tensors().size(); i < mapped)
      write_mapped_tensor(map.tensors()[i], source, tensors[i].dtype, put);
    else
      put(described.constants[i - mapped].second.data(), tensors[i].bytes);
  }
  file.write(std::string((file.size() + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment - file.size(), '\0'));
  file.sync_and_close();
}

}  // namespace capstan
