#pragma once
// What the ladder says about the held-out budget, before anybody has trained there: the size to build, its tokens, and
// the loss to expect, by the fitted law with its interval and by the trend of the parabolas' minima.

#include <optional>
#include <string>

#include "cluster/lab/record.h"
#include "cluster/lab/shapes.h"

namespace capstan {

struct HeldOutPrediction {
  double flops = 0;
  double best_n = 0, best_d = 0, best_loss = 0;  ///< of the law, among all sizes
  std::string shape;                             ///< the one to be trained: WIDTHxLAYERS
  int64_t width = 0, layers = 0;
  double n = 0, d = 0, loss = 0;  ///< of that one
  double low = 0, high = 0;       ///< 95% of `best_loss`
  double trend_loss = 0;          ///< of the minima of the parabolas; 0: there were none
  std::string basis;              ///< one sentence

  std::string to_json() const;
  static HeldOutPrediction from_json(const std::string& text, const std::string& where);
};

/// Columns of records that this sweep means by N and C.
struct CountColumns {
  std::string n, c;
};
CountColumns columns_of(const SweepSpec& spec);

/// Where the records carry no law, the expected optimum of the sweep file is taken, and `basis` says so.
HeldOutPrediction predict_held_out(const SweepSpec& spec, int64_t vocabulary, const std::vector<RunRecord>& records);

/// The expected optimum of a budget, from sweep.budgets.centre_*; 0: not known.
double expected_n(const SweepSpec& spec, double flops);

}  // namespace capstan
