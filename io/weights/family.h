#pragma once
// ModelFamily: what a family of models is called elsewhere, as data and nothing but data: which members of config.json
// stand for which of our `model.*` settings, and which of its tensors hold which of our parameters, in which layout.
// The reader, the writer and the choice of a family for a model of ours all walk over these tables
// (io/weights/families.cpp; GGUF's in gguf_output.cpp); none knows a family by name. A model_type may have several
// rows, told apart by `wanted`. Rule for a new family: one row here, a fixture in tests/io, nothing else.

#include <string>
#include <string_view>
#include <vector>

namespace capstan {

/// How one setting is said in JSON.
enum class Meaning {
  same,            ///< the same number, truth value or word
  word,            ///< one of `words`
  zero_is_null,    ///< our 0 is their null
  zero_is_width,   ///< our 0 is their hidden size
  rotated_dims,    ///< our share of a head is their number of dims
  toggle,          ///< our switch is their truth value
  zero_is_absent,  ///< our 0 is not said
  always,          ///< theirs must be the fallback: another cannot be expressed
  alternation,     ///< ["global", "local", ...] or [[["global", "local"], n], ...]: which layers have a window
  layer_types,  ///< ["full_attention", "sliding_attention", ...]; null: as the window says; of key `window` all alike
};

/// Their word, ours; both ways the first that fits is taken. A truth value is the word true or false.
struct Wording {
  const char* theirs;
  const char* ours;
};

struct ConfigRow {
  /// "hidden_size|n_embd": the first that is there is read, the last written. A null is there, unless a ? stands before
  /// the name. What is below "rope_scaling." is read as io/weights/rope_members.h understands it.
  const char* json;
  const char* key;            ///< without "model."
  const char* fallback = "";  ///< JSON text of the class default; "": the member must be there
  Meaning meaning = Meaning::same;
  std::vector<Wording> words = {};
  bool only_when_set = false;  ///< the writer leaves it out where it has its fallback
  const char* when = "";  ///< "rotary_scaling=yarn|llama3": the row is there only with one of these, set by a row above
};

/// A member that must have a certain value for the row to be about this model.
struct WantedMember {
  const char* json;
  const char* value;               ///< JSON text
  const char* fallback;            ///< JSON text of the class default
  const char* when_null = "null";  ///< JSON text of what a null means
  /// Another member, which keeps this one from mattering where it has that value or is not there. Not written then.
  const char *only_beside = "", *harmless_value = "";
};

/// Which rows of a tensor of theirs are those of ours.
enum class RowPacking {
  whole,    ///< all
  stacked,  ///< all of q, then all of k, then all of v
  grouped,  ///< for each key/value head its query heads, its k, its v (NeoX, BLOOM, Falcon)
};

struct NameRow {
  const char* ours;    ///< "layers.#.attention.q", without .weight and .bias; # is the layer
  const char* theirs;  ///< "transformer.h.#.attn.c_attn"
  RowPacking packing = RowPacking::whole;
  bool transposed = false;  ///< theirs is [in, out]
  const char* weight_suffix = ".weight";
};

/// How heads' dims are ordered for rotation in the tensors of theirs.
enum class RotaryOrder {
  as_ours,      ///< their config says it as ours does
  half_split,   ///< pairs (i, i + n/2)
  interleaved,  ///< pairs (2i, 2i + 1)
};

struct ModelFamily {
  const char* model_type;
  const char* architecture;
  const char* base;                ///< prefix that some files leave out: "transformer."
  std::vector<const char*> fixed;  ///< "positions=learned": settings that all of the family have
  std::vector<WantedMember> wanted;
  std::vector<ConfigRow> config;
  std::vector<NameRow> names;
  RotaryOrder rotary = RotaryOrder::as_ours;
};

/// Of Hugging Face's model types, in the order in which the writer tries them.
const std::vector<ModelFamily>& families();

/// Constant buffers that some files carry: tensors whose names end so are not weights.
const std::vector<const char*>& constant_buffers();

}  // namespace capstan
