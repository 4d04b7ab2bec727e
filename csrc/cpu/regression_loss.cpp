// CPU kernels of the stem `regression_loss`.
#include <torch/csrc/stable/library.h>

#include "cpu/regression_loss.h"

namespace fastloss::cpu {
namespace {

template <typename T>
struct RegressionKernel {
  Source<T> pred, target;
  RegressionFunctions<T> functions;
  RegressionParams<T> params;
  Sink pred_gradient, target_gradient;

  RegressionKernel(const Tensor& p, const Tensor& t, const std::string& kind, double beta,
                   double alpha, double gamma)
      : pred(p), target(t), functions(kind), params(beta, alpha, gamma) {}

  void values(int64_t start, int64_t count, T* out) const {
    T a[kBlock], b[kBlock];
    functions.forward(pred.load(start, count, a), target.load(start, count, b), count, params, out);
  }
  void gradients(int64_t start, int64_t count, const T* m) const {
    T a[kBlock], b[kBlock], buffer[kBlock];
    const T* p = pred.load(start, count, a);
    const T* t = target.load(start, count, b);
    T* out = pred_gradient ? pred_gradient.target<T>(start, buffer) : buffer;
    functions.backward(p, t, m, count, params, out);
    if (pred_gradient) pred_gradient.store<T>(start, count, out);
    if (!target_gradient) return;
    T* negative = target_gradient.target<T>(start, a);
    for (int64_t i = 0; i < count; ++i) negative[i] = -out[i];
    target_gradient.store<T>(start, count, negative);
  }
  void both(int64_t start, int64_t count, const T* m, T* losses) const {
    T a[kBlock], b[kBlock], buffer[kBlock];
    T* out = pred_gradient.target<T>(start, buffer);
    functions.both(pred.load(start, count, a), target.load(start, count, b), m, count, params,
                   losses, out);
    pred_gradient.store<T>(start, count, out);
  }
};

Tensor regression_loss(Tensor pred, Tensor target, std::optional<Tensor> weight,
                       std::optional<Tensor> avg_factor, std::string kind, double beta,
                       double alpha, double gamma, std::optional<double> divisor,
                       std::string reduction, bool widen) {
  const Reduction r(weight, avg_factor, divisor, reduction, pred.numel(), pred.numel());
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    return reduce<T>(RegressionKernel<T>(pred, target, kind, beta, alpha, gamma), r, pred,
                     result_type(pred, widen), pred.sizes());
  };
  return pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

std::tuple<Tensor, Tensor, Tensor> regression_loss_backward(
    Tensor grad, Tensor pred, Tensor target, std::optional<Tensor> weight,
    std::optional<Tensor> avg_factor, std::string kind, double beta, double alpha, double gamma,
    std::optional<double> divisor, std::string reduction, bool, int64_t needs) {
  const Reduction r(weight, avg_factor, divisor, reduction, pred.numel(), pred.numel());
  std::tuple<Tensor, Tensor, Tensor> result{gradient_like(pred, pred, needs, 0),
                                            gradient_like(pred, target, needs, 1),
                                            gradient_like(pred, weight.value_or(pred), needs, 2)};
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    RegressionKernel<T> kernel(pred, target, kind, beta, alpha, gamma);
    kernel.pred_gradient = sink_for(std::get<0>(result), needs, 0);
    kernel.target_gradient = sink_for(std::get<1>(result), needs, 1);
    propagate<T>(kernel, r, grad, sink_for(std::get<2>(result), needs, 2));
  };
  pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

std::tuple<Tensor, Tensor> regression_loss_with_gradient(
    Tensor pred, Tensor target, std::optional<Tensor> weight, std::optional<Tensor> avg_factor,
    std::string kind, double beta, double alpha, double gamma, std::optional<double> divisor,
    std::string reduction, bool widen) {
  const Reduction r(weight, avg_factor, divisor, reduction, pred.numel(), pred.numel());
  Tensor gradient = gradient_like(pred, pred, 1, 0);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    RegressionKernel<T> kernel(pred, target, kind, beta, alpha, gamma);
    kernel.pred_gradient = Sink(gradient);
    return reduce_with_gradient<T>(kernel, r, pred, result_type(pred, widen));
  };
  return {pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{}), gradient};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("regression_loss", TORCH_BOX(&regression_loss));
  m.impl("regression_loss_backward", TORCH_BOX(&regression_loss_backward));
  m.impl("regression_loss_with_gradient", TORCH_BOX(&regression_loss_with_gradient));
}

}  // namespace
}  // namespace fastloss::cpu
