// The loops over a block of the stems `regression_loss` and `regression_terms`, by kind.
#pragma once

#include "common/regression.h"
#include "cpu/elementwise.h"

namespace fastloss::cpu {

template <typename F, typename T>
FASTLOSS_SIMD void regression_loss_fwd(const T* __restrict pred, const T* __restrict target,
                                       int64_t count, RegressionParams<T> params,
                                       T* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = F::value(pred[i] - target[i], params);
}

template <typename F, typename T>
FASTLOSS_SIMD void regression_loss_bwd(const T* __restrict pred, const T* __restrict target,
                                       const T* __restrict m, int64_t count,
                                       RegressionParams<T> params, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = m[i] * F::derivative(pred[i] - target[i], params);
}

template <typename F, typename T>
FASTLOSS_SIMD void regression_loss_both(const T* __restrict pred, const T* __restrict target,
                                        const T* __restrict m, int64_t count,
                                        RegressionParams<T> params, T* __restrict loss,
                                        T* __restrict gradient) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    loss[i] = F::value(pred[i] - target[i], params);
    gradient[i] = m[i] * F::derivative(pred[i] - target[i], params);
  }
}

template <typename T>
struct RegressionFunctions {
  decltype(&regression_loss_fwd<L1, T>) forward;
  decltype(&regression_loss_bwd<L1, T>) backward;
  decltype(&regression_loss_both<L1, T>) both;

  explicit RegressionFunctions(const std::string& kind) {
    if (kind == "l1")
      set<L1>();
    else if (kind == "smooth_l1")
      set<SmoothL1>();
    else if (kind == "mse")
      set<MSE>();
    else
      set<BalancedL1>();
  }
  template <typename F>
  void set() {
    forward = &regression_loss_fwd<F, T>;
    backward = &regression_loss_bwd<F, T>;
    both = &regression_loss_both<F, T>;
  }
};

}  // namespace fastloss::cpu
