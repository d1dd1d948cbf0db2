#include "io/corpus/objective.h"

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

std::vector<FieldSpec> sequence_fields(int64_t context) {
  return {{"tokens", DType::i32, context},
          {"targets", DType::i32, context},
          {"loss_weights", DType::f32, context},
          {"positions", DType::i32, context},
          {"document_ids", DType::i32, context}};
}

void write_documents(const uint32_t* tokens, const uint8_t* marks, int64_t context, uint32_t end_of_document,
                     bool separate, int32_t* positions, int32_t* document_ids) {
  int32_t position = 0, document = 0;
  for (int64_t t = 0; t < context; ++t) {
    if (separate && t > 0 && (tokens[t - 1] == end_of_document || (marks[t] & kSeam) != 0)) position = 0, ++document;
    if (positions) positions[t] = position;
    if (document_ids) document_ids[t] = document;
    ++position;
  }
}

std::vector<FieldSpec> CausalObjective::fields(int64_t context) const { return sequence_fields(context); }

SampleTally CausalObjective::write(const TokenWindows& windows, const SampleFields& out) const {
  auto* tokens = out.get<int32_t>("tokens");
  auto* targets = out.get<int32_t>("targets");
  auto* weights = out.get<float>("loss_weights");
  auto* positions = out.get<int32_t>("positions");
  auto* documents = out.get<int32_t>("document_ids");
  const int64_t context = windows.length - 1;
  SampleTally tally;
  uint64_t weighted = 0;
  for (int64_t sample = 0; sample < windows.count; ++sample) {
    const uint32_t* window = windows.tokens.data() + sample * windows.length;
    const uint8_t* marks = windows.marks.data() + sample * windows.length;
    const int64_t first = sample * context;
    for (int64_t t = 0; t < context; ++t) {
      const bool ends = separate_ && window[t] == windows.end_of_document;  // then another document follows
      const bool asked = !ends && (marks[t] & kBlank) == 0 && marks[t + 1] == 0;
      if (tokens) tokens[first + t] = static_cast<int32_t>(window[t]);
      if (targets) targets[first + t] = static_cast<int32_t>(window[t + 1]);
      if (weights) weights[first + t] = asked ? 1.0f : 0.0f;
      tally.blank += (marks[t] & kBlank) != 0;
      if (!asked) continue;
      ++weighted;
      tally.text_bytes += windows.text_bytes[window[t + 1]];
    }
    write_documents(window, marks, context, windows.end_of_document, separate_, positions ? positions + first : nullptr,
                    documents ? documents + first : nullptr);
  }
  tally.weight = static_cast<double>(weighted);
  return tally;
}

}  // namespace capstan
