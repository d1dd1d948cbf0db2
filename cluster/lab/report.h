#pragma once
// The report of a sweep: one HTML page that needs nothing from outside, and its figures one by one as SVG. The page
// ends with a decision and says in plain words what each figure is, what was counted how, and what to distrust.
// Everything drawn comes from the table of records and, for curves, from the runs' logs; all text from files is
// escaped.

#include <map>
#include <optional>

#include "cluster/lab/record.h"
#include "cluster/lab/sweep_plan.h"
#include "cluster/scaling/bootstrap.h"
#include "cluster/scaling/study.h"

namespace capstan {

/// A run's loss while it trained, thinned.
struct TrainingCurve {
  std::vector<double> tokens, loss;
};

struct ReportInput {
  SweepSpec spec;
  std::string sweep_text;  ///< of the file, for provenance
  std::vector<RunRecord> records;
  std::map<std::string, TrainingCurve> curves;  ///< by run
  std::optional<HeldOutPrediction> prediction;
  std::string version;
};

struct ReportFigure {
  std::string name;  ///< of its files: "isoflop"
  std::string title, caption, svg;
};

struct Report {
  std::vector<ReportFigure> figures;
  std::string html;
};

/// The law and what is known of it; absent where the records carry none, with the reason.
struct ReportLaw {
  std::optional<scaling::Study> study;
  scaling::Measurements table;
  std::vector<scaling::Vector> replicates;
  std::vector<RunRecord> fitted;  ///< row by row of the table
  std::string reason;             ///< why there is no law
};
ReportLaw report_law(const ReportInput& input);

Report make_report(const ReportInput& input);

/// The parts of it.
std::vector<ReportFigure> report_figures(const ReportInput& input, const ReportLaw& law);
std::string decision_html(const ReportInput& input, const ReportLaw& law);
std::string report_html(const ReportInput& input, const ReportLaw& law, const std::vector<ReportFigure>& figures);

/// Losses of a metrics file in at most `most` bins that are even in the logarithm of the tokens.
TrainingCurve thinned(const std::vector<double>& tokens, const std::vector<double>& loss, size_t most);

}  // namespace capstan
