#include "io/weights/gguf_output.h"

#include <algorithm>

#include "core/error.h"
#include "core/failpoint.h"
#include "io/file_system.h"
#include "io/weights/family_config.h"

namespace capstan {
namespace {

using enum RowPacking;

/// A Hugging Face family and the architecture that runs it.
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

ModelFamily architecture(const char* name, std::vector<NameRow> names, RotaryOrder rotary) {
  return {name, name, "", {}, {}, {}, std::move(names), rotary};
}

const std::vector<GgufFamily>& gguf_families() {
  constexpr const char *kNorm = "blk.#.attn_norm", *kMlpNorm = "blk.#.ffn_norm";
  static const std::vector<GgufFamily> all = {
      {{"llama", "mistral"}, architecture("llama", split_names(), RotaryOrder::interleaved)},
      {{"qwen2"}, architecture("qwen2", split_names(), RotaryOrder::half_split)},
      {{"qwen3"}, architecture("qwen3", split_names(), RotaryOrder::half_split)},
      {{"gpt2"}, architecture("gpt2", fused_names(kNorm, kMlpNorm), RotaryOrder::as_ours)},
      {{"gpt_neox"}, architecture("gptneox", fused_names(kNorm, kMlpNorm), RotaryOrder::half_split)},
      {{"bloom"}, architecture("bloom", fused_names(kNorm, kMlpNorm), RotaryOrder::as_ours)},
      {{"falcon"}, architecture("falcon", fused_names(kNorm, kMlpNorm), RotaryOrder::half_split)},
      {{"falcon two norms"},
       architecture("falcon", fused_names("blk.#.attn_norm_2", "blk.#.attn_norm"), RotaryOrder::half_split)}};
  return all;
}

/// Falcon's two norms have names of their own there.
std::string type_there(const ModelFamily& family) {
  for (const NameRow& row : family.names)
    if (std::string_view(row.ours) == "layers.#.mlp_norm" && std::string_view(row.theirs).ends_with(".ln_mlp"))
      return "falcon two norms";
  return family.model_type;
}

const char* scaling_name(RotaryScaling scaling) { return scaling == RotaryScaling::yarn ? "yarn" : "linear"; }

void add_rotary(const DecoderConfig& model, const std::string& arch, GgufModel& out) {
  if (model.positions != Positions::rotary) return;
  out.metadata.emplace_back(arch + ".rope.dimension_count", static_cast<uint32_t>(model.rotary_dims()));
  out.metadata.emplace_back(arch + ".rope.freq_base", static_cast<float>(model.rotary_base));
  if (model.rotary_scaling == RotaryScaling::none) return;
  if (model.rotary_scaling == RotaryScaling::llama3)
    throw Error::make(ExitCode::config,
                      "GGUF keeps llama3's rotary scaling as a table of its own, which is not written here; use "
                      "--format hf and llama.cpp's own converter");
  out.metadata.emplace_back(arch + ".rope.scaling.type", std::string(scaling_name(model.rotary_scaling)));
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
  out.metadata.emplace_back("general.architecture", arch);
  out.metadata.emplace_back("general.alignment", static_cast<uint32_t>(kGgufAlignment));
  out.metadata.emplace_back("general.quantization_version", uint32_t{2});
  add_switches(model, arch, out);
  if (arch == "falcon") out.metadata.emplace_back("falcon.tensor_data_layout", std::string("jploski"));
  if (model.window > 0)
    out.notices.push_back(fmt::format("llama.cpp's {} has no sliding window: texts longer than {} tokens will differ",
                                      arch, model.window));
  if (tokenizer)
    add_gguf_tokenizer(*tokenizer, model.vocabulary, out);
  else
    out.notices.push_back("no tokenizer goes into the file: llama.cpp will want one");
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
    write_mapped_tensor(map.tensors()[i], source, tensors[i].dtype, [&](const void* data, uint64_t bytes) {
      file.write(data, bytes);
      progress({state.bytes += bytes, state.total});
    });
  }
  file.write(std::string((file.size() + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment - file.size(), '\0'));
  file.sync_and_close();
}

}  // namespace capstan
