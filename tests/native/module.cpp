// Test-only Python module over the inline mathematics of csrc/common; never part of the package.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "common/bounded_iou.h"
#include "common/box_geometry.h"
#include "common/box_shape.h"
#include "common/focal.h"
#include "common/regression.h"

namespace py = pybind11;
using namespace fastloss;

namespace {

// The elementary functions under their C++ names, as NumPy ufuncs of one precision.
template <typename T>
void bind_math(py::module_ m) {
  m.def("exp", py::vectorize([](T x) { return exp_(x); }));
  m.def("log", py::vectorize([](T x) { return log_(x); }));
  m.def("log1p", py::vectorize([](T x) { return log1p_(x); }));
  m.def("log1p_unit", py::vectorize([](T e) { return log1p_unit(e); }));
  m.def("inverse_1p", py::vectorize([](T e) { return inverse_1p(e); }));
  m.def("one_minus_exp", py::vectorize([](T b) { return one_minus_exp(b); }));
  m.def("pow", py::vectorize([](T x, T y) { return pow_(x, y); }));
  m.def("atan_ratio", py::vectorize([](T y, T x) { return atan_ratio(y, x); }));
}

// name(x, t, weight, alpha, gamma, pos_weight, neg_weight) -> (value, df/dx, df/dt)
template <typename Loss, typename T>
void bind_focal(py::module_& m, const char* name) {
  m.def(name, [](T x, T t, T weight, T alpha, T gamma, T pos_weight, T neg_weight) {
    const FocalParams<T> options{alpha, gamma, pos_weight, neg_weight};
    const Derivatives<T> slope = Loss::derivatives(x, t, weight, options);
    return std::array<T, 3>{Loss::value(x, t, weight, options), slope.x, slope.t};
  });
}

// name(pred, target, eps, union_eps) -> (value, the gradient to pred x1 y1 x2 y2 then target), with
// a smooth point of 0.1
template <typename Loss, typename T>
void bind_box(py::module_& m, const char* name) {
  m.def(name, [](std::array<T, 4> pred, std::array<T, 4> target, T eps, T union_eps) {
    const BoxPair<T> pair(pred.data(), target.data());
    const BoxParams<T> options{eps, union_eps, T(0.1)};
    const PairGradient<T> g = Loss::gradient(pair, options);
    const Axis<T> x = coordinates(pair.x, g.x), y = coordinates(pair.y, g.y);
    // The gradient is with respect to the scaled coordinates.
    std::array<T, 9> all{
        Loss::value(pair, options), x.p1, y.p1, x.p2, y.p2, x.t1, y.t1, x.t2, y.t2};
    for (int i = 1; i < 9; ++i) all[i] *= pair.scale;
    for (T& value : all) value += pair.poison;
    return all;
  });
}

// bounded_iou(pred, target, eps, beta) -> (losses of x y w h, the gradient of each to pred)
template <typename T>
void bind_bounded(py::module_& m) {
  m.def("bounded_iou", [](std::array<T, 4> pred, std::array<T, 4> target, T eps, T beta) {
    const BoxPair<T> pair(pred.data(), target.data());
    std::array<T, 20> all{};
    bounded_iou(pair, BoundedParams<T>{beta, eps}, all.data());
    for (int i = 0; i < 4; ++i) {
      T one[4] = {};
      one[i] = 1;
      bounded_iou_gradient(pair, BoundedParams<T>{beta, eps}, one, all.data() + 4 + 4 * i);
    }
    return all;
  });
}

// name(d, beta) -> (value, derivative), with alpha 0.5 and gamma 1.5
template <typename Loss, typename T>
void bind_regression(py::module_& m, const char* name) {
  m.def(name, [](T d, T beta) {
    const RegressionParams<T> options(beta, 0.5, 1.5);
    return std::array<T, 2>{Loss::value(d, options), Loss::derivative(d, options)};
  });
}

template <typename T>
void bind(py::module_ m) {
  bind_math<T>(m);
  bind_focal<Focal<Logit, Square>, T>(m, "focal_square");
  bind_focal<Focal<Logit, General>, T>(m, "focal");
  bind_focal<Focal<Probability, General>, T>(m, "focal_activated");
  bind_focal<QualityFocal<Logit, General>, T>(m, "quality_focal");
  bind_focal<QualityFocal<Probability, General>, T>(m, "quality_focal_activated");
  bind_focal<Varifocal<General>, T>(m, "varifocal");
  bind_focal<GaussianFocal<Square>, T>(m, "gaussian_focal_square");
  bind_focal<GaussianFocal<General>, T>(m, "gaussian_focal");
  bind_focal<BinaryCrossEntropy, T>(m, "binary_cross_entropy");
  bind_box<IoU<Linear>, T>(m, "iou");
  bind_box<IoU<Squared>, T>(m, "iou_square");
  bind_box<IoU<Log>, T>(m, "iou_log");
  bind_box<GIoU, T>(m, "giou");
  bind_box<DIoU, T>(m, "diou");
  bind_box<CIoU, T>(m, "ciou");
  bind_box<EIoU, T>(m, "eiou");
  bind_box<SIoU<1>, T>(m, "siou");
  bind_box<SIoU<-1>, T>(m, "siou_neg_gamma");
  bind_bounded<T>(m);
  bind_regression<L1, T>(m, "l1");
  bind_regression<SmoothL1, T>(m, "smooth_l1");
  bind_regression<MSE, T>(m, "mse");
  bind_regression<BalancedL1, T>(m, "balanced_l1");
}

}  // namespace

PYBIND11_MODULE(fastloss_native, m) {
  bind<float>(m.def_submodule("float32"));
  bind<double>(m.def_submodule("float64"));
}
