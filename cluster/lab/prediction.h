#pragma once
// What the ladder says about the held-out budget, before anybody has trained there: the size to build, its tokens, and
// the loss to expect. Two views are asked: the fitted law L(N, D), and the power law of C through the minima of the
// parabolas. The one has a floor that small runs can only guess, and tends to guess too high; the other has none, and
// ends too low. Each has foreseen the largest budget of the ladder from the others; the forecast is their mean in ln L,
// weighted by the inverse of the errors made there.

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
  double low = 0, high = 0;       ///< 95% of the law's best loss, widened to the trend's
  double law_loss = 0;            ///< of that one, by the law alone; 0: there was none
  double trend_loss = 0;          ///< of the best size, by the minima of the parabolas; 0: there were none
  double law_weight = 1;          ///< in `loss`; the trend has the rest
  std::string basis;              ///< one sentence

  std::string to_json() const;
  static HeldOutPrediction from_json(const std::string& text, const std::string& where);
};

/// Columns of records that this sweep means by N and C.
struct CountColumns {
  std::string n, c;
};
CountColumns columns_of(const SweepSpec& spec);

/// The weight of the first of two views whose relative errors in the same back-test were these.
double weight_by_errors(double first, double second);

/// Where the records carry no law, the expected optimum of the sweep file is taken, and `basis` says so.
HeldOutPrediction predict_held_out(const SweepSpec& spec, int64_t vocabulary, const std::vector<RunRecord>& records);

}  // namespace capstan
