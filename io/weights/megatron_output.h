#pragma once
// A corpus's tokens as Megatron-LM reads them: PREFIX.bin, all documents back to back, each ended by its
// end-of-document token, and PREFIX.idx (io/corpus/megatron_index.h tells the layout). One document is one sequence.
// Tokens are u16 where the vocabulary is below 65,500, else i32, as Megatron chooses. The .bin gets its name first, the
// .idx, without which nobody reads it, last.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace capstan {

struct MegatronCounts {
  uint64_t documents = 0, tokens = 0, token_bytes = 0;
};

/// `split`: "train" or "validation". `verify`: reads both files back and compares them with the corpus. Error
/// cannot_create when either file is there already.
MegatronCounts write_megatron(const std::filesystem::path& corpus, const std::string& split,
                              const std::filesystem::path& prefix, bool verify,
                              const std::function<void(uint64_t done, uint64_t total)>& progress);

}  // namespace capstan
