// CPU kernels of the stem `seesaw`: a row at a time, which the first-level caches hold between the
// passes over it. Definition and edge rules: fastloss/reference/seesaw.py.
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/pixel_tiles.h"
#include "cpu/row_losses.h"
#include "cpu/workspace.h"

namespace fastloss::cpu {
namespace {

template <typename T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

template <typename T>
FASTLOSS_SIMD T largest(const T* __restrict x, int64_t count) {
  T peak = -kInfinity<T>;
#pragma omp simd reduction(max : peak)
  for (int64_t j = 0; j < count; ++j) peak = max_(x[j], peak);
  return peak;
}

template <typename T>
FASTLOSS_SIMD void exponentials(const T* __restrict x, T peak, int64_t count, T* __restrict e) {
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) e[j] = exp_nonpositive(x[j] - peak);
}

// z of classes that are seen as often as e^log_count, for a row of class e^own_count; classes whose
// logit is above the pivot score too high.
template <typename T>
FASTLOSS_SIMD void adjust(const T* __restrict x, const T* __restrict log_count, int64_t count, T p,
                          T own_count, T q, T pivot, T* __restrict z) {
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) {
    const T rarer = log_count[j] - own_count;
    z[j] = x[j] + p * (rarer > T(0) ? T(0) : rarer) + q * max_(x[j] - pivot, T(0));
  }
}

// The sum of a row, in double between blocks.
template <typename T>
double sum_of(const T* x, int64_t count) {
  double total = 0;
  for (int64_t j = 0; j < count; j += kBlock) total += sum(x + j, std::min(kBlock, count - j));
  return total;
}

// p, q and ln max(1, n) of every class; a factor that is switched off is 0, and finds no rarer
// class or none above its pivot.
template <typename T>
struct Factors {
  std::vector<T> log_count;
  T p, q, log_eps;

  Factors(const Tensor& class_count, int64_t classes, double p, double q, double eps)
      : log_count(classes),
        p(static_cast<T>(std::max(p, 0.0))),
        q(static_cast<T>(std::max(q, 0.0))),
        log_eps(static_cast<T>(std::log(eps))) {
    if (!(p > 0)) return;
    const Source<double> source(class_count);  // keeps the copy of a strided tensor
    std::vector<double> buffer(classes);
    const double* n = source.load(0, classes, buffer.data());
    for (int64_t j = 0; j < classes; ++j)
      log_count[j] = static_cast<T>(std::log(n[j] < 1 ? 1 : n[j]));
  }
};

template <typename T>
class SeesawRows {
 public:
  SeesawRows(const Tensor& logits, const PixelTarget& target, const Factors<T>& factors)
      : logits_(logits), target_(target), factors_(factors) {}

