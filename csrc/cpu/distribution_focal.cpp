// CPU kernels of the stem `distribution_focal`; definition:
// fastloss/reference/distribution_focal.py.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/pixel_tiles.h"
#include "cpu/row_tiles.h"

namespace fastloss::cpu {
namespace {

constexpr int64_t kLanes = kTileRows;

// What the targets of a tile say of the integers k and k + 1 beside them.
template <typename T>
struct Sides {
  alignas(64) int32_t k[kLanes];
  alignas(64) T left[kLanes], right[kLanes];  // their shares of the loss
  alignas(64) T poison[kLanes];               // 0, or NaN where the target is outside [0, n)
  alignas(64) T x_left[kLanes], x_right[kLanes];
};

// Returns 0, or NaN if a target is outside. `last` is the largest number below n.
template <typename T>
FASTLOSS_SIMD T sides_of(const T* __restrict target, T last, Sides<T>* __restrict sides) {
  int32_t* __restrict k = sides->k;
  T* __restrict left = sides->left, * __restrict right = sides->right;
  T* __restrict poison = sides->poison;
  T outside = 0;
#pragma omp simd reduction(+ : outside)
  for (int64_t j = 0; j < kLanes; ++j) {
    const T t = min_(max_(target[j], T(0)), last);
    const int32_t whole = static_cast<int32_t>(t);
    const T bad = target[j] == t ? T(0) : std::numeric_limits<T>::quiet_NaN();
    k[j] = whole;
    left[j] = (static_cast<T>(whole) + T(1)) - t;
    right[j] = t - static_cast<T>(whole);
    poison[j] = bad;
    outside += bad;
  }
  return outside;
}

// The logits of k and k + 1 from a tile.
template <typename T>
FASTLOSS_SIMD void pick_sides(const T* __restrict x, Sides<T>* __restrict sides) {
  const int32_t* __restrict k = sides->k;
  T* __restrict x_left = sides->x_left, * __restrict x_right = sides->x_right;
#pragma GCC ivdep
  for (int32_t j = 0; j < static_cast<int32_t>(kLanes); ++j) {
    const int32_t at = k[j] * static_cast<int32_t>(kLanes) + j;
    x_left[j] = x[at], x_right[j] = x[at + static_cast<int32_t>(kLanes)];
  }
}

// -ln p = (peak - x) + ln sum keeps the logarithm where logits are large.
template <typename T>
FASTLOSS_SIMD void losses_of(const Sides<T>& sides, const Softmax<kLanes, T>& softmax,
                             T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kLanes; ++j) {
    const T log_sum = log_(softmax.sum[j]), peak = softmax.peak[j];
    const T loss = sides.left[j] * ((peak - sides.x_left[j]) + log_sum) +
                   sides.right[j] * ((peak - sides.x_right[j]) + log_sum);
    out[j] = loss + sides.poison[j];
  }
}

// Makes of the exponentials e of a tile m times the derivatives of the losses.
template <typename T>
FASTLOSS_SIMD void spread_to_logits(const Sides<T>& sides, const T* __restrict inverse,
                                    const T* __restrict m, int64_t columns, T* __restrict e) {
  for (int32_t c = 0; c < static_cast<int32_t>(columns); ++c)
#pragma GCC ivdep
    for (int64_t j = 0; j < kLanes; ++j) {
      const int32_t distance = c - sides.k[j];
      const T share = distance == 0 ? sides.left[j] : distance == 1 ? sides.right[j] : T(0);
      e[c * kLanes + j] = m[j] * (e[c * kLanes + j] * inverse[j] - share) + sides.poison[j];
    }
}

template <typename T>
FASTLOSS_SIMD void spread_to_targets(const Sides<T>& sides, const T* __restrict m,
                                     T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kLanes; ++j)
    out[j] = m[j] * (sides.x_left[j] - sides.x_right[j]) + sides.poison[j];
}

template <typename T>
class DistributionKernel {
 public:
  DistributionKernel(const Tensor& logits, const Tensor& target)
      : logits_(logits), target_(target), n_(static_cast<T>(logits.size(1) - 1)) {}

  std::optional<RowTiles<T>> logit_gradient;
  Sink target_gradient;

  void values(int64_t start, int64_t count, T* out) const { run(start, count, nullptr, out); }
  void gradients(int64_t start, int64_t count, const T* m) const { run(start, count, m, nullptr); }
  void both(int64_t start, int64_t count, const T* m, T* out) const { run(start, count, m, out); }

  // Raises for the first target outside [0, n); reaches Python as IndexError.
  void check() const {
    const int64_t i = first_outside_;
    if (i == kNone) return;
    T value;
    std::ostringstream text;
    text << "target must be in [0, " << n_ << "); got " << *target_.load(i, 1, &value)
         << " at index " << i;
    throw std::out_of_range(text.str());
  }

