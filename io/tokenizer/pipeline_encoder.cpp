// The encoder of a PipelineTokenizer. Long texts are taken in blocks that end where a cut changes nothing, so that
// scratch memory follows the block and stays in the processor's caches.

#include <algorithm>

#include "core/error.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/pipeline_parts.h"
#include "io/tokenizer/sentencepiece_text.h"
#include "io/tokenizer/splitter.h"

namespace capstan {
namespace {

constexpr size_t kBlock = size_t{64} << 10;
constexpr size_t kLongestBlock = size_t{1} << 30;

class PipelineEncoder final : public TokenEncoder {
 public:
  PipelineEncoder(std::shared_ptr<const Pipeline> pipeline, bool special)
      : pipeline_(std::move(pipeline)),
        special_(special),
        raw_(!pipeline_->raw.empty() && (special || !pipeline_->raw.all_special())),
        normalized_(!pipeline_->normalized.empty() && (special || !pipeline_->normalized.all_special())),
        normalizer_(pipeline_->spec.normalizer, pipeline_->where + ": normalizer"),
        pre_tokenizer_(pipeline_->spec.pre_tokenizer, pipeline_->byte_level, pipeline_->where + ": pre_tokenizer"),
        model_(pipeline_->model->encoder()) {
    if (pipeline_->spec.sentencepiece) preparer_.emplace(pipeline_->spec, pipeline_->where + ": normalizer");
    if (pipeline_->short_way && !normalized_) splitter_ = known_splitter(*pipeline_->short_way);
  }

  void encode(std::string_view text, bool begins, std::vector<uint32_t>& tokens) override {
    while (!text.empty()) {
      const size_t size = block_of(text);
      encode_block(text.substr(0, size), begins, tokens);
      text.remove_prefix(size);
      begins = false;
    }
  }

 private:
  size_t block_of(std::string_view text) const {
    if (text.size() <= 2 * kBlock) return text.size();
    for (size_t at = kBlock; (at = text.find('\n', at)) != text.npos; ++at)
      if (pipeline_->may_cut(text, at + 1)) return checked(at + 1);
    return checked(text.size());
  }
  size_t checked(size_t size) const {
    if (size > kLongestBlock)
      throw Error::make(ExitCode::bad_data,
                        "{}: a text of {} bytes without a place where it may be cut; wanted at most "
                        "{}",
                        pipeline_->where, size, kLongestBlock);
    return size;
  }

  void encode_block(std::string_view text, bool begins, std::vector<uint32_t>& tokens) {
    if (!raw_) return encode_text(text, begins, begins, tokens);
    parts_.clear();
    pipeline_->raw.find(text, special_, parts_);
    for (const AddedTokens::Found& part : parts_) {
      if (part.token)
        tokens.push_back(*part.token);
      else
        encode_text(text.substr(part.begin, part.end - part.begin), begins || part.begin > 0, begins && part.begin == 0,
                    tokens);
    }
  }

  /// `fresh`: nothing of the same stretch of text was before; `front`: the document begins here.
  void encode_text(std::string_view text, bool fresh, bool front, std::vector<uint32_t>& tokens) {
    if (preparer_) return encode_prepared(preparer_->run(text, front), tokens);
    bool front_kept = true;
    const std::string_view ready = normalizer_.empty() ? text : normalizer_.run(text, fresh, front_kept);
    if (splitter_) return encode_words(ready, tokens);
    if (!normalized_) return encode_stretch(ready, fresh, front && front_kept, tokens);
    inner_.clear();
    pipeline_->normalized.find(ready, special_, inner_);
    for (const AddedTokens::Found& part : inner_) {
      if (part.token)
        tokens.push_back(*part.token);
      else
        encode_stretch(ready.substr(part.begin, part.end - part.begin), fresh || part.begin > 0,
                       front && front_kept && part.begin == 0, tokens);
    }
  }

  /// SentencePiece's way: no words but those between user-defined pieces.
  void encode_prepared(std::string_view text, std::vector<uint32_t>& tokens) {
    if (text.empty()) return;
    if (!normalized_) return model_->encode(text, tokens);
    inner_.clear();
    pipeline_->normalized.find(text, special_, inner_);
    for (const AddedTokens::Found& part : inner_) {
      if (part.token)
        tokens.push_back(*part.token);
      else
        model_->encode(text.substr(part.begin, part.end - part.begin), tokens);
    }
  }

  /// The short way.
  void encode_words(std::string_view text, std::vector<uint32_t>& tokens) {
    ends_.clear();
    splitter_->split(text, ends_);
    model_->encode_words(text, ends_, tokens);
  }

  void encode_stretch(std::string_view text, bool fresh, bool front, std::vector<uint32_t>& tokens) {
    if (text.empty()) return;
    words_.text = text;
    words_.words.assign(1, {0, static_cast<uint32_t>(text.size()), front});
    words_.joined = !fresh;
    pre_tokenizer_.run(words_);
    for (const Word& word : words_.words) model_->encode(words_.text.substr(word.begin, word.end - word.begin), tokens);
  }

  std::shared_ptr<const Pipeline> pipeline_;
  bool special_, raw_, normalized_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  std::unique_ptr<WordEncoder> model_;
  std::unique_ptr<Splitter> splitter_;
  std::optional<SentencePiecePreparer> preparer_;
  std::vector<AddedTokens::Found> parts_, inner_;
  std::vector<uint32_t> ends_;
  Words words_;
};

}  // namespace

std::unique_ptr<TokenEncoder> make_pipeline_encoder(std::shared_ptr<const Pipeline> pipeline,
                                                    const EncodeOptions& options) {
  return std::make_unique<PipelineEncoder>(std::move(pipeline), options.special_tokens);
}

}  // namespace capstan
