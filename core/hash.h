#pragma once
// Digests by xxHash: xxh3-64 for names and small things, xxh3-128 as 32 hexadecimal digits for plans and files.

#include <cstdint>
#include <string>
#include <string_view>

namespace capstan {

uint64_t hash_of(std::string_view bytes);
std::string digest_of(std::string_view bytes);

}  // namespace capstan
