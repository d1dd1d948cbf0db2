#include "io/tokenizer/pipeline.h"

#include <algorithm>

#include "core/error.h"
#include "io/tokenizer/decoder_chain.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/pipeline_parts.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

template <typename... Rest>
Error bad_pipeline(const std::string& where, fmt::format_string<Rest...> format, Rest&&... rest) {
  return Error::make(ExitCode::bad_data, "{}: {}", where, fmt::format(format, std::forward<Rest>(rest)...));
}

/// Later entries of equal content replace earlier ones.
void drop_repeated(std::vector<AddedToken>& added) {
  std::unordered_map<std::string, size_t> places;
  std::vector<AddedToken> kept;
  for (AddedToken& token : added) {
    const auto [place, fresh] = places.emplace(token.content, kept.size());
    if (fresh)
      kept.push_back(std::move(token));
    else
      kept[place->second] = std::move(token);
  }
  added = std::move(kept);
}

/// Hugging Face gives a token that is not in the model the next free id, whatever the file says. Where the two differ
/// nobody can say which was meant.
void check_added_ids(const TokenizerSpec& spec, const PieceTable& names, const std::string& where) {
  uint64_t next = names.size();
  for (const AddedToken& token : spec.added) {
    const std::optional<uint32_t> in_model = names.find(token.content);
    const uint64_t id = in_model ? *in_model : next++;
    if (id != token.id)
      throw bad_pipeline(where, "added token \"{}\" has id {} in the file, but Hugging Face gives it {}", token.content,
                         token.id, id);
    if (!in_model && token.id < spec.pieces.size() && !spec.pieces[token.id].empty())
      throw bad_pipeline(where, "added token \"{}\" has the id {} of the piece \"{}\"", token.content, token.id,
                         spec.pieces[token.id]);
  }
}

/// Splits the added tokens by when they are looked for.
void make_finders(Pipeline& pipeline) {
  Normalizer normalizer(pipeline.spec.normalizer, pipeline.where);
  std::vector<AddedToken> raw, normalized;
  std::vector<std::string> raw_texts, normalized_texts;
  for (const AddedToken& token : pipeline.spec.added) {
    std::string text = token.content;
    bool front = false;
    if (token.normalized) text = std::string(normalizer.run(token.content, true, front));
    pipeline.added_texts.push_back(text);
    const bool user_defined = pipeline.spec.sentencepiece && !token.special;
    if (user_defined && std::holds_alternative<UnigramParts>(pipeline.spec.model)) continue;  // the model finds these
    const bool later = token.normalized || user_defined;
    (later ? normalized : raw).push_back(token);
    (later ? normalized_texts : raw_texts).push_back(std::move(text));
    if (token.lstrip) pipeline.never_after_line += pipeline.added_texts.back().substr(0, 1);
  }
  pipeline.raw = AddedTokens(std::move(raw), std::move(raw_texts));
  pipeline.normalized = AddedTokens(std::move(normalized), std::move(normalized_texts));
}

bool has_line_end(std::string_view text) { return text.find('\n') != text.npos; }

/// Whether a space in place of a line end ends a word and is part of none (BertNormalizer makes it one).
bool drops_spaces(const std::vector<PreTokenizerSpec>& parts) {
  if (parts.empty()) return false;
  const PreTokenizerSpec& first = parts.front();
  return std::get_if<BertSplit>(&first) || std::get_if<WordsAndSigns>(&first) || std::get_if<WhitespaceSplit>(&first);
}

/// Whether a cut between a line end and a visible ASCII character gives the same tokens on both sides.
bool cuts_at_lines(const Pipeline& pipeline) {
  const TokenizerSpec& spec = pipeline.spec;
  if (spec.sentencepiece) return false;
  for (const AddedToken& token : spec.added)
    if (has_line_end(token.content)) return false;
  const LineCut cut = line_cut_of(spec.pre_tokenizer);
  bool bert = false;
  for (const NormalizerSpec& part : spec.normalizer) {
    if (std::get_if<Nmt>(&part) || std::get_if<Precompiled>(&part) || std::get_if<StripSpace>(&part) ||
        std::get_if<ByteLevelNormalizer>(&part))
      return false;
    if (const auto* replace = std::get_if<Replace>(&part))
      if (replace->pattern.regex || has_line_end(replace->pattern.text)) return false;
    bert = bert || std::get_if<BertNormalizer>(&part) != nullptr;
  }
  if (bert && !drops_spaces(spec.pre_tokenizer)) return false;
  if (cut == LineCut::between_words) return true;
  const auto* bpe = std::get_if<BpeParts>(&spec.model);
  const auto* unigram = std::get_if<UnigramParts>(&spec.model);
  if (cut == LineCut::unsafe || (bpe == nullptr && unigram == nullptr)) return false;
  // Inside a word: no piece may reach over the line end, and an unknown line end may not join an unknown character.
  for (const std::string& piece : spec.pieces)
    if (const size_t at = piece.find('\n'); at != piece.npos && at + 1 < piece.size()) return false;
  if (bpe != nullptr) {
    if (!bpe->continuing_prefix.empty() || !bpe->end_suffix.empty() || bpe->ignore_merges) return false;
    return !bpe->fuse_unknown || pipeline.names.find("\n") || (bpe->byte_fallback && pipeline.names.find("<0x0A>"));
  }
  return pipeline.names.find("\n") || (unigram->byte_fallback && pipeline.names.find("<0x0A>"));
}

