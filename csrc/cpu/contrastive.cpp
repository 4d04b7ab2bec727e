// CPU kernels of the stem `contrastive`: a row at a time, which the first-level caches hold between
// the passes over it. Definition and edge rules: fastloss/reference/contrastive.py.
#include <limits>
#include <vector>

#include "cpu/pixel_tiles.h"
#include "cpu/row_losses.h"
#include "cpu/workspace.h"

namespace fastloss::cpu {
namespace {

template <typename T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

// What a pair is, by its target: positive, negative, or neither.
constexpr int kNegative = 0, kPositive = 1, kOther = 2;

template <typename V, typename T>
FASTLOSS_SIMD void roles_of(const V* __restrict target, int64_t count, T* __restrict role) {
  for (int64_t i = 0; i < count; ++i) {
    role[i] = T(target[i] == V(1) ? kPositive : target[i] == V(0) ? kNegative : kOther);
  }
}

// The largest negative a, the smallest positive b; how many are neither.
template <typename T>
struct Peaks {
  T a = -kInfinity<T>, b = kInfinity<T>, others = 0;
};

template <typename T>
FASTLOSS_SIMD void find_peaks(const T* __restrict x, const T* __restrict role, int64_t count,
                              Peaks<T>* peaks) {
  T a = peaks->a, b = peaks->b, others = 0;
#pragma omp simd reduction(max : a) reduction(min : b) reduction(+ : others)
  for (int64_t i = 0; i < count; ++i) {
    a = max_(role[i] == T(kNegative) ? x[i] : -kInfinity<T>, a);
    b = min_(role[i] == T(kPositive) ? x[i] : kInfinity<T>, b);
    others += role[i] == T(kOther) ? T(1) : T(0);
  }
  peaks->a = a, peaks->b = b, peaks->others += others;
}

// S_Q and S_P, the sums of e^(x - a) and of e^(b - x).
struct Sums {
  double q = 0, p = 0;
};

// e_i = e^(x - a) of negatives and e^(b - x) of positives; adds them to the sums.
template <typename T>
FASTLOSS_SIMD void exponentials_of(const T* __restrict x, const T* __restrict role, int64_t count,
                                   const Peaks<T>& peaks, T* __restrict e, Sums* sums) {
  const T a = peaks.a, b = peaks.b;
  T q = 0, p = 0;
#pragma omp simd reduction(+ : q, p)
  for (int64_t i = 0; i < count; ++i) {
    const T peak = role[i] == T(kPositive) ? b : a;
    const T distance = role[i] == T(kPositive) ? peak - x[i] : x[i] - peak;
    const T gap = x[i] == peak ? T(0) : distance;  // also where both are infinite
    const T value = exp_nonpositive(role[i] == T(kOther) ? T(0) : gap);
    q += role[i] == T(kNegative) ? value : T(0);
    p += role[i] == T(kPositive) ? value : T(0);
    e[i] = value;
  }
  sums->q += q, sums->p += p;
}

// e_i times the factor of negatives or of positives; 0 of others, whatever the factors.
template <typename T>
FASTLOSS_SIMD void scale_exponentials(const T* __restrict role, int64_t count, T of_negatives,
                                      T of_positives, T* __restrict e) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T factor = role[i] == T(kPositive) ? of_positives : of_negatives;
    e[i] = role[i] == T(kOther) ? T(0) : factor * e[i];
  }
}

template <typename T>
struct RowLoss {
  Sums sums;
  T z;
  bool is_dead;  // without negatives or without positives, whose similarities weigh anything

  RowLoss(const Peaks<T>& peaks, const Sums& sums)
      : sums(sums),
        z((peaks.a - peaks.b) + (log_(static_cast<T>(sums.q)) + log_(static_cast<T>(sums.p)))),
        is_dead(sums.q == 0 || sums.p == 0 || z == -kInfinity<T>) {}
  T value() const { return is_dead ? T(0) : max_(z, T(0)) + log1p_unit(exp_nonpositive(-abs_(z))); }
  T sigmoid() const {
    const T e = exp_nonpositive(-abs_(z));
    return (z < T(0) ? e : T(1)) / (T(1) + e);
  }
};

template <typename T>
class Rows {
 public:
  Rows(const Tensor& logits, const Tensor& target, bool others)
      : rows_(logits.size(0)),
        columns_(logits.size(1)),
        logits_(logits),
        target_(torch::stable::contiguous(target)),
        others_(others) {}

