// CPU kernels of the stem `bounded_iou_loss`. Its unreduced loss has the shape of the boxes, so
// that elements here are coordinates, four to a box.
#include "common/bounded_iou.h"

#include <torch/csrc/stable/library.h>

#include "cpu/elementwise.h"

namespace fastloss::cpu {
namespace {

template <typename T>
FASTLOSS_SIMD void bounded_iou_fwd(const T* __restrict pred, const T* __restrict target,
                                   int64_t boxes, BoundedParams<T> params, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < boxes; ++i)
    bounded_iou(BoxPair<T>(pred + 4 * i, target + 4 * i), params, out + 4 * i);
}

template <typename T>
FASTLOSS_SIMD void bounded_iou_bwd(const T* __restrict pred, const T* __restrict target,
                                   const T* __restrict m, int64_t boxes, BoundedParams<T> params,
                                   T* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < boxes; ++i)
    bounded_iou_gradient(BoxPair<T>(pred + 4 * i, target + 4 * i), params, m + 4 * i, out + 4 * i);
}

template <typename T>
FASTLOSS_SIMD void bounded_iou_both(const T* __restrict pred, const T* __restrict target,
                                    const T* __restrict m, int64_t boxes, BoundedParams<T> params,
                                    T* __restrict loss, T* __restrict gradient) {
#pragma GCC ivdep
  for (int64_t i = 0; i < boxes; ++i) {
    const BoxPair<T> pair(pred + 4 * i, target + 4 * i);
    bounded_iou(pair, params, loss + 4 * i);
    bounded_iou_gradient(pair, params, m + 4 * i, gradient + 4 * i);
  }
}

// Blocks hold whole boxes.
static_assert(kBlock % 4 == 0);

template <typename T>
struct BoundedKernel {
  Source<T> pred, target;
  BoundedParams<T> params;
  Sink pred_gradient;

  BoundedKernel(const Tensor& p, const Tensor& t, double beta, double eps)
      : pred(p), target(t), params{static_cast<T>(beta), static_cast<T>(eps)} {}

  void values(int64_t start, int64_t count, T* out) const {
    T a[kBlock], b[kBlock];
    bounded_iou_fwd(pred.load(start, count, a), target.load(start, count, b), count / 4, params,
                    out);
  }
  void gradients(int64_t start, int64_t count, const T* m) const {
    if (!pred_gradient) return;
    T a[kBlock], b[kBlock], buffer[kBlock];
    T* out = pred_gradient.target<T>(start, buffer);
    bounded_iou_bwd(pred.load(start, count, a), target.load(start, count, b), m, count / 4, params,
                    out);
    pred_gradient.store<T>(start, count, out);
  }
  void both(int64_t start, int64_t count, const T* m, T* losses) const {
    T a[kBlock], b[kBlock], buffer[kBlock];
    T* out = pred_gradient.target<T>(start, buffer);
    bounded_iou_both(pred.load(start, count, a), target.load(start, count, b), m, count / 4, params,
                     losses, out);
    pred_gradient.store<T>(start, count, out);
  }
};

Tensor bounded_iou_loss(Tensor pred, Tensor target, std::optional<Tensor> weight,
                        std::optional<Tensor> avg_factor, double beta, double eps,
                        std::optional<double> divisor, std::string reduction, bool widen) {
  const Reduction r(weight, avg_factor, divisor, reduction, pred.numel(), pred.numel());
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    return reduce<T>(BoundedKernel<T>(pred, target, beta, eps), r, pred, result_type(pred, widen),
                     pred.sizes());
  };
  return pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

std::tuple<Tensor, Tensor> bounded_iou_loss_backward(Tensor grad, Tensor pred, Tensor target,
                                                     std::optional<Tensor> weight,
                                                     std::optional<Tensor> avg_factor, double beta,
                                                     double eps, std::optional<double> divisor,
                                                     std::string reduction, bool, int64_t needs) {
  const Reduction r(weight, avg_factor, divisor, reduction, pred.numel(), pred.numel());
  std::tuple<Tensor, Tensor> result{gradient_like(pred, pred, needs, 0),
                                    gradient_like(pred, weight.value_or(pred), needs, 1)};
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    BoundedKernel<T> kernel(pred, target, beta, eps);
    kernel.pred_gradient = sink_for(std::get<0>(result), needs, 0);
    propagate<T>(kernel, r, grad, sink_for(std::get<1>(result), needs, 1));
  };
  pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

std::tuple<Tensor, Tensor> bounded_iou_loss_with_gradient(
    Tensor pred, Tensor target, std::optional<Tensor> weight, std::optional<Tensor> avg_factor,
    double beta, double eps, std::optional<double> divisor, std::string reduction, bool widen) {
  const Reduction r(weight, avg_factor, divisor, reduction, pred.numel(), pred.numel());
  Tensor gradient = gradient_like(pred, pred, 1, 0);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    BoundedKernel<T> kernel(pred, target, beta, eps);
    kernel.pred_gradient = Sink(gradient);
    return reduce_with_gradient<T>(kernel, r, pred, result_type(pred, widen));
  };
  return {pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{}), gradient};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("bounded_iou_loss", TORCH_BOX(&bounded_iou_loss));
  m.impl("bounded_iou_loss_backward", TORCH_BOX(&bounded_iou_loss_backward));
  m.impl("bounded_iou_loss_with_gradient", TORCH_BOX(&bounded_iou_loss_with_gradient));
}

}  // namespace
}  // namespace fastloss::cpu
