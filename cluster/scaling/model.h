#pragma once
// A scaling law as the solver sees it: ln L at a place, with exact first and second derivatives in the solver's own
// coordinates. Those are chosen so that the problem is well conditioned: a term A / N^alpha is held as
// K exp(-alpha (ln N - centre)), K being its size in the middle of the data, because A and alpha themselves are
// correlated to many digits. natural() and from_natural() go between the two.
// The linear coefficients come first: for given exponents L = (sum_k coefficient_k column_k)^power, which is what the
// search for starting points (starts.h) uses.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cluster/scaling/measurements.h"
#include "cluster/scaling/small.h"

namespace capstan::scaling {

enum class Form { chinchilla, kaplan_n, kaplan_d, kaplan_nd, kaplan_c, gadre, repetition, isoflop, envelope };

struct FormName {
  Form form;
  const char* name;
  const char* formula;
};
const std::vector<FormName>& form_names();
std::string name_of(Form form);

/// Logarithms of where a law is evaluated.
struct Place {
  double ln_n = 0, ln_d = 0, ln_c = 0, ln_u = 0;  ///< parameters, tokens, FLOP, unique tokens
};
std::vector<Place> places_of(const Measurements& m);

/// A parameter as people write it.
struct Constant {
  std::string name;
  double value = 0;
};

class Model {
 public:
  virtual ~Model() = default;
  /// ln of the predicted loss; derivatives are written (not added) where asked for.
  virtual double log_loss(const Place& at, const Vector& theta, Vector* gradient, Matrix* hessian) const = 0;
  /// The columns that the linear coefficients multiply, for the exponents in theta.
  virtual void columns(const Place& at, const Vector& theta, Vector& out) const = 0;
  /// L = (sum)^power(theta)
  virtual double power(const Vector&) const { return 1; }
  virtual std::vector<double> natural(const Vector& theta) const = 0;
  virtual Vector from_natural(const std::vector<double>& values) const = 0;

  int size() const { return static_cast<int>(names_.size()); }
  int linear() const { return linear_; }
  /// Names of the natural parameters, and of the solver's coordinates one by one.
  const std::vector<std::string>& names() const { return names_; }
  const std::vector<std::string>& coordinate_names() const { return coordinate_names_; }
  const Vector& lower() const { return lower_; }
  const Vector& upper() const { return upper_; }
  bool is_fixed(int i) const { return lower_[i] == upper_[i]; }
  std::vector<int> free() const;
  int free_count() const { return static_cast<int>(free().size()); }
  /// Index of the coordinate that is E, or -1.
  int irreducible() const { return irreducible_; }
  /// Values to try for a nonlinear coordinate when starting points are sought.
  const std::vector<double>& grid(int coordinate) const { return grids_[coordinate]; }

 protected:
  int linear_ = 0, irreducible_ = -1;
  std::vector<std::string> names_, coordinate_names_;
  Vector lower_{}, upper_{};
  std::vector<std::vector<double>> grids_ = std::vector<std::vector<double>>(kMaxParameters);
};

struct FormOptions {
  std::vector<Constant> fixed;  ///< natural parameters held at a value
  bool tie_exponents = false;   ///< alpha = beta (chinchilla)
};

/// The law of a form, centred on these measurements. Throws for a form that is not a law of this kind (isoflop,
/// envelope), for unknown names among the fixed, and for columns that the form needs and the table lacks.
std::unique_ptr<const Model> make_model(Form form, const Measurements& centre, const FormOptions& options);

}  // namespace capstan::scaling