 private:
  // The losses, if `out` is given; m times their derivatives, if m is.
  void run(int64_t start, int64_t count, const T* m, T* out) const {
    const int64_t columns = logits_.columns;
    const Workspace<T> x(2 * columns * kLanes);
    T* e = x.get() + columns * kLanes;
    for_each_row_tile(start, count, [&](int64_t first, int64_t rows, int64_t i) {
      Sides<T> sides;
      Softmax<kLanes, T> softmax;
      alignas(64) T lanes[kLanes], slopes[kLanes] = {};
      load_sides(first, rows, &sides);
      logits_.load(first, rows, x.get());
      pick_sides(x.get(), &sides);
      if (out || logit_gradient) softmax_of<kLanes>(x.get(), kLanes, columns, e, &softmax);
      if (out) {
        losses_of(sides, softmax, lanes);
        std::copy_n(lanes, rows, out + i);
      }
      if (!m) return;
      std::copy_n(m + i, rows, slopes);
      if (logit_gradient) {
        spread_to_logits(sides, softmax.inverse, slopes, columns, e);
        logit_gradient->store(first, rows, e);
      }
      if (target_gradient) {
        spread_to_targets(sides, slopes, lanes);
        target_gradient.store<T>(first, rows, lanes);
      }
    });
  }

  void load_sides(int64_t first, int64_t rows, Sides<T>* sides) const {
    alignas(64) T target[kLanes] = {}, buffer[kLanes];
    std::copy_n(target_.load(first, rows, buffer), rows, target);
    if (sides_of(target, std::nextafter(n_, T(0)), sides) == T(0)) return;
    int64_t j = 0;
    while (target[j] >= 0 && target[j] < n_) ++j;
    int64_t seen = first_outside_;
    while (first + j < seen && !first_outside_.compare_exchange_weak(seen, first + j)) {
    }
  }

  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  const RowTiles<T> logits_;
  const Broadcast<T> target_;
  const T n_;
  mutable std::atomic<int64_t> first_outside_{kNone};
};

Tensor distribution_focal(Tensor logits, Tensor target, std::optional<Tensor> weight,
                          std::optional<Tensor> avg_factor, std::optional<double> divisor,
                          std::string reduction, bool widen) {
  const Reduction r = rows_reduction(logits, weight, avg_factor, divisor, reduction);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    const DistributionKernel<T> kernel(logits, target);
    Tensor result = reduce<T>(kernel, r, logits, result_type(logits, widen), target.sizes());
    kernel.check();
    return result;
  };
  return logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

std::tuple<Tensor, Tensor, Tensor> distribution_focal_backward(
    Tensor grad, Tensor logits, Tensor target, std::optional<Tensor> weight,
    std::optional<Tensor> avg_factor, std::optional<double> divisor, std::string reduction, bool,
    int64_t needs) {
  const Reduction r = rows_reduction(logits, weight, avg_factor, divisor, reduction);
  std::tuple<Tensor, Tensor, Tensor> result{
      gradient_like(logits, logits, needs, 0), gradient_like(logits, target, needs, 1),
      gradient_like(logits, weight.value_or(logits), needs, 2)};
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    DistributionKernel<T> kernel(logits, target);
    if (needs & 1) kernel.logit_gradient.emplace(std::get<0>(result));
    kernel.target_gradient = sink_for(std::get<1>(result), needs, 1);
    propagate<T>(kernel, r, grad, sink_for(std::get<2>(result), needs, 2));
  };
  logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

std::tuple<Tensor, Tensor> distribution_focal_with_gradient(Tensor logits, Tensor target,
                                                            std::optional<Tensor> weight,
                                                            std::optional<Tensor> avg_factor,
                                                            std::optional<double> divisor,
                                                            std::string reduction, bool widen) {
  const Reduction r = rows_reduction(logits, weight, avg_factor, divisor, reduction);
  Tensor gradient = gradient_like(logits, logits, 1, 0);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    DistributionKernel<T> kernel(logits, target);
    kernel.logit_gradient.emplace(gradient);
    Tensor result = reduce_with_gradient<T>(kernel, r, logits, result_type(logits, widen));
    kernel.check();
    return result;
  };
  return {logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{}), gradient};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("distribution_focal", TORCH_BOX(&distribution_focal));
  m.impl("distribution_focal_backward", TORCH_BOX(&distribution_focal_backward));
  m.impl("distribution_focal_with_gradient", TORCH_BOX(&distribution_focal_with_gradient));
}

}  // namespace
}  // namespace fastloss::cpu
