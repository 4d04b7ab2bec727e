// CPU kernels of the stem `distillation`; definition: fastloss/reference/distillation.py.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "cpu/elementwise.h"
#include "cpu/row_tiles.h"

namespace fastloss::cpu {
namespace {

constexpr int64_t kLanes = kTileRows;
// Sums over so many columns are taken in T, and added up in double.
constexpr int64_t kColumns = 256;

// Of the rows of a tile.
template <typename T>
struct Softmaxes {
  alignas(64) T peak_x[kLanes], peak_y[kLanes];                     // the largest logits
  alignas(64) double sum_x[kLanes], sum_y[kLanes];                  // of e^((x - peak) / T)
  alignas(64) T inverse_x[kLanes], inverse_y[kLanes], gap[kLanes];  // ln sum_x - ln sum_y
};

template <typename T>
FASTLOSS_SIMD void peaks_of(const T* __restrict x, int64_t columns, T* __restrict peak) {
  for (int64_t j = 0; j < kLanes; ++j) peak[j] = x[j];
  for (int64_t c = 1; c < columns; ++c)
    for (int64_t j = 0; j < kLanes; ++j) peak[j] = max_(x[c * kLanes + j], peak[j]);
}

template <typename T>
FASTLOSS_SIMD void add_lanes(const T* __restrict sum, double* __restrict total) {
  for (int64_t j = 0; j < kLanes; ++j) total[j] += static_cast<double>(sum[j]);
}

// e^d, exactly 0 for an excluded class.
template <typename T>
FASTLOSS_FN T share_of(T d) {
  const T e = exp_nonpositive(d);
  return d == -std::numeric_limits<T>::infinity() ? T(0) : e;
}

// With u = (x - peak_x) / T and v likewise: x becomes u - v, y e^v, and e is e^u.
template <typename T>
FASTLOSS_SIMD void exponentials_of(T* __restrict x, T* __restrict y, T* __restrict e,
                                   int64_t columns, T inverse_temperature,
                                   Softmaxes<T>* __restrict s) {
  alignas(64) T sum_x[kLanes] = {}, sum_y[kLanes] = {};
  const T* __restrict peak_x = s->peak_x, * __restrict peak_y = s->peak_y;
  for (int64_t c = 0; c < columns; ++c)
#pragma GCC ivdep
    for (int64_t j = 0; j < kLanes; ++j) {
      const int64_t i = c * kLanes + j;
      const T u = (x[i] - peak_x[j]) * inverse_temperature;
      const T v = (y[i] - peak_y[j]) * inverse_temperature;
      const T e_u = share_of(u), e_v = share_of(v);
      x[i] = u - v, y[i] = e_v, e[i] = e_u;
      sum_x[j] += e_u, sum_y[j] += e_v;
    }
  add_lanes(sum_x, s->sum_x);
  add_lanes(sum_y, s->sum_y);
}

template <typename T>
FASTLOSS_SIMD void finish_softmaxes(Softmaxes<T>* __restrict s) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kLanes; ++j) {
    const T sum_x = static_cast<T>(s->sum_x[j]), sum_y = static_cast<T>(s->sum_y[j]);
    s->inverse_x[j] = T(1) / sum_x, s->inverse_y[j] = T(1) / sum_y;
    s->gap[j] = log_(sum_x) - log_(sum_y);
  }
}

// Adds the terms q (e^d - 1 - d) of the loss, and makes of e m (p - q), with x, y and e as
// `exponentials_of` left them. Near 0 the terms come from their series.
template <typename T>
FASTLOSS_SIMD void terms_of(const T* __restrict x, const T* __restrict y, const T* __restrict m,
                            int64_t columns, const Softmaxes<T>& s, T* __restrict e,
                            double* __restrict total) {
  alignas(64) T sum[kLanes] = {};
  for (int64_t c = 0; c < columns; ++c)
#pragma GCC ivdep
    for (int64_t j = 0; j < kLanes; ++j) {
      const int64_t i = c * kLanes + j;
      const T p = e[i] * s.inverse_x[j], q = y[i] * s.inverse_y[j], d = x[i] - s.gap[j];
      const T near = exp_remainder(max_(min_(d, T(0.5)), T(-0.5))), difference = p - q;
      const T near_term = q * near, far_term = difference - q * d;
      const T term = abs_(d) < T(0.5) ? near_term : far_term;
      sum[j] += q == T(0) ? p : term;
      e[i] = m[j] * difference;
    }
  add_lanes(sum, total);
}

