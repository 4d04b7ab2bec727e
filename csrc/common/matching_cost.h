// Terms of the cost of a pair of prediction and target; definitions and sources:
// fastloss/reference/matching_cost.py.
#pragma once

#include "common/focal.h"

namespace fastloss {

// x with +-largest in the place of what exceeds it; NaN stays.
template <typename T>
FASTLOSS_FN T bounded(T x, T largest) {
  const T below = largest < x ? largest : x;
  return -largest > below ? -largest : below;
}

// What costs in a result of some dtype are at most, and what pairs cost whose formula is not
// finite.
template <typename T>
struct CostRange {
  T largest, unmatchable;

  FASTLOSS_FN T settle(T cost) const {
    const T value = bounded(cost, largest);
    return value == value ? value : unmatchable;
  }
};

// The focal cost of a logit x times a weight; Power is Square or General.
template <typename Power, typename T>
FASTLOSS_FN T focal_cost(T x, T alpha, T gamma, T weight) {
  constexpr T eps = T(1e-8);
  // Of p and 1 - p, r is the one >= 1/2 and e r the other.
  const T e = exp_nonpositive(-abs_(x)), r = inverse_1p(e);
  // -ln(r + eps) = ln(1 + e) - ln(1 + eps / r), and eps / r <= 2 eps.
  const T large = log1p_unit(e) - eps * (T(1) + e), small = -log_(e * r + eps);
  const T a = alpha < T(0) ? T(1) : alpha, b = alpha < T(0) ? T(1) : T(1) - alpha;
  const bool unlikely = x < T(0);  // p < 1/2
  const T of_small = Power::value(r, gamma) * small, of_large = Power::value(e * r, gamma) * large;
  const T cost = unlikely ? a * of_small - b * of_large : a * of_large - b * of_small;
  return bounded(weight * cost, std::numeric_limits<T>::max());
}

// -p of one class from exp(x - top); factor is -weight / sum of these.
template <typename T>
struct SoftmaxCost {
  T factor;
  FASTLOSS_FN T operator()(T exponential) const { return factor * exponential; }
};

// -ln p of one class from its logit; a logit of -inf gives NaN, finite ones that are far apart the
// largest number.
template <typename T>
struct NllCost {
  T top, log_sum, weight;
  FASTLOSS_FN T operator()(T x) const {
    constexpr T largest = std::numeric_limits<T>::max();
    return bounded(weight * (bounded((top - x) + log_sum, largest) + T(0) * x), largest);
  }
};

// A class cost that is ready.
template <typename T>
struct GivenCost {
  FASTLOSS_FN T operator()(T cost) const { return cost; }
};

}  // namespace fastloss
