#include "io/objective.h"

#include "core/error.h"

namespace capstan {

SampleFields& SampleFields::set(std::string_view name, void* data) {
  for (size_t i = 0; i < count_; ++i)
    if (entries_[i].name == name) {
      entries_[i].data = data;
      return *this;
    }
  CAPSTAN_CHECK(count_ < entries_.size(), "more than {} fields", entries_.size());
  entries_[count_++] = {name, data};
  return *this;
}

void* SampleFields::find(std::string_view name) const {
  for (size_t i = 0; i < count_; ++i)
    if (entries_[i].name == name) return entries_[i].data;
  return nullptr;
}

std::vector<FieldSpec> CausalObjective::fields(int64_t context) const {
  return {{"tokens", DType::i32, context},
          {"targets", DType::i32, context},
          {"loss_weights", DType::f32, context},
          {"positions", DType::i32, context},
          {"document_ids", DType::i32, context}};
}

SampleTally CausalObjective::write(const TokenWindows& windows, const SampleFields& out) const {
  auto* tokens = out.get<int32_t>("tokens");
  auto* targets = out.get<int32_t>("targets");
  auto* weights = out.get<float>("loss_weights");
  auto* positions = out.get<int32_t>("positions");
  auto* documents = out.get<int32_t>("document_ids");
  const int64_t context = windows.length - 1;
  uint64_t weighted = 0, bytes = 0;
  for (int64_t sample = 0; sample < windows.count; ++sample) {
    const uint32_t* window = windows.tokens.data() + sample * windows.length;
    int32_t position = 0, document = 0;
    for (int64_t t = 0; t < context; ++t) {
      const int64_t at = sample * context + t;
      const bool ends = window[t] == windows.end_of_document;  // its successor is another document's first token
      if (tokens) tokens[at] = static_cast<int32_t>(window[t]);
      if (targets) targets[at] = static_cast<int32_t>(window[t + 1]);
      if (weights) weights[at] = ends ? 0.0f : 1.0f;
      if (positions) positions[at] = position;
      if (documents) documents[at] = document;
      if (!ends) {
        ++weighted;
        bytes += windows.text_bytes[window[t + 1]];
      }
      position = ends ? 0 : position + 1;
      document += ends;
    }
  }
  return {static_cast<double>(weighted), bytes};
}

}  // namespace capstan
