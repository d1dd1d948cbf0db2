#pragma once
// Trains a byte-level BPE: counts words of the text with all threads, then merges the most frequent pair until the
// vocabulary is full. The result depends on the text alone: ties go to the pair of smallest ids, whatever the number of
// threads or the order of texts. At every moment the words are as the tokenizer made so far would encode them; bytes
// have the ids that GPT-2 gives them (printable ones first), so Hugging Face's trainer makes the same merges.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/bpe_model.h"

namespace capstan {

struct BpeTrainingOptions {
  uint32_t vocabulary = 0;    ///< bytes and merged pieces, without special tokens; at least 256
  std::string expression;     ///< of the splitter; empty: GPT-2's
  uint64_t least_count = 2;   ///< pairs seen less often are not merged
  size_t longest_piece = 64;  ///< bytes; 0: no limit
  int threads = 0;            ///< 0: all processors
};

class BpeTrainer {
 public:
  /// Error usage for a vocabulary out of range, bad_data for an expression that does not compile.
  explicit BpeTrainer(BpeTrainingOptions options);
  ~BpeTrainer();
  /// Counts the words of a text, in threads of its own while the caller reads on; may be called from several threads.
  /// Waits while much is to do, so memory is that of the distinct words (about 50 bytes each and their text) and some
  /// MiB. A word never reaches from one text into the next. Errors of the splitter come out of a later call.
  void add(std::string_view text);
  /// After everything added so far has been counted.
  uint64_t distinct_words() const;
  /// Error bad_data when nothing was added. The spec holds 256 bytes (ids 0-255), then merges in order of rank; fewer
  /// than asked for when the text has no more pairs. `progress` gets the merged pieces done and wanted.
  BpeSpec train(const std::function<void(uint32_t done, uint32_t total)>& progress = {});

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace capstan
