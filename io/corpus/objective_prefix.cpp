#include "io/corpus/objective_prefix.h"

#include "core/error.h"
#include "io/corpus/objective_choice.h"

namespace capstan {

std::vector<FieldSpec> PrefixObjective::fields(int64_t context) const {
  std::vector<FieldSpec> all = sequence_fields(context);
  all.push_back({"prefix_ends", DType::i32, context});
  return all;
}

SampleTally PrefixObjective::write(const TokenWindows& windows, const SampleFields& out) const {
  SampleTally tally = causal_.write(windows, out);
  auto* weights = out.get<float>("loss_weights");
  auto* ends = out.get<int32_t>("prefix_ends");
  CAPSTAN_CHECK(weights, "a prefix sample without loss_weights");
  const int64_t context = windows.length - 1;
  for (int64_t sample = 0; sample < windows.count; ++sample) {
    const uint32_t* text = windows.tokens.data() + sample * windows.length;
    const uint8_t* marks = windows.marks.data() + sample * windows.length;
    const Choices choices(seed_, windows.keys[static_cast<size_t>(sample)].cursor);
    const auto continues = [&](int64_t t) {
      return !separate_ || (text[t - 1] != windows.end_of_document && (marks[t] & kSeam) == 0);
    };
    for (int64_t begin = 0, end = 0; begin < context; begin = end) {
      for (end = begin + 1; end < context && continues(end);) ++end;
      const auto length = static_cast<uint64_t>(end - begin);
      const auto prefix = begin + static_cast<int64_t>(choices.below(0, static_cast<uint64_t>(begin), length));
      for (int64_t t = begin; t < end; ++t) {
        if (ends) ends[sample * context + t] = static_cast<int32_t>(prefix);
        float& weight = weights[sample * context + t];
        if (t + 1 >= prefix || weight == 0) continue;  // the target, token t + 1, is beyond the prefix
        weight = 0;
        tally.weight -= 1;
        tally.text_bytes -= windows.text_bytes[text[t + 1]];
      }
    }
  }
  return tally;
}

}  // namespace capstan
