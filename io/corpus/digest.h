#pragma once
// xxh3-64: the hash of a chunk of tokens, checked at every read, and of a document's text when it is assigned to a
// split. Tables and manifests use the longer digest of io/checkpoint/digest.h.

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace capstan {

uint64_t xxh3_64(const void* data, size_t bytes);
inline uint64_t xxh3_64(std::string_view text) { return xxh3_64(text.data(), text.size()); }

}  // namespace capstan
