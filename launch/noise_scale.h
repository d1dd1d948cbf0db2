#pragma once
// The gradient noise scale tr(Sigma)/|G|^2 in tokens (McCandlish et al. 2018): the batch at which noise and signal
// weigh the same, above which larger batches save few steps. Two batch sizes are at hand for nothing when data ranks
// work side by side: each rank's own gradient and their mean. From the expected squares
//   E|G_small|^2 = |G|^2 + tr(Sigma)/B_small,   E|G_big|^2 = |G|^2 + tr(Sigma)/B_big
// both unknowns follow without bias. Rule: numerator and denominator are averaged apart and divided last; the mean of
// the quotients would be far too large.

namespace capstan {

class NoiseScale {
 public:
  /// `memory`: steps over which is averaged.
  explicit NoiseScale(double memory = 100) : decay_(1 - 1 / memory) {}

  /// small: mean over data ranks of the square of the gradient of a rank's own mean loss; big: of the mean over all.
  /// Steps whose numbers are not finite, or of a single rank, are passed over.
  void add(double small_square, double big_square, double small_tokens, double big_tokens);
  /// In tokens; NaN while nothing is known, or where the averages are not both positive yet.
  double tokens() const;

 private:
  double decay_, noise_ = 0, signal_ = 0, weight_ = 0;
};

}  // namespace capstan
