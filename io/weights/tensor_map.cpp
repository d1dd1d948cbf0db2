#include "io/weights/tensor_map.h"

#include <algorithm>

#include "core/error.h"

namespace capstan {
namespace {

/// "layers.3.mlp.up" as "layers.#.mlp.up" and 3.
struct Stem {
  std::string pattern, number;
};

Stem stem_of(const std::string& name) {
  constexpr std::string_view kLayers = "layers.";
  const size_t at = name.rfind(kLayers, 0) == 0 ? kLayers.size() : std::string::npos;
  const size_t end = at == std::string::npos ? at : name.find('.', at);
  if (end == std::string::npos) return {name, ""};
  return {name.substr(0, at) + "#" + name.substr(end), name.substr(at, end - at)};
}

std::string filled(std::string pattern, const std::string& number) {
  if (const size_t at = pattern.find('#'); at != std::string::npos) pattern.replace(at, 1, number);
  return pattern;
}

/// Appends, joining what continues the last run.
void append_run(std::vector<RowRun>& runs, RowRun run) {
  if (!runs.empty() && runs.back().ours + runs.back().count == run.ours &&
      runs.back().theirs + runs.back().count == run.theirs)
    runs.back().count += run.count;
  else
    runs.push_back(run);
}

enum class Role { query, key, value, other };

Role role_of(const std::string& pattern) {
  if (pattern == "layers.#.attention.q") return Role::query;
  if (pattern == "layers.#.attention.k") return Role::key;
  return pattern == "layers.#.attention.v" ? Role::value : Role::other;
}

/// Where head `head` of this role begins in the fused tensor.
int64_t head_begin(RowPacking packing, Role role, int64_t head, const DecoderConfig& model) {
  const int64_t size = model.head(), heads = model.heads, kv = model.kv(), group = heads / kv;
  if (packing == RowPacking::grouped) {
    const int64_t of = role == Role::query ? head / group : head;
    const int64_t within = role == Role::query ? head % group : role == Role::key ? group : group + 1;
    return (of * (group + 2) + within) * size;
  }
  if (packing == RowPacking::stacked)
    return (role == Role::query ? head : role == Role::key ? heads + head : heads + kv + head) * size;
  return head * size;
}

/// Where dim i of a head stands in theirs; nothing to do where both order the rotated dims alike.
int64_t turned(int64_t i, int64_t rotated, bool ours_interleaved, RotaryOrder theirs) {
  if (i >= rotated || theirs == RotaryOrder::as_ours || (theirs == RotaryOrder::interleaved) == ours_interleaved)
    return i;
  const int64_t half = rotated / 2;
  return ours_interleaved ? i / 2 + (i % 2) * half : (i % half) * 2 + i / half;
}

int64_t dims_that_turn(const DecoderConfig& model) {
  return model.positions == Positions::rotary ? model.rotary_dims() : 0;
}

}  // namespace

RowShape row_shape(const std::vector<int64_t>& shape) {
  int64_t length = 1;
  for (size_t i = 1; i < shape.size(); ++i) length *= shape[i];
  return {shape.empty() ? 1 : shape[0], length};
}

TensorMap::TensorMap(const ModelFamily& family, const DecoderConfig& model) : family_(&family), model_(model) {
  const Decoder declared(model, parameters_);
  for (size_t i = 0; i < parameters_.size(); ++i) add(parameters_.at(static_cast<int>(i)));
  for (size_t t = 0; t < tensors_.size(); ++t) {
    const MappedTensor& tensor = tensors_[t];
    int64_t filled_rows = 0;
    for (size_t p = 0; p < tensor.pieces.size(); ++p) {
      places_[tensor.pieces[p].parameter] = {t, p};
      for (const RowRun& run : tensor.pieces[p].runs) filled_rows += run.count;
    }
    CAPSTAN_CHECK(filled_rows == tensor.rows, "{}: {} of {} rows are named in the table of {}", tensor.name,
                  filled_rows, tensor.rows, family.model_type);
  }
}

std::vector<RowRun> TensorMap::runs_for(const std::string& pattern, const NameRow& row, int64_t rows) const {
  const Role role = role_of(pattern);
  if (role == Role::other) return {{0, 0, rows}};
  const int64_t size = model_.head(), rotated = role == Role::value ? 0 : dims_that_turn(model_);
  std::vector<RowRun> runs;
  for (int64_t head = 0; head < rows / size; ++head) {
    const int64_t begin = head_begin(row.packing, role, head, model_);
    for (int64_t i = 0; i < size; ++i)
      append_run(runs, {head * size + i, begin + turned(i, rotated, model_.rotary_interleaved, family_->rotary), 1});
  }
  return runs;
}

void TensorMap::add(const Parameter& parameter) {
  const size_t dot = parameter.name.rfind('.');
  const std::string suffix = parameter.name.substr(dot);
  const Stem stem = stem_of(parameter.name.substr(0, dot));
  const auto row = std::find_if(family_->names.begin(), family_->names.end(),
                                [&](const NameRow& r) { return stem.pattern == r.ours; });
  if (row == family_->names.end())
    throw Error::make(ExitCode::config, "models of type {} have no tensor for our {}; choose another family",
                      family_->model_type, parameter.name);
  const std::vector<int64_t> logical = parameter.logical_shape();
  const RowShape shape = row_shape(logical);
  const std::string name = filled(row->theirs, stem.number) + (suffix == ".weight" ? row->weight_suffix : suffix);
  const bool fused = row->packing != RowPacking::whole;
  if (tensors_.empty() || tensors_.back().name != name || !fused) {
    if (names_.insert(name).second) {
      tensors_.push_back({name, logical, row->transposed && logical.size() == 2, 0, shape.length, {}});
    } else {
      CAPSTAN_CHECK(fused, "two parameters are called {}", name);
      const auto same = std::find_if(tensors_.rbegin(), tensors_.rend(),  // parts of one lie near each other
                                     [&](const MappedTensor& tensor) { return tensor.name == name; });
      std::rotate(same.base() - 1, same.base(), tensors_.end());
    }
  }
  MappedTensor& tensor = tensors_.back();
  tensor.rows += shape.rows;
  tensor.pieces.push_back({parameter.name, runs_for(stem.pattern, *row, shape.rows)});
  tensor.shape = logical.size() == 1 ? std::vector<int64_t>{tensor.rows}
                 : tensor.transposed ? std::vector<int64_t>{shape.length, tensor.rows}
                                     : std::vector<int64_t>{tensor.rows, shape.length};
}

TensorMap::Place TensorMap::place_of(const std::string& parameter) const {
  const auto at = places_.find(parameter);
  if (at == places_.end()) return {};
  const MappedTensor& tensor = tensors_[at->second.first];
  return {&tensor, &tensor.pieces[at->second.second]};
}

}  // namespace capstan