class PipelineDecoder final : public TokenDecoder {
 public:
  explicit PipelineDecoder(std::shared_ptr<const Pipeline> pipeline) : pipeline_(std::move(pipeline)) {
    if (!pipeline_->direct_bytes)
      chain_ = std::make_unique<DecoderChain>(pipeline_->spec.decoder, pipeline_->where + ": decoder");
  }

  void push(uint32_t token, std::string& text) override {
    if (token >= pipeline_->vocabulary)
      throw Error::make(ExitCode::bad_data, "cannot decode token {}: wanted an id below {}", token,
                        pipeline_->vocabulary);
    if (pipeline_->silent[token]) return;
    const std::string_view piece = pipeline_->piece(token);
    if (piece.empty()) return;
    if (chain_)
      chain_->push(piece, held_);
    else
      held_ += piece;
    release(text);
  }

  void finish(std::string& text) override {
    if (chain_) chain_->finish(held_);
    text += held_;
    held_.clear();
  }

 private:
  void release(std::string& text) {
    const size_t certain = held_.size() - incomplete_utf8_tail(held_);
    text.append(held_, 0, certain);
    held_.erase(0, certain);
  }

  std::shared_ptr<const Pipeline> pipeline_;
  std::unique_ptr<DecoderChain> chain_;
  std::string held_;
};

/// What a token adds to a text in the middle of which it stands.
std::vector<uint32_t> sizes_in_text(const Pipeline& pipeline) {
  std::vector<uint32_t> sizes(pipeline.vocabulary);
  std::unique_ptr<DecoderChain> chain;
  if (!pipeline.direct_bytes)
    chain = std::make_unique<DecoderChain>(pipeline.spec.decoder, pipeline.where + ": decoder");
  std::string text;
  const auto size_of = [&](std::string_view piece) {
    text.clear();
    chain->push("x", text);
    if (!piece.empty()) chain->push(piece, text);
    chain->push("y", text);
    chain->finish(text);
    return text.size();
  };
  const size_t without = chain ? size_of({}) : 0;
  for (uint32_t token = 0; token < pipeline.vocabulary; ++token) {
    const std::string_view piece = pipeline.piece(token);
    if (pipeline.silent[token] || piece.empty()) continue;
    const size_t with = chain ? size_of(piece) : piece.size();
    sizes[token] = static_cast<uint32_t>(std::max(with, without) - without);
  }
  return sizes;
}

}  // namespace

std::string_view Pipeline::piece(uint32_t token) const {
  if (const auto added = added_by_id.find(token); added != added_by_id.end()) return added_texts[added->second];
  if (token >= spec.pieces.size()) return {};
  if (direct_bytes)
    if (const std::string_view bytes = model->piece(token); !bytes.empty()) return bytes;
  return spec.pieces[token];
}

/// GPT-2's expression sees whether white space ends the text, so the line end must not follow other white space.
bool Pipeline::may_cut(std::string_view text, size_t at) const {
  if (at == 0 || at >= text.size()) return true;
  const auto visible = [&](size_t i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    return byte > ' ' && byte < 0x7F;
  };
  return cuts_at_lines && text[at - 1] == '\n' && visible(at) && (at == 1 || visible(at - 2)) &&
         never_after_line.find(text[at]) == std::string::npos;
}

