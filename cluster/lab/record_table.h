#pragma once
// From records to the measurements that a law is fitted to. What N and C mean is chosen here, once, by the names of
// columns; runs that are not done, and runs that only looked for a learning rate, are left out.

#include "cluster/lab/record.h"
#include "cluster/scaling/csv.h"
#include "cluster/scaling/measurements.h"
#include "cluster/scaling/table.h"

namespace capstan {

struct TableColumns {
  std::string n = "n_total", c = "flops_half", loss = "loss";
};

/// Whether the fits take this run: done, and no search, trunk or held-out test.
bool is_fitted(const RunRecord& record);

/// Error bad_data when no record is left.
scaling::Measurements measurements_of(const std::vector<RunRecord>& records, const TableColumns& columns,
                                      const std::string& where);
/// The number of a column; Error usage for a name that is none, or text.
double record_number(const RunRecord& record, const std::string& column);

/// The fitted records as a table of text, so that every option of `capstan fit` works on a store as on a CSV file.
scaling::Csv csv_of(const std::vector<RunRecord>& records, const std::string& where);
/// Whether a table of text has the columns of records, as `capstan records --csv` writes them.
bool is_record_table(const scaling::Csv& table);
/// Of such a table the rows that the fits take, so that it gives the law that its store gives.
scaling::Csv fitted_rows(scaling::Csv table, const std::string& where);
/// The columns that a store is fitted with where nothing else was asked for.
scaling::ColumnNames with_store_names(scaling::ColumnNames names);

}  // namespace capstan
