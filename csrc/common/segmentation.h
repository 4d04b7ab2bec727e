// Formulas per element of the segmentation losses; definitions and sources stand in
// fastloss/reference/segmentation_table.py.
#pragma once

#include "common/focal.h"

namespace fastloss {

// The parameters of the factor f of focal losses: m^gamma with m = 1 - exp(-b), or with a threshold
// h (m / h)^gamma, and 1 where 1 - m < h.
template <typename T>
struct FocalFactor {
  T gamma, threshold, inverse;  // without a threshold -1 and 1

  FocalFactor(double gamma, double threshold)
      : gamma(static_cast<T>(gamma)),
        threshold(static_cast<T>(threshold)),
        inverse(static_cast<T>(threshold < 0 ? 1 : 1 / threshold)) {}

  // Whether formulas with `Square` hold: the usual case, half the price.
  bool is_square() const { return gamma == T(2) && threshold < T(0); }
};

// A focal term at the cross entropy b, from m and pt = 1 - m, each without cancellation: f(b),
// f(b) b and their derivatives.
template <typename T>
struct FocalTerm {
  T factor, loss, factor_slope, loss_slope;
};
template <typename Power, typename T>
FASTLOSS_FN FocalTerm<T> focal_term(T b, T m, T pt, const FocalFactor<T>& f) {
  // pt is not below the smallest normal number, so an infinite b must not multiply it.
  const T finite = min_(b, T(200));
  if constexpr (std::is_same_v<Power, Square>)
    return {m * m, m * m * b, T(2) * m * pt, m * (T(2) * pt * finite + m)};
  const T power = Power::value(m * f.inverse, f.gamma);
  const T power_slope = Power::derivative(m * f.inverse, f.gamma) * f.inverse * pt;
  const T factor = pt < f.threshold ? T(1) : power, slope = pt < f.threshold ? T(0) : power_slope;
  return {factor, factor * b, slope, slope * finite + factor};
}

// Binary cross entropy of a logit for a target of 0 or 1; u = x for 0, -x for 1.
template <typename T>
struct HardTarget {
  T sign, b, m, pt, b_x;

  FASTLOSS_FN HardTarget(T x, bool one) : sign(one ? T(-1) : T(1)) {
    const Logit<T> in(one ? -x : x);
    b = max_(in.x, T(0)) + in.softplus_tail;
    m = in.p, pt = in.q, b_x = sign * in.p;
  }
};

// The same for any target in [0, 1]; an infinite part with factor 0 counts nothing.
template <typename T>
struct SoftTarget {
  T b, m, pt, b_x;

  FASTLOSS_FN SoftTarget(const Logit<T>& in, T t) {
    const T positive = t * (max_(-in.x, T(0)) + in.softplus_tail);
    const T negative = (T(1) - t) * (max_(in.x, T(0)) + in.softplus_tail);
    b = (t == T(0) ? T(0) : positive) + (t == T(1) ? T(0) : negative);
    m = one_minus_exp(b), pt = exp_nonpositive(-b), b_x = in.residual(t);
  }
};

// a = alpha t + (1 - alpha)(1 - t) as a linear function of t; 1 without alpha.
template <typename T>
struct Balance {
  T base = 1, slope = 0;

  Balance() = default;
  explicit Balance(double alpha)
      : base(static_cast<T>(1 - alpha)), slope(static_cast<T>(2 * alpha - 1)) {}
  FASTLOSS_FN T at(T t) const { return base + slope * t; }
};

// Derivative of min(a, b) with respect to a, 1/2 at a tie.
template <typename T>
FASTLOSS_FN T lower(T a, T b) {
  return a < b ? T(1) : (a > b ? T(0) : T(0.5) + T(0) * (a - b));
}

}  // namespace fastloss