std::shared_ptr<const Pipeline> make_pipeline(TokenizerSpec spec, const std::string& where) {
  auto pipeline = std::make_shared<Pipeline>();
  Pipeline& p = *pipeline;
  drop_repeated(spec.added);
  p.spec = std::move(spec);
  p.where = where;
  p.names = PieceTable(p.spec.pieces);
  check_added_ids(p.spec, p.names, where);
  size_t vocabulary = p.spec.pieces.size();
  for (uint32_t i = 0; i < p.spec.added.size(); ++i) {
    vocabulary = std::max<size_t>(vocabulary, size_t{p.spec.added[i].id} + 1);
    p.added_by_id[p.spec.added[i].id] = i;
  }
  p.vocabulary = static_cast<uint32_t>(vocabulary);
  p.silent.assign(vocabulary, false);
  PieceTable special_names;
  for (const AddedToken& token : p.spec.added) {
    if (!token.special) continue;
    p.silent[token.id] = true;
    special_names.add(token.content, token.id);
  }
  for (uint32_t id = 0; id < p.spec.pieces.size(); ++id)  // a Unigram may have a piece twice
    if (special_names.find(p.spec.pieces[id])) p.silent[id] = true;
  make_finders(p);
  std::optional<uint32_t> end = p.names.find(p.spec.end_of_document);
  for (const AddedToken& token : p.spec.added)
    if (token.content == p.spec.end_of_document) end = token.id;
  if (!end)
    throw bad_pipeline(where,
                       "the token \"{}\" that ends documents is not in the vocabulary; name another with "
                       "--end-of-document",
                       p.spec.end_of_document);
  p.end_of_document = *end;
  p.silent[*end] = true;
  p.byte_level = p.spec.byte_level(p.names);
  p.model = make_model(p.spec, p.names, p.byte_level, p.silent, where + ": model");
  p.post_processor = read_post_processor(p.spec.post_processor, p.vocabulary, where + ": post_processor");
  p.direct_bytes = p.byte_level && p.spec.decoder && p.spec.decoder->size() == 1 &&
                   std::holds_alternative<ByteLevel>(p.spec.decoder->front());
  p.cuts_at_lines = cuts_at_lines(p);
  if (p.normalized.empty() || p.normalized.all_special())
    p.short_way = only_known_expression(p.spec.pre_tokenizer, p.byte_level);
  return pipeline;
}

std::unique_ptr<TokenDecoder> make_pipeline_decoder(std::shared_ptr<const Pipeline> pipeline) {
  return std::make_unique<PipelineDecoder>(std::move(pipeline));
}

PipelineTokenizer::PipelineTokenizer(TokenizerSpec spec, const std::string& where)
    : pipeline_(make_pipeline(std::move(spec), where)) {
  encoder();  // what is wrong with an expression is said now, not when the first text comes
  decoder();
}

std::string PipelineTokenizer::name() const {
  if (!pipeline_->spec.name.empty()) return pipeline_->spec.name;
  constexpr const char* models[] = {"BPE", "Unigram", "WordPiece", "WordLevel"};
  return fmt::format("{}{}-{}", pipeline_->byte_level ? "byte-level-" : "", models[pipeline_->spec.model.index()],
                     pipeline_->vocabulary);
}

uint32_t PipelineTokenizer::vocabulary() const { return pipeline_->vocabulary; }
uint32_t PipelineTokenizer::end_of_document() const { return pipeline_->end_of_document; }

std::unique_ptr<TokenEncoder> PipelineTokenizer::encoder(const EncodeOptions& options) const {
  return make_pipeline_encoder(pipeline_, options);
}

std::unique_ptr<TokenDecoder> PipelineTokenizer::decoder() const { return make_pipeline_decoder(pipeline_); }

bool PipelineTokenizer::may_cut(std::string_view text, size_t at) const { return pipeline_->may_cut(text, at); }

uint32_t PipelineTokenizer::text_bytes(uint32_t token) const {
  std::call_once(pipeline_->sizes_made, [&] { pipeline_->sizes = sizes_in_text(*pipeline_); });
  return token < pipeline_->sizes.size() ? pipeline_->sizes[token] : 0;
}

std::string PipelineTokenizer::token_name(uint32_t token) const {
  if (const auto added = pipeline_->added_by_id.find(token); added != pipeline_->added_by_id.end())
    return pipeline_->spec.added[added->second].content;
  return token < pipeline_->spec.pieces.size() ? pipeline_->spec.pieces[token] : "";
}

std::optional<uint32_t> PipelineTokenizer::find_token(std::string_view name) const {
  for (const AddedToken& token : pipeline_->spec.added)
    if (token.content == name) return token.id;
  return pipeline_->names.find(name);
}

std::string PipelineTokenizer::description() const { return write_tokenizer_json(pipeline_->spec); }

void PipelineTokenizer::add_special_tokens(std::vector<uint32_t>& tokens) const {
  const PostProcessor& around = pipeline_->post_processor;
  tokens.insert(tokens.begin(), around.before.begin(), around.before.end());
  tokens.insert(tokens.end(), around.after.begin(), around.after.end());
}

const TokenizerSpec& PipelineTokenizer::spec() const { return pipeline_->spec; }

}  // namespace capstan
