#pragma once
// Table look-up of tokens or positions.

#include "core/recorder.h"

namespace capstan {

/// ids (...) i32, table [entries, width], base (..., width) or absent -> (..., width): table[ids] (+ base).
Value embedding(Recorder& recorder, Value ids, Value table, Value base, int64_t offset = 0);

}  // namespace capstan
