// The element-wise formulas of the stem `regression_loss`: value f(x, t) and df/dx = -df/dt.
// Definitions and sources: fastloss/reference/regression_loss.py.
#pragma once

#include "common/math.h"

namespace fastloss {

template <typename T>
struct RegressionParams {
  T beta, alpha, gamma, b, offset;  // b and offset: see BalancedL1

  RegressionParams(double beta, double alpha, double gamma)
      : beta(static_cast<T>(beta)), alpha(static_cast<T>(alpha)), gamma(static_cast<T>(gamma)) {
    const double growth = std::expm1(gamma / alpha);
    b = static_cast<T>(growth);
    offset = static_cast<T>(gamma / growth - alpha * beta);
  }
};

// sign(d) as torch.sign: 0 at 0, NaN for NaN.
template <typename T>
FASTLOSS_FN T sign_(T d) {
  return d > T(0) ? T(1) : (d < T(0) ? T(-1) : d);
}

// |x - t|
struct L1 {
  template <typename T>
  static FASTLOSS_FN T value(T d, const RegressionParams<T>&) {
    return abs_(d);
  }
  template <typename T>
  static FASTLOSS_FN T derivative(T d, const RegressionParams<T>&) {
    return sign_(d);
  }
};

// d^2 / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere
struct SmoothL1 {
  template <typename T>
  static FASTLOSS_FN T value(T d, const RegressionParams<T>& o) {
    const T a = abs_(d);
    return a < o.beta ? T(0.5) * a * a / o.beta : a - T(0.5) * o.beta;
  }
  template <typename T>
  static FASTLOSS_FN T derivative(T d, const RegressionParams<T>& o) {
    return abs_(d) < o.beta ? d / o.beta : sign_(d);
  }
};

// (x - t)^2
struct MSE {
  template <typename T>
  static FASTLOSS_FN T value(T d, const RegressionParams<T>&) {
    return d * d;
  }
  template <typename T>
  static FASTLOSS_FN T derivative(T d, const RegressionParams<T>&) {
    return T(2) * d;
  }
};

// alpha / b (b |d| + 1) ln(b |d| / beta + 1) - alpha |d| where |d| < beta, gamma |d| + offset
// elsewhere, with b = e^(gamma / alpha) - 1 and offset = gamma / b - alpha beta
struct BalancedL1 {
  template <typename T>
  static FASTLOSS_FN T value(T d, const RegressionParams<T>& o) {
    const T a = abs_(d), x = o.b * min_(a, o.beta);
    const T near = o.alpha / o.b * (x + T(1)) * log1p_(x / o.beta) - o.alpha * a;
    return a < o.beta ? near : o.gamma * a + o.offset;
  }
  template <typename T>
  static FASTLOSS_FN T derivative(T d, const RegressionParams<T>& o) {
    const T a = abs_(d), x = o.b * min_(a, o.beta);
    const T near = o.alpha * (log1p_(x / o.beta) + (T(1) - o.beta) / (x + o.beta));
    return sign_(d) * (a < o.beta ? near : o.gamma);
  }
};

}  // namespace fastloss
