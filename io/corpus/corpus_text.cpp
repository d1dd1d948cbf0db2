#include "io/corpus/corpus_text.h"

#include "io/corpus/shard.h"

namespace capstan {

void corpus_text(const Corpus& corpus, Split split, const std::function<void(std::string_view)>& write) {
  const CorpusManifest& manifest = corpus.manifest();
  const bool narrow = manifest.token_width() == 2;
  std::vector<char> chunk;
  std::string text;
  std::unique_ptr<TokenDecoder> decoder = corpus.tokenizer().decoder();
  for (const ShardRecord& record : manifest.split(split).shards) {
    const CorpusShard shard(corpus.directory(), record, manifest);
    chunk.resize(record.chunk_tokens * manifest.token_width());
    for (uint64_t i = 0; i < shard.chunks(); ++i) {
      shard.read_chunk(i, chunk.data());
      for (uint64_t k = 0; k < shard.tokens_in(i); ++k) {
        const uint32_t token = narrow ? reinterpret_cast<const uint16_t*>(chunk.data())[k]
                                      : reinterpret_cast<const uint32_t*>(chunk.data())[k];
        decoder->push(token, text);
        if (token != manifest.end_of_document) continue;
        decoder->finish(text);
        decoder = corpus.tokenizer().decoder();
      }
      write(text);
      text.clear();
    }
  }
}

}  // namespace capstan
