// The element-wise formulas of the stem `regression_loss`: value f(x, t) and df/dx = -df/dt.
// Definitions and sources: fastloss/reference/regression_loss.py.
#pragma once

#include "common/math.h"

namespace fastloss {

template <typename T>
struct RegressionParams {
  T beta;
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

}  // namespace fastloss
