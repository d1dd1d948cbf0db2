#include "core/generation_program.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/ops/elementwise.h"

namespace capstan {
namespace {

std::string input_name(const std::string& plan, const char* what) { return plan + "." + what; }

float as_float(const void* values, DType dtype, int64_t index) {
  if (dtype == DType::f64) return static_cast<float>(static_cast<const double*>(values)[index]);
  if (dtype == DType::f32) return static_cast<const float*>(values)[index];
  if (dtype == DType::f16) return static_cast<float>(static_cast<const Float16*>(values)[index]);
  return static_cast<float>(static_cast<const BFloat16*>(values)[index]);
}

}  // namespace

GenerationProgram::GenerationProgram(const Mesh& mesh, const Device& device, const DecoderConfig& model,
                                     Precision precision)
    : precision_(precision), program_(mesh, device, {}) {
  model_ = std::make_unique<Decoder>(model, program_.parameters());
  declare(activation_dtype(precision));
  record("prefill", false);
  record("decode", true);
}

void GenerationProgram::declare(DType dtype) {
  PersistentSpace& space = program_.persistent();
  for (size_t i = 0; i < program_.parameters().size(); ++i) {
    const Parameter& parameter = program_.parameters().at(static_cast<int>(i));
    space.add(parameter.name, {parameter.shape, dtype}, Purpose::parameter);
  }
  model_->declare_constants(space);
  const DecoderConfig& config = model_->config();
  const int64_t capacity = config.context + kPrefillChunk;  // a padded chunk may end beyond the context
  for (int64_t i = 0; i < config.layers; ++i)
    for (const std::string& name : {Decoder::key_cache_name(i), Decoder::value_cache_name(i)})
      space.add(name, {{1, capacity, config.kv() * config.head()}, dtype}, Purpose::cache);
  space.add("key_lengths", {{1}, DType::i32}, Purpose::input);
  for (const auto& [plan, rows] : {std::pair<std::string, int64_t>{"prefill", kPrefillChunk}, {"decode", 1}})
    for (const char* what : {"tokens", "positions"})
      space.add(input_name(plan, what), {{1, rows}, DType::i32}, Purpose::input);
  space.add("logits", {{1, 1, padded_vocabulary(config.vocabulary)}, dtype}, Purpose::input);
}

void GenerationProgram::record(const std::string& plan, bool with_logits) {
  Recorder recorder = program_.recorder({false, activation_dtype(precision_)});
  DecoderInputs inputs;
  inputs.tokens = recorder.persistent(input_name(plan, "tokens"));
  inputs.positions = recorder.persistent(input_name(plan, "positions"));
  inputs.key_lengths = recorder.persistent("key_lengths");
  for (int64_t i = 0; i < model_->config().layers; ++i) {
    inputs.key_caches.push_back(recorder.persistent(Decoder::key_cache_name(i)));
    inputs.value_caches.push_back(recorder.persistent(Decoder::value_cache_name(i)));
  }
  const Value hidden = model_->hidden(recorder, inputs);
  if (with_logits) copy_into(recorder, model_->logits(recorder, hidden), recorder.persistent("logits"));
  program_.add(plan, std::move(recorder.tape()));
}

void GenerationProgram::allocate() {
  program_.allocate();
  for (const Constant& constant : model_->constants()) program_.fill(constant.name, constant.fill);
}

void GenerationProgram::prefill(const std::vector<int32_t>& tokens) {
  CAPSTAN_CHECK(length_ + static_cast<int64_t>(tokens.size()) <= context(), "{} tokens do not fit after {} of {}",
                tokens.size(), length_, context());
  for (size_t first = 0; first < tokens.size(); first += kPrefillChunk) {
    const int64_t count = std::min<int64_t>(kPrefillChunk, static_cast<int64_t>(tokens.size() - first));
    int32_t* ids = program_.write<int32_t>("prefill.tokens");
    int32_t* positions = program_.write<int32_t>("prefill.positions");
    for (int64_t i = 0; i < kPrefillChunk; ++i) {
      ids[i] = i < count ? tokens[first + static_cast<size_t>(i)] : 0;
      positions[i] = static_cast<int32_t>(std::min(length_ + i, context() - 1));
    }
    *program_.write<int32_t>("key_lengths") = static_cast<int32_t>(length_ + kPrefillChunk);
    program_.run("prefill", Part::forward);
    length_ += count;
  }
}

std::vector<float> GenerationProgram::decode(int32_t token) {
  CAPSTAN_CHECK(length_ < context(), "the cache of {} tokens is full", context());
  *program_.write<int32_t>("decode.tokens") = token;
  *program_.write<int32_t>("decode.positions") = static_cast<int32_t>(length_);
  *program_.write<int32_t>("key_lengths") = static_cast<int32_t>(++length_);
  program_.run("decode", Part::forward);
  std::vector<float> logits(static_cast<size_t>(model_->config().vocabulary));
  const void* held = program_.read<char>("logits");
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = as_float(held, dtype(), static_cast<int64_t>(i));
  return logits;
}

}  // namespace capstan
