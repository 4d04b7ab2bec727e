// CPU kernels of the stem `box_loss`.
#include "common/box_geometry.h"
#include "common/box_shape.h"

#include <torch/csrc/stable/library.h>

#include "cpu/elementwise.h"

namespace fastloss::cpu {
namespace {

template <typename F, typename T>
FASTLOSS_SIMD void box_loss_fwd(const T* __restrict pred, const T* __restrict target,  // (count, 4)
                                int64_t count, BoxParams<T> params, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const BoxPair<T> pair(pred + 4 * i, target + 4 * i);
    out[i] = F::value(pair, params) + pair.poison;
  }
}

template <typename T>
FASTLOSS_FN void write_box(const Axis<T>& x, const Axis<T>& y, bool of_target, T factor, T* out) {
  out[0] = (of_target ? x.t1 : x.p1) * factor;
  out[1] = (of_target ? y.t1 : y.p1) * factor;
  out[2] = (of_target ? x.t2 : x.p2) * factor;
  out[3] = (of_target ? y.t2 : y.p2) * factor;
}

// kWantTarget: write the gradient of the target instead of that of the prediction.
template <typename F, bool kWantTarget, typename T>
FASTLOSS_SIMD void box_loss_bwd(const T* __restrict pred, const T* __restrict target,
                                const T* __restrict m, int64_t count, BoxParams<T> params,
                                T* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const BoxPair<T> pair(pred + 4 * i, target + 4 * i);
    const PairGradient<T> g = F::gradient(pair, params);
    write_box(coordinates(pair.x, g.x), coordinates(pair.y, g.y), kWantTarget,
              m[i] * pair.scale + pair.poison, out + 4 * i);
  }
}

template <typename F, typename T>
FASTLOSS_SIMD void box_loss_both(const T* __restrict pred, const T* __restrict target,
                                 const T* __restrict m, int64_t count, BoxParams<T> params,
                                 T* __restrict loss, T* __restrict gradient) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const BoxPair<T> pair(pred + 4 * i, target + 4 * i);
    loss[i] = F::value(pair, params) + pair.poison;
    const PairGradient<T> g = F::gradient(pair, params);
    write_box(coordinates(pair.x, g.x), coordinates(pair.y, g.y), false,
              m[i] * pair.scale + pair.poison, gradient + 4 * i);
  }
}

template <typename T>
struct Functions {
  decltype(&box_loss_fwd<GIoU, T>) forward;
  decltype(&box_loss_bwd<GIoU, false, T>) pred_backward, target_backward;
  decltype(&box_loss_both<GIoU, T>) both;

  Functions(const std::string& kind, const std::string& mode, bool neg_gamma) {
    if (kind == "giou")
      set<GIoU>();
    else if (kind == "diou")
      set<DIoU>();
    else if (kind == "ciou")
      set<CIoU>();
    else if (kind == "eiou")
      set<EIoU>();
    else if (kind == "siou" && neg_gamma)
      set<SIoU<-1>>();
    else if (kind == "siou")
      set<SIoU<1>>();
    else if (mode == "linear")
      set<IoU<Linear>>();
    else if (mode == "square")
      set<IoU<Squared>>();
    else
      set<IoU<Log>>();
  }
  template <typename F>
  void set() {
    forward = &box_loss_fwd<F, T>;
    pred_backward = &box_loss_bwd<F, false, T>;
    target_backward = &box_loss_bwd<F, true, T>;
    both = &box_loss_both<F, T>;
  }
};

template <typename T>
struct BoxKernel {
  Source<T> pred, target;
  Functions<T> functions;
  BoxParams<T> params;
  Sink pred_gradient, target_gradient;

  BoxKernel(const Tensor& p, const Tensor& t, const std::string& kind, const std::string& mode,
            double eps, double union_eps, double smooth_point, bool neg_gamma)
      : pred(p),
        target(t),
        functions(kind, mode, neg_gamma),
        params{static_cast<T>(eps), static_cast<T>(union_eps), static_cast<T>(smooth_point)} {}

