// Formulas of the Lovász losses; definitions and sources stand in fastloss/reference/lovasz.py and
// lovasz_histogram.py.
#pragma once

#include "common/math.h"

namespace fastloss {

// J_i - J_{i-1} of a pixel that `negatives` negatives and `positives` of the `total` > 0 positives
// precede.
FASTLOSS_FN double lovasz_jump(bool positive, double total, double positives, double negatives) {
  const double either = total + negatives;  // U
  const double above = positive ? 1.0 : total - positives;
  const double below = positive ? either : either * (either + 1);
  return above / below;
}

// The slopes of the pixels of a bin with `f` of the `n` positives and `b` negatives, below
// `f_above` and `b_above` of them.
struct LovaszSlopes {
  double positive, negative;
};
FASTLOSS_FN LovaszSlopes lovasz_slopes(double n, double f, double b, double f_above,
                                       double b_above) {
  // Without a positive the first bin with a pixel makes the loss 1.
  if (n == 0) return {0, b_above == 0 && b > 0 ? 1 / b : 0};
  const double above = n + b_above, upto = above + b;
  return {(1 / above + 1 / upto) / 2, (n - f_above - f / 2) / (above * upto)};
}

}  // namespace fastloss
