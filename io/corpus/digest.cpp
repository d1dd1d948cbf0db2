#include "io/corpus/digest.h"

#include <xxhash.h>

namespace capstan {

uint64_t xxh3_64(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

}  // namespace capstan
