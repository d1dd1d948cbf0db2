#pragma once
// TensorMap: which rows of which tensor of theirs are which rows of our parameters, for one model. Every layout that
// families use is a map of rows (fused q, k, v in blocks or per head, heads turned from half-split to interleaved
// rotation) and, for old GPT weights, a transposition; so reading and writing walk over one list, and one is the
// inverse of the other. A vector is a matrix of rows of one element.

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/models/decoder.h"
#include "core/parameter.h"
#include "io/weights/family.h"

namespace capstan {

/// Rows ours .. ours + count of a parameter stand at theirs .. of the tensor.
struct RowRun {
  int64_t ours = 0, theirs = 0, count = 0;
};

struct MappedPiece {
  std::string parameter;
  std::vector<RowRun> runs;  ///< ascending in ours
};

struct MappedTensor {
  std::string name;
  std::vector<int64_t> shape;  ///< as in the file
  bool transposed = false;     ///< rows are the second dim of the file's shape
  int64_t rows = 0, row_length = 0;
  std::vector<MappedPiece> pieces;  ///< together they fill all rows
};

class TensorMap {
 public:
  /// Error config when the family has no name for a parameter of the model.
  TensorMap(const ModelFamily& family, const DecoderConfig& model);

  const ModelFamily& family() const { return *family_; }
  const DecoderConfig& model() const { return model_; }
  /// Of the model, in declared order, without padding.
  const ParameterSet& parameters() const { return parameters_; }
  const std::vector<MappedTensor>& tensors() const { return tensors_; }
  struct Place {
    const MappedTensor* tensor = nullptr;
    const MappedPiece* piece = nullptr;
  };
  Place place_of(const std::string& parameter) const;

 private:
  void add(const Parameter& parameter);
  std::vector<RowRun> runs_for(const std::string& stem, const NameRow& row, int64_t rows) const;

  const ModelFamily* family_;
  DecoderConfig model_;
  ParameterSet parameters_;
  std::vector<MappedTensor> tensors_;
  std::set<std::string> names_;                              ///< of all tensors
  std::map<std::string, std::pair<size_t, size_t>> places_;  ///< of a parameter: tensor, piece
};

/// Shape of a parameter as rows: {rows, elements in each}.
struct RowShape {
  int64_t rows = 0, length = 0;
};
RowShape row_shape(const std::vector<int64_t>& shape);

}  // namespace capstan
