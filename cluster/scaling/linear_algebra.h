#pragma once
// The little linear algebra that a law of at most eight parameters needs: spectra by cyclic Jacobi rotations (which
// keep small eigenvalues accurate beside large ones), damped Newton steps, Cholesky. Written out, because a matrix
// library's eigenvalue solver takes longer to compile than everything else in this folder together.

#include <vector>

#include "cluster/scaling/small.h"

namespace capstan::scaling {

/// Eigenvalues of the symmetric matrix over the listed rows and columns, least first.
std::vector<double> eigenvalues(const Matrix& symmetric, const std::vector<int>& rows);

/// A Newton model of an objective over the listed (free) parameters. The matrix is brought to unit diagonal first, so
/// that no parameter's unit matters, and decomposed once; any number of damped steps follow. Directions of negative
/// curvature are walked as if they curved the other way, so every step goes down.
class NewtonModel {
 public:
  NewtonModel(const Matrix& hessian, const Vector& gradient, const std::vector<int>& free);
  /// -(|H| + damping I)^-1 g in the scaled coordinates, zero outside the free parameters.
  Vector step(double damping) const;
  /// g' |H|^-1 g / 2: what an undamped step would gain were the objective quadratic. It has the objective's unit.
  double decrement() const;

 private:
  std::vector<int> free_;
  Vector scale_{}, spectrum_{}, projected_{};  // projected: the scaled gradient in the eigenvectors' basis
  Matrix vectors_{};
};

/// The symmetric positive (semi)definite system a x = b of size count; false where a is singular to working precision.
bool solve_positive(const Matrix& a, const Vector& b, int count, Vector& x);

}  // namespace capstan::scaling
