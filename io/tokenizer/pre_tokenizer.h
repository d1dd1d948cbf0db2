#pragma once
// PreTokenizer: cuts a text into the words that the model sees. Most steps only cut, and words are then views of the
// text; the few that write (a space in front, symbols for bytes) do so into memory of this object. One thread.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/spec.h"

namespace capstan {

struct Word {
  uint32_t begin = 0, end = 0;
  bool front = false;  ///< begins where the document's text begins
};

struct Words {
  std::string_view text;
  std::vector<Word> words;
  bool joined = false;  ///< the first word may go on from the piece of text before: it gets no prefix
};

/// One step.
class WordStep {
 public:
  virtual ~WordStep() = default;
  virtual void run(Words& words) = 0;
};

class PreTokenizer {
 public:
  /// `bytes`: the model sees raw bytes, so a ByteLevel at the end does not turn them into symbols. Error bad_data
  /// naming `where` for an expression that does not compile.
  PreTokenizer(const std::vector<PreTokenizerSpec>& parts, bool bytes, const std::string& where);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;

  /// `words` holds the text as one word; afterwards its words, none of them empty.
  void run(Words& words);

 private:
  std::vector<std::unique_ptr<WordStep>> steps_;
};

/// Whether a cut after a line end, before a visible ASCII character, falls between two words or changes nothing in one.
enum class LineCut { between_words, inside_a_word, unsafe };
LineCut line_cut_of(const std::vector<PreTokenizerSpec>& parts);

/// The expression when a list of pre-tokenizers does nothing but cut at one that known_splitter() knows, with nothing
/// left out and nothing written: the common case, for which the encoder has a short way.
std::optional<std::string> only_known_expression(const std::vector<PreTokenizerSpec>& parts, bool bytes);

}  // namespace capstan