  void values(int64_t start, int64_t count, T* out) const {
    T a[4 * kBlock], b[4 * kBlock];
    functions.forward(pred.load(4 * start, 4 * count, a), target.load(4 * start, 4 * count, b),
                      count, params, out);
  }
  void gradients(int64_t start, int64_t count, const T* m) const {
    T a[4 * kBlock], b[4 * kBlock];
    const T* p = pred.load(4 * start, 4 * count, a);
    const T* t = target.load(4 * start, 4 * count, b);
    write(pred_gradient, functions.pred_backward, start, count, p, t, m);
    write(target_gradient, functions.target_backward, start, count, p, t, m);
  }
  void both(int64_t start, int64_t count, const T* m, T* losses) const {
    T a[4 * kBlock], b[4 * kBlock], buffer[4 * kBlock];
    T* out = pred_gradient.target<T>(4 * start, buffer);
    functions.both(pred.load(4 * start, 4 * count, a), target.load(4 * start, 4 * count, b), m,
                   count, params, losses, out);
    pred_gradient.store<T>(4 * start, 4 * count, out);
  }

 private:
  template <typename Function>
  void write(const Sink& sink, Function backward, int64_t start, int64_t count, const T* p,
             const T* t, const T* m) const {
    if (!sink) return;
    T buffer[4 * kBlock];
    T* out = sink.target<T>(4 * start, buffer);
    backward(p, t, m, count, params, out);
    sink.store<T>(4 * start, 4 * count, out);
  }
};

Tensor box_loss(Tensor pred, Tensor target, std::optional<Tensor> weight,
                std::optional<Tensor> avg_factor, std::string kind, std::string mode, double eps,
                double union_eps, double smooth_point, bool neg_gamma,
                std::optional<double> divisor, std::string reduction, bool widen) {
  const int64_t count = pred.numel() / 4;
  const Reduction r(weight, avg_factor, divisor, reduction, count, count);
  const auto sizes = pred.sizes();
  const std::vector<int64_t> outer(sizes.begin(), sizes.end() - 1);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    return reduce<T>(
        BoxKernel<T>(pred, target, kind, mode, eps, union_eps, smooth_point, neg_gamma), r, pred,
        result_type(pred, widen), outer);
  };
  return pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

std::tuple<Tensor, Tensor, Tensor> box_loss_backward(Tensor grad, Tensor pred, Tensor target,
                                                     std::optional<Tensor> weight,
                                                     std::optional<Tensor> avg_factor,
                                                     std::string kind, std::string mode, double eps,
                                                     double union_eps, double smooth_point,
                                                     bool neg_gamma, std::optional<double> divisor,
                                                     std::string reduction, bool, int64_t needs) {
  const int64_t count = pred.numel() / 4;
  const Reduction r(weight, avg_factor, divisor, reduction, count, count);
  std::tuple<Tensor, Tensor, Tensor> result{gradient_like(pred, pred, needs, 0),
                                            gradient_like(pred, target, needs, 1),
                                            gradient_like(pred, weight.value_or(pred), needs, 2)};
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    BoxKernel<T> kernel(pred, target, kind, mode, eps, union_eps, smooth_point, neg_gamma);
    kernel.pred_gradient = sink_for(std::get<0>(result), needs, 0);
    kernel.target_gradient = sink_for(std::get<1>(result), needs, 1);
    propagate<T>(kernel, r, grad, sink_for(std::get<2>(result), needs, 2));
  };
  pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

std::tuple<Tensor, Tensor> box_loss_with_gradient(
    Tensor pred, Tensor target, std::optional<Tensor> weight, std::optional<Tensor> avg_factor,
    std::string kind, std::string mode, double eps, double union_eps, double smooth_point,
    bool neg_gamma, std::optional<double> divisor, std::string reduction, bool widen) {
  const int64_t count = pred.numel() / 4;
  const Reduction r(weight, avg_factor, divisor, reduction, count, count);
  Tensor gradient = gradient_like(pred, pred, 1, 0);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    BoxKernel<T> kernel(pred, target, kind, mode, eps, union_eps, smooth_point, neg_gamma);
    kernel.pred_gradient = Sink(gradient);
    return reduce_with_gradient<T>(kernel, r, pred, result_type(pred, widen));
  };
  return {pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{}), gradient};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("box_loss", TORCH_BOX(&box_loss));
  m.impl("box_loss_backward", TORCH_BOX(&box_loss_backward));
  m.impl("box_loss_with_gradient", TORCH_BOX(&box_loss_with_gradient));
}

}  // namespace
}  // namespace fastloss::cpu
