#include "cluster/scaling/linear_algebra.h"

#include <algorithm>
#include <cmath>

namespace capstan::scaling {
namespace {

Matrix gathered(const Matrix& matrix, const std::vector<int>& rows) {
  Matrix out{};
  for (size_t i = 0; i < rows.size(); ++i)
    for (size_t j = 0; j < rows.size(); ++j) out[i][j] = matrix[rows[i]][rows[j]];
  return out;
}

/// One rotation of rows and columns p and q that makes a[p][q] zero.
void rotate(Matrix& a, Matrix& vectors, int count, int p, int q) {
  const double angle = (a[q][q] - a[p][p]) / (2 * a[p][q]);
  const double t = (angle < 0 ? -1 : 1) / (std::abs(angle) + std::sqrt(angle * angle + 1));
  const double c = 1 / std::sqrt(t * t + 1), s = t * c;
  for (int k = 0; k < count; ++k) {
    const double x = a[k][p], y = a[k][q];
    a[k][p] = c * x - s * y;
    a[k][q] = s * x + c * y;
  }
  for (int k = 0; k < count; ++k) {
    const double x = a[p][k], y = a[q][k];
    a[p][k] = c * x - s * y;
    a[q][k] = s * x + c * y;
  }
  a[p][q] = a[q][p] = 0;
  for (int k = 0; k < count; ++k) {
    const double x = vectors[k][p], y = vectors[k][q];
    vectors[k][p] = c * x - s * y;
    vectors[k][q] = s * x + c * y;
  }
}

/// a becomes diagonal; column k of vectors belongs to a[k][k].
void diagonalize(Matrix& a, Matrix& vectors, int count) {
  vectors = Matrix{};
  for (int i = 0; i < count; ++i) vectors[i][i] = 1;
  for (int sweep = 0; sweep < 50; ++sweep) {
    bool rotated = false;
    for (int p = 0; p < count; ++p)
      for (int q = p + 1; q < count; ++q) {
        if (std::abs(a[p][q]) <= 1e-17 * std::sqrt(std::abs(a[p][p]) * std::abs(a[q][q]))) continue;
        if (std::abs(a[p][q]) < 1e-300) continue;
        rotate(a, vectors, count, p, q);
        rotated = true;
      }
    if (!rotated) return;
  }
}

/// Below this share of the diagonal a direction counts as flat: steps along it are left to the damping.
constexpr double kFlat = 1e-13;

}  // namespace

std::vector<double> eigenvalues(const Matrix& symmetric, const std::vector<int>& rows) {
  const int count = static_cast<int>(rows.size());
  Matrix matrix = gathered(symmetric, rows), vectors;
  diagonalize(matrix, vectors, count);
  std::vector<double> out;
  for (int i = 0; i < count; ++i) out.push_back(matrix[i][i]);
  std::sort(out.begin(), out.end());
  return out;
}

NewtonModel::NewtonModel(const Matrix& hessian, const Vector& gradient, const std::vector<int>& free) : free_(free) {
  const int count = static_cast<int>(free_.size());
  Matrix matrix = gathered(hessian, free_);
  double largest = 1e-300;
  for (int i = 0; i < count; ++i) largest = std::max(largest, std::abs(matrix[i][i]));
  for (int i = 0; i < count; ++i) scale_[i] = 1 / std::sqrt(std::max(std::abs(matrix[i][i]), 1e-14 * largest));
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < count; ++j) matrix[i][j] *= scale_[i] * scale_[j];
  diagonalize(matrix, vectors_, count);
  for (int k = 0; k < count; ++k) {
    spectrum_[k] = std::max(std::abs(matrix[k][k]), kFlat);
    for (int i = 0; i < count; ++i) projected_[k] += vectors_[i][k] * scale_[i] * gradient[free_[i]];
  }
}

Vector NewtonModel::step(double damping) const {
  Vector out{};
  const int count = static_cast<int>(free_.size());
  for (int i = 0; i < count; ++i) {
    double sum = 0;
    for (int k = 0; k < count; ++k) sum += vectors_[i][k] * projected_[k] / (spectrum_[k] + damping);
    out[free_[i]] = -sum * scale_[i];
  }
  return out;
}

double NewtonModel::decrement() const {
  double sum = 0;
  for (size_t k = 0; k < free_.size(); ++k)
    if (spectrum_[k] > kFlat) sum += projected_[k] * projected_[k] / spectrum_[k];
  return sum / 2;
}

bool solve_positive(const Matrix& a, const Vector& b, int count, Vector& x) {
  Matrix root{};
  Vector half{};
  for (int i = 0; i < count; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = a[i][j];
      for (int k = 0; k < j; ++k) sum -= root[i][k] * root[j][k];
      if (i == j && !(sum > 1e-15 * a[i][i])) return false;
      root[i][j] = i == j ? std::sqrt(sum) : sum / root[j][j];
    }
    half[i] = b[i];
    for (int k = 0; k < i; ++k) half[i] -= root[i][k] * half[k];
    half[i] /= root[i][i];
  }
  for (int i = count; i-- > 0;) {
    x[i] = half[i];
    for (int k = i + 1; k < count; ++k) x[i] -= root[k][i] * x[k];
    x[i] /= root[i][i];
  }
  return true;
}

}  // namespace capstan::scaling
