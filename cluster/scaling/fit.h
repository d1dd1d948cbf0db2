#pragma once
// One law fitted to one table, with a certificate. The search: a grid over the exponents with the coefficients solved
// for, then Newton's method on all parameters together from at least 32 starting points (starts.h, minimize.h). What
// comes back is the best minimum and how many starts reached it; a fit that no two starts agree on is not converged.

#include "cluster/scaling/minimize.h"
#include "cluster/scaling/model.h"

namespace capstan::scaling {

struct Certificate {
  double objective = 0;             ///< the sum
  double gradient_norm = 0;         ///< in the centred coordinates, over parameters not at a bound
  double decrement = 0;             ///< what one more Newton step would gain; to compare with the objective
  size_t starts = 0, agreeing = 0;  ///< agreeing: within 1e-6 of the objective, relatively
  std::vector<double> eigenvalues;  ///< of the Hessian in the centred coordinates, least first
  std::vector<std::string> at_bound;
  bool converged = false;
  std::string reason;  ///< why not, where it did not
};

struct Fit {
  std::shared_ptr<const Model> model;
  Residual residual;
  Vector theta{};
  std::vector<double> constants;  ///< as model->names()
  Certificate certificate;
  size_t rows = 0;
  /// Residuals predicted - measured (ln, or raw as fitted), row by row, and the predicted losses.
  std::vector<double> residuals, predicted;
  double rms_log_error = 0;
};

/// Refuses (Error bad_data) tables from which the form cannot be identified; a fit that did not converge comes back
/// with certificate.converged false. `fit_law` on the same input gives the same bits every time.
Fit fit_law(Form form, const Measurements& table, const Residual& residual, const FormOptions& options);

/// The refusals alone: rows against parameters, distinct N, D or C, N and D moving together.
void refuse_unidentifiable(Form form, const Measurements& table, const Model& model);

/// The reason for which E, where the form has one, cannot be believed ("" where it can).
std::string impossible_irreducible(const Fit& fit, const Measurements& table);

}  // namespace capstan::scaling