  std::vector<T> run(const T* grads, const Sink& gradient) const {
    const int64_t rows = logits_.images, classes = logits_.pixels;
    std::vector<T> losses(rows);
    const int64_t grain = std::max<int64_t>(kBlock * kGrain / classes, 1);
    torch::stable::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
      const Workspace<T> buffer(3 * classes);
      T *x = buffer.get(), *z = x + classes, *e = z + classes;
      for (int64_t row = first; row < last; ++row) {
        Label<T> label;
        target_.labels(0, row, 1, 1, &label);
        T* to = gradient ? gradient.target<T>(row * classes, z) : nullptr;
        if (label < 0 || label == classes) {  // background, or a class out of range, which throws
          losses[row] = T(0);
          if (to) std::fill_n(to, classes, T(0));
        } else {
          const T* from = logits_.row(row, 0, 0, classes, x);
          losses[row] = loss(from, label, z, e, to, to ? grads[row] : T(0));
        }
        if (to) gradient.store<T>(row * classes, classes, to);
      }
    });
    return losses;
  }

 private:
  // The loss of class i; where to write it is given, the gradient of the logits from that of the
  // loss. z and e are room for a row each; the gradient may take the place of z.
  T loss(const T* x, int64_t i, T* z, T* e, T* to, T grad) const {
    const int64_t classes = logits_.pixels;
    const T* log_count = factors_.log_count.data();
    adjust(x, log_count, classes, factors_.p, log_count[i], factors_.q, pivot(x, i, e), z);
    z[i] = x[i];
    const T peak = largest(z, classes);
    exponentials(z, peak, classes, e);
    // Without its own term the sum keeps what is small beside it.
    const T own = e[i];
    e[i] = T(0);
    const T rest = static_cast<T>(sum_of(e, classes));
    if (to) {
      const T scale = grad / (own + rest);
      scaled(e, scale, to, classes);
      to[i] = -scale * rest;
    }
    return (peak - x[i]) + (own == T(1) ? log1p_(rest) : log_(own + rest));
  }

  // The logit of the score that others are compared with.
  T pivot(const T* x, int64_t i, T* e) const {
    if (factors_.q == T(0)) return kInfinity<T>;
    const T peak = largest(x, logits_.pixels);
    exponentials(x, peak, logits_.pixels, e);
    return max_(x[i], peak + (log_(static_cast<T>(sum_of(e, logits_.pixels))) + factors_.log_eps));
  }

  const Planes logits_;
  const PixelTarget& target_;
  const Factors<T>& factors_;
};

// The losses of all rows, as the functions of `row_losses.h` ask for them.
auto rows_of(const Tensor& logits, const Tensor& target, const Tensor& class_count, double p,
             double q, double eps) {
  return [=]<typename T>(const T* grads, const Sink& gradient) {
    const int64_t classes = logits.size(1);
    const PixelTarget labels(classes, torch::stable::unsqueeze(target, 0), classes, true);
    const Factors<T> factors(class_count, classes, p, q, eps);
    std::vector<T> losses = SeesawRows<T>(logits, labels, factors).run(grads, gradient);
    labels.check();
    return losses;
  };
}

Tensor seesaw(Tensor logits, Tensor target, Tensor class_count, std::optional<Tensor> weight,
              std::optional<Tensor> avg_factor, double p, double q, double eps,
              std::optional<double> divisor, std::string reduction, bool widen) {
  const int64_t n = logits.size(0);
  const Reduction r(weight, avg_factor, divisor, reduction, n, n);
  return row_losses(logits, r, widen, rows_of(logits, target, class_count, p, q, eps));
}

std::tuple<Tensor, Tensor> seesaw_backward(Tensor grad, Tensor logits, Tensor target,
                                           Tensor class_count, std::optional<Tensor> weight,
                                           std::optional<Tensor> avg_factor, double p, double q,
                                           double eps, std::optional<double> divisor,
                                           std::string reduction, bool, int64_t needs) {
  const int64_t n = logits.size(0);
  const Reduction r(weight, avg_factor, divisor, reduction, n, n);
  return row_losses_backward(grad, logits, r, needs,
                             rows_of(logits, target, class_count, p, q, eps));
}

std::tuple<Tensor, Tensor> seesaw_with_gradient(Tensor logits, Tensor target, Tensor class_count,
                                                std::optional<Tensor> weight,
                                                std::optional<Tensor> avg_factor, double p,
                                                double q, double eps, std::optional<double> divisor,
                                                std::string reduction, bool widen) {
  const int64_t n = logits.size(0);
  const Reduction r(weight, avg_factor, divisor, reduction, n, n);
  return row_losses_with_gradient(logits, r, widen,
                                  rows_of(logits, target, class_count, p, q, eps));
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("seesaw", TORCH_BOX(&seesaw));
  m.impl("seesaw_backward", TORCH_BOX(&seesaw_backward));
  m.impl("seesaw_with_gradient", TORCH_BOX(&seesaw_with_gradient));
}

}  // namespace
}  // namespace fastloss::cpu
