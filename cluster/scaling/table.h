#pragma once
// From a CSV file to measurements: which column is which quantity is said by name. A number must be a finite decimal
// and nothing else; runs may be any text, equal texts being one run.

#include <optional>

#include "cluster/scaling/csv.h"
#include "cluster/scaling/measurements.h"

namespace capstan::scaling {

struct ColumnNames {
  std::string parameters, tokens, loss, flops, run, seed, weight, unique;  ///< empty: the table has none
};

/// Names left empty are looked for among usual ones (n, params, tokens, loss, flops, ...); `loss` must be found.
ColumnNames with_usual_names(ColumnNames names, const std::vector<std::string>& header);

/// `name` stands before line numbers in messages.
Measurements measurements_from(const Csv& csv, const ColumnNames& columns, const std::string& name);

}  // namespace capstan::scaling
