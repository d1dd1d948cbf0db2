#pragma once
// What a run reads of each corpus, for people (lines) and for programs (data.json in the run directory): the plan
// before it, what was read after it, and the ledger of samples.

#include <string>
#include <vector>

#include "core/config/run_config.h"
#include "io/corpus/stream.h"

namespace capstan {

/// From the config to the stream of training; how long the run is, CorpusStream::continue_from() is told.
StreamOptions stream_options(const RunConfig& config);
/// The objective that a causal decoder is trained with.
std::shared_ptr<const Objective> training_objective(const RunConfig& config);

/// One line a corpus: share, tokens, epochs read when the run stands at `now`, and when it stands at `then` (0: not
/// wanted).
std::vector<std::string> blend_lines(const CorpusStream& stream, uint64_t now, uint64_t then);

/// A whole JSON object.
std::string data_json(const CorpusStream& stream, uint64_t step, uint64_t now, uint64_t then, uint64_t blank_tokens);

}  // namespace capstan
