#pragma once
// Inside of PipelineTokenizer: what its tokenizer, encoders and decoders share. Everything is made when the tokenizer
// is made and never changes, but for the table of text sizes, which is made when first asked for.

#include <mutex>
#include <unordered_map>

#include "io/tokenizer/added_tokens.h"
#include "io/tokenizer/model.h"
#include "io/tokenizer/piece_table.h"
#include "io/tokenizer/pipeline.h"
#include "io/tokenizer/post_processor.h"
#include "io/tokenizer/pre_tokenizer.h"

namespace capstan {

struct Pipeline {
  TokenizerSpec spec;
  std::string where;
  uint32_t vocabulary = 0;
  uint32_t end_of_document = 0;
  bool byte_level = false;
  std::shared_ptr<const TokenModel> model;
  std::unordered_map<uint32_t, uint32_t> added_by_id;  ///< place in spec.added
  PieceTable names;                                    ///< of the model's pieces
  std::vector<bool> silent;                            ///< by id: special tokens and the end of document, without text
  AddedTokens raw, normalized;                         ///< looked for before and after normalization
  std::vector<std::string> added_texts;                ///< as spec.added: what such a token is decoded to
  PostProcessor post_processor;
  std::optional<std::string> short_way;  ///< the expression, where words come from it alone
  bool direct_bytes = false;             ///< the decoder does nothing but undo the byte table
  bool cuts_at_lines = false;
  std::string never_after_line;  ///< first bytes of added tokens that take the space before them
  mutable std::once_flag sizes_made;
  mutable std::vector<uint32_t> sizes;

  /// The piece as the decoder takes it; for direct_bytes its bytes.
  std::string_view piece(uint32_t token) const;
  bool may_cut(std::string_view text, size_t at) const;
};

std::shared_ptr<const Pipeline> make_pipeline(TokenizerSpec spec, const std::string& where);
std::unique_ptr<TokenEncoder> make_pipeline_encoder(std::shared_ptr<const Pipeline> pipeline,
                                                    const EncodeOptions& options);
std::unique_ptr<TokenDecoder> make_pipeline_decoder(std::shared_ptr<const Pipeline> pipeline);

/// The model of a spec; pieces with `hidden` set cannot come out of text. Error bad_data naming `where`.
std::shared_ptr<const TokenModel> make_model(const TokenizerSpec& spec, const PieceTable& names, bool byte_level,
                                             const std::vector<bool>& hidden, const std::string& where);

}  // namespace capstan