  // The losses of all rows; from their gradients, if given, that of the logits.
  std::vector<T> run(const T* grads, const Sink& gradient) const {
    std::vector<T> losses(rows_);
    const int64_t grain = std::max<int64_t>(kBlock * kGrain / std::max<int64_t>(columns_, 1), 1);
    torch::stable::parallel_for(0, rows_, grain, [&](int64_t first, int64_t last) {
      const Workspace<T> buffer(3 * columns_);
      T *x = buffer.get(), *role = x + columns_, *e = role + columns_;
      for (int64_t row = first; row < last; ++row) {
        const T* from = logits_.load(row * columns_, columns_, x);
        load_roles(row, role);
        T* to = gradient ? gradient.target<T>(row * columns_, e) : e;
        const RowLoss<T> loss = exponentials(from, role, to);
        losses[row] = loss.value();
        if (!gradient) continue;
        spread(loss, grads[row], role, to);
        gradient.store<T>(row * columns_, columns_, to);
      }
    });
    return losses;
  }

 private:
  void load_roles(int64_t row, T* role) const {
    dispatch_any(target_.scalar_type(), [&](auto sample) {
      const auto* data = static_cast<const decltype(sample)*>(target_.const_data_ptr());
      roles_of(data + row * columns_, columns_, role);
    });
  }

  // Leaves e^(x - a) and e^(b - x) in e.
  RowLoss<T> exponentials(const T* x, const T* role, T* e) const {
    Peaks<T> peaks;
    find_peaks(x, role, columns_, &peaks);
    Sums sums;
    if (others_ && peaks.others > T(0)) {
      peaks.a = max_(peaks.a, T(0)), peaks.b = min_(peaks.b, T(0));
      sums.q = static_cast<double>(peaks.others * exp_nonpositive(-peaks.a));
      sums.p = static_cast<double>(peaks.others * exp_nonpositive(peaks.b));
    }
    for (int64_t i = 0; i < columns_; i += kBlock)
      exponentials_of(x + i, role + i, std::min(kBlock, columns_ - i), peaks, e + i, &sums);
    return {peaks, sums};
  }

  // Makes of e the gradient of the logits from that of the loss.
  void spread(const RowLoss<T>& loss, T grad, const T* role, T* e) const {
    if (loss.is_dead) {
      std::fill_n(e, columns_, T(0));
      return;
    }
    const T slope = grad * loss.sigmoid();
    scale_exponentials(role, columns_, slope / static_cast<T>(loss.sums.q),
                       -slope / static_cast<T>(loss.sums.p), e);
  }

  const int64_t rows_, columns_;
  const Source<T> logits_;
  const Tensor target_;
  const bool others_;
};

// The losses of all rows, as the functions of `row_losses.h` ask for them.
auto rows_of(const Tensor& logits, const Tensor& target, bool others) {
  return [=]<typename T>(const T* grads, const Sink& gradient) {
    return Rows<T>(logits, target, others).run(grads, gradient);
  };
}

Tensor contrastive(Tensor logits, Tensor target, std::optional<Tensor> weight,
                   std::optional<Tensor> avg_factor, bool others, std::optional<double> divisor,
                   std::string reduction, bool widen) {
  const int64_t n = logits.size(0);
  const Reduction r(weight, avg_factor, divisor, reduction, n, n);
  return row_losses(logits, r, widen, rows_of(logits, target, others));
}

std::tuple<Tensor, Tensor> contrastive_backward(Tensor grad, Tensor logits, Tensor target,
                                                std::optional<Tensor> weight,
                                                std::optional<Tensor> avg_factor, bool others,
                                                std::optional<double> divisor,
                                                std::string reduction, bool, int64_t needs) {
  const int64_t n = logits.size(0);
  const Reduction r(weight, avg_factor, divisor, reduction, n, n);
  return row_losses_backward(grad, logits, r, needs, rows_of(logits, target, others));
}

std::tuple<Tensor, Tensor> contrastive_with_gradient(Tensor logits, Tensor target,
                                                     std::optional<Tensor> weight,
                                                     std::optional<Tensor> avg_factor, bool others,
                                                     std::optional<double> divisor,
                                                     std::string reduction, bool widen) {
  const int64_t n = logits.size(0);
  const Reduction r(weight, avg_factor, divisor, reduction, n, n);
  return row_losses_with_gradient(logits, r, widen, rows_of(logits, target, others));
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("contrastive", TORCH_BOX(&contrastive));
  m.impl("contrastive_backward", TORCH_BOX(&contrastive_backward));
  m.impl("contrastive_with_gradient", TORCH_BOX(&contrastive_with_gradient));
}

}  // namespace
}  // namespace fastloss::cpu