template <typename T>
class DistillationKernel {
 public:
  DistillationKernel(const Tensor& logits, const Tensor& teacher, double temperature)
      : logits_(logits),
        teacher_(teacher),
        inverse_temperature_(static_cast<T>(1 / temperature)),
        slope_(temperature / static_cast<double>(logits.size(1))),
        scale_(slope_ * temperature) {}

  std::optional<RowTiles<T>> logit_gradient;

  void values(int64_t start, int64_t count, T* out) const { run(start, count, nullptr, out); }
  void gradients(int64_t start, int64_t count, const T* m) const {
    if (logit_gradient) run(start, count, m, nullptr);
  }
  void both(int64_t start, int64_t count, const T* m, T* out) const { run(start, count, m, out); }

 private:
  // The losses, if `out` is given; m times their derivatives, if m is.
  void run(int64_t start, int64_t count, const T* m, T* out) const {
    const int64_t columns = logits_.columns, size = columns * kLanes;
    const Workspace<T> room(3 * size);
    T *x = room.get(), *y = x + size, *e = y + size;
    for_each_row_tile(start, count, [&](int64_t first, int64_t rows, int64_t i) {
      logits_.load(first, rows, x);
      teacher_.load(first, rows, y);
      Softmaxes<T> s = {};
      peaks_of(x, columns, s.peak_x);
      peaks_of(y, columns, s.peak_y);
      const auto each = [&](const auto& body) {
        for (int64_t c = 0; c < columns; c += kColumns)
          body(c * kLanes, std::min(kColumns, columns - c));
      };
      each([&](int64_t at, int64_t width) {
        exponentials_of(x + at, y + at, e + at, width, inverse_temperature_, &s);
      });
      finish_softmaxes(&s);
      alignas(64) T slopes[kLanes] = {};
      alignas(64) double losses[kLanes] = {};
      for (int64_t j = 0; m && j < rows; ++j) slopes[j] = m[i + j] * static_cast<T>(slope_);
      each([&](int64_t at, int64_t width) {
        terms_of(x + at, y + at, slopes, width, s, e + at, losses);
      });
      for (int64_t j = 0; out && j < rows; ++j) out[i + j] = static_cast<T>(losses[j] * scale_);
      if (m) logit_gradient->store(first, rows, e);
    });
  }

  const RowTiles<T> logits_, teacher_;
  const T inverse_temperature_;
  const double slope_, scale_;  // T / C, T^2 / C
};

Tensor distillation(Tensor logits, Tensor teacher, std::optional<Tensor> weight,
                    std::optional<Tensor> avg_factor, double temperature,
                    std::optional<double> divisor, std::string reduction, bool widen) {
  const Reduction r = rows_reduction(logits, weight, avg_factor, divisor, reduction);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    const DistillationKernel<T> kernel(logits, teacher, temperature);
    const std::vector<int64_t> sizes{r.count};
    return reduce<T>(kernel, r, logits, result_type(logits, widen), sizes);
  };
  return logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

std::tuple<Tensor, Tensor> distillation_backward(Tensor grad, Tensor logits, Tensor teacher,
                                                 std::optional<Tensor> weight,
                                                 std::optional<Tensor> avg_factor,
                                                 double temperature, std::optional<double> divisor,
                                                 std::string reduction, bool, int64_t needs) {
  const Reduction r = rows_reduction(logits, weight, avg_factor, divisor, reduction);
  std::tuple<Tensor, Tensor> result{gradient_like(logits, logits, needs, 0),
                                    gradient_like(logits, weight.value_or(logits), needs, 1)};
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    DistillationKernel<T> kernel(logits, teacher, temperature);
    if (needs & 1) kernel.logit_gradient.emplace(std::get<0>(result));
    propagate<T>(kernel, r, grad, sink_for(std::get<1>(result), needs, 1));
  };
  logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

std::tuple<Tensor, Tensor> distillation_with_gradient(
    Tensor logits, Tensor teacher, std::optional<Tensor> weight, std::optional<Tensor> avg_factor,
    double temperature, std::optional<double> divisor, std::string reduction, bool widen) {
  const Reduction r = rows_reduction(logits, weight, avg_factor, divisor, reduction);
  Tensor gradient = gradient_like(logits, logits, 1, 0);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    DistillationKernel<T> kernel(logits, teacher, temperature);
    kernel.logit_gradient.emplace(gradient);
    return reduce_with_gradient<T>(kernel, r, logits, result_type(logits, widen));
  };
  return {logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{}), gradient};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("distillation", TORCH_BOX(&distillation));
  m.impl("distillation_backward", TORCH_BOX(&distillation_backward));
  m.impl("distillation_with_gradient", TORCH_BOX(&distillation_with_gradient));
}

}  // namespace
}  // namespace fastloss::cpu
