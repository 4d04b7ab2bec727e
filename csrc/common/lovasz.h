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

}  // namespace fastloss
