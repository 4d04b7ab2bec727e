// CPU kernels of the stem `sigmoid_focal`.
#include "common/focal.h"

#include <torch/csrc/stable/library.h>

#include <sstream>
#include <stdexcept>

#include "cpu/elementwise.h"

namespace fastloss::cpu {
namespace {

template <typename F, typename T>
FASTLOSS_SIMD void sigmoid_focal_fwd(const T* __restrict x, const T* __restrict t,
                                     const T* __restrict class_weight, int64_t count,
                                     FocalParams<T> params, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = F::value(x[i], t[i], class_weight[i], params);
}

// kWantTarget: the derivative with respect to t instead of x.
template <typename F, bool kWantTarget, typename T>
FASTLOSS_SIMD void sigmoid_focal_bwd(const T* __restrict x, const T* __restrict t,
                                     const T* __restrict class_weight, const T* __restrict m,
                                     int64_t count, FocalParams<T> params, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const Derivatives<T> d = F::derivatives(x[i], t[i], class_weight[i], params);
    out[i] = m[i] * (kWantTarget ? d.t : d.x);
  }
}

template <typename F, typename T>
FASTLOSS_SIMD void sigmoid_focal_both(const T* __restrict x, const T* __restrict t,
                                      const T* __restrict class_weight, const T* __restrict m,
                                      int64_t count, FocalParams<T> params, T* __restrict loss,
                                      T* __restrict gradient) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    loss[i] = F::value(x[i], t[i], class_weight[i], params);
    gradient[i] = m[i] * F::derivatives(x[i], t[i], class_weight[i], params).x;
  }
}

struct Options {
  std::string kind;
  bool activated;
  double alpha, gamma, pos_weight, neg_weight;

  template <typename T>
  FocalParams<T> params() const {
    return {static_cast<T>(alpha), static_cast<T>(gamma), static_cast<T>(pos_weight),
            static_cast<T>(neg_weight)};
  }
};

template <typename T>
struct Functions {
  decltype(&sigmoid_focal_fwd<BinaryCrossEntropy, T>) forward;
  decltype(&sigmoid_focal_bwd<BinaryCrossEntropy, false, T>) input_backward, target_backward;
  decltype(&sigmoid_focal_both<BinaryCrossEntropy, T>) both;

  explicit Functions(const Options& o) {
    if (o.gamma == 2)
      choose<Square>(o);
    else
      choose<General>(o);
    if (o.kind == "gaussian_focal") {
      if (o.alpha == 2 && o.gamma == 4)
        set<GaussianFocal<Square>>();
      else
        set<GaussianFocal<General>>();
    }
    if (o.kind == "binary_cross_entropy") set<BinaryCrossEntropy>();
  }

 private:
  template <typename Power>
  void choose(const Options& o) {
    if (o.kind == "varifocal") return set<Varifocal<Power>>();
    if (o.kind == "focal")
      o.activated ? set<Focal<Probability, Power>>() : set<Focal<Logit, Power>>();
    else
      o.activated ? set<QualityFocal<Probability, Power>>() : set<QualityFocal<Logit, Power>>();
  }
  template <typename F>
  void set() {
    forward = &sigmoid_focal_fwd<F, T>;
    input_backward = &sigmoid_focal_bwd<F, false, T>;
    target_backward = &sigmoid_focal_bwd<F, true, T>;
    both = &sigmoid_focal_both<F, T>;
  }
};

// The target as dense values, whatever its form; class indices become rows of zeros and a score.
template <typename T>
class Target {
 public:
  Target(const Tensor& logits, const Tensor& target, const std::optional<Tensor>& score,
         std::optional<int64_t> ignore_index)
      : ignore_index_(ignore_index), classes_(logits.dim() ? logits.size(logits.dim() - 1) : 1) {
    if (target.dim() == logits.dim()) {
      dense_.emplace(target);
      return;
    }
    index_ = torch::stable::contiguous(target);
    labels_ = static_cast<const int64_t*>(index_->const_data_ptr());
    if (score) score_.emplace(*score);
    check();
  }
  bool is_index() const { return labels_ != nullptr; }
  int64_t classes() const { return classes_; }
  int64_t label(int64_t row) const { return labels_[row]; }

  const T* load(int64_t start, int64_t count, T* buffer) const {
    if (!is_index()) return load_dense(start, count, buffer);
    std::fill(buffer, buffer + count, T(0));
    for (int64_t row = start / classes_; row * classes_ < start + count; ++row) {
      const int64_t first = std::max<int64_t>(row * classes_ - start, 0);
      const int64_t last = std::min((row + 1) * classes_ - start, count);
      if (ignore_index_ && labels_[row] == *ignore_index_) {
        std::fill(buffer + first, buffer + last, T(-1));
        continue;
      }
      const int64_t hot = row * classes_ + labels_[row] - start;
      T scratch;
      if (first <= hot && hot < last) buffer[hot] = score_ ? *score_->load(row, 1, &scratch) : T(1);
    }
    return buffer;
  }

 private:
  const T* load_dense(int64_t start, int64_t count, T* buffer) const {
    const T* values = dense_->load(start, count, buffer);
    if (!ignore_index_ || *ignore_index_ < 0) return values;  // negative entries are ignored anyway
    const T ignored = static_cast<T>(*ignore_index_);
    for (int64_t i = 0; i < count; ++i) buffer[i] = values[i] == ignored ? T(-1) : values[i];
    return buffer;
  }
  // std::out_of_range reaches Python as IndexError.
  void check() const {
    for (int64_t i = 0; i < index_->numel(); ++i) {
      const int64_t label = labels_[i];
      if ((label >= 0 && label <= classes_) || (ignore_index_ && label == *ignore_index_)) continue;
      std::ostringstream text;
      text << "target must hold class indices in [0, " << classes_ << "], " << classes_
           << " meaning background; got " << label << " at index " << i;
      throw std::out_of_range(text.str());
    }
  }

  std::optional<int64_t> ignore_index_;
  int64_t classes_;
  std::optional<Source<T>> dense_, score_;
  std::optional<Tensor> index_;
  const int64_t* labels_ = nullptr;
};

template <typename T>
struct FocalKernel {
  Source<T> logits;
  Target<T> target;
  std::optional<Broadcast<T>> class_weight;
  Functions<T> functions;
  FocalParams<T> params;
  Sink logits_gradient, target_gradient, score_gradient;

  FocalKernel(const Tensor& x, const Tensor& t, const std::optional<Tensor>& score,
              const std::optional<Tensor>& weights, const Options& o,
              std::optional<int64_t> ignore_index)
      : logits(x), target(x, t, score, ignore_index), functions(o), params(o.params<T>()) {
    if (weights) class_weight.emplace(*weights);
  }

  const T* weights(int64_t start, int64_t count, T* buffer) const {
    if (!class_weight) {
      std::fill(buffer, buffer + count, T(1));
      return buffer;
    }
    T scratch;
    for (int64_t i = 0; i < count; ++i)
      buffer[i] = *class_weight->load((start + i) % target.classes(), 1, &scratch);
    return buffer;
  }
  void values(int64_t start, int64_t count, T* out) const {
    T a[kBlock], b[kBlock], c[kBlock];
    functions.forward(logits.load(start, count, a), target.load(start, count, b),
                      weights(start, count, c), count, params, out);
  }
  void gradients(int64_t start, int64_t count, const T* m) const {
    T a[kBlock], b[kBlock], c[kBlock], buffer[kBlock];
    const T* x = logits.load(start, count, a);
    const T* t = target.load(start, count, b);
    const T* w = weights(start, count, c);
    if (logits_gradient) {
      T* out = logits_gradient.target<T>(start, buffer);
      functions.input_backward(x, t, w, m, count, params, out);
      logits_gradient.store<T>(start, count, out);
    }
    if (target_gradient) {
      T* out = target_gradient.target<T>(start, buffer);
      functions.target_backward(x, t, w, m, count, params, out);
      target_gradient.store<T>(start, count, out);
    }
    if (score_gradient) {
      functions.target_backward(x, t, w, m, count, params, buffer);
      score_rows(start, count, buffer);
    }
  }
  void both(int64_t start, int64_t count, const T* m, T* losses) const {
    T a[kBlock], b[kBlock], c[kBlock], buffer[kBlock];
    T* out = logits_gradient.target<T>(start, buffer);
    functions.both(logits.load(start, count, a), target.load(start, count, b),
                   weights(start, count, c), m, count, params, losses, out);
    logits_gradient.store<T>(start, count, out);
  }

 private:
  // The score of a row acts on one element, its class; rows without one have gradient 0, written by
  // the block that holds the row's first element.
  void score_rows(int64_t start, int64_t count, const T* derivative) const {
    const int64_t classes = target.classes();
    for (int64_t row = start / classes; row * classes < start + count; ++row) {
      const int64_t label = target.label(row), at = row * classes + label - start;
      const T zero = 0;
      if (label < 0 || label >= classes) {
        if (row * classes >= start) score_gradient.store<T>(row, 1, &zero);
      } else if (0 <= at && at < count) {
        score_gradient.store<T>(row, 1, derivative + at);
      }
    }
  }
};

Reduction reduction_of(const Tensor& logits, const std::optional<Tensor>& weight,
                       const std::optional<Tensor>& avg_factor, std::optional<double> divisor,
                       const std::string& reduction, const std::string& kind) {
  const int64_t count = logits.numel();
  const int64_t classes = kind == "quality_focal" ? logits.size(logits.dim() - 1) : 1;
  return Reduction(weight, avg_factor, divisor, reduction, count,
                   count / std::max<int64_t>(classes, 1));
}

Tensor sigmoid_focal(Tensor logits, Tensor target, std::optional<Tensor> score,
                     std::optional<Tensor> class_weight, std::optional<Tensor> weight,
                     std::optional<Tensor> avg_factor, std::string kind, bool activated,
                     double alpha, double gamma, double pos_weight, double neg_weight,
                     std::optional<int64_t> ignore_index, std::optional<double> divisor,
                     std::string reduction, bool widen) {
  const Options options{kind, activated, alpha, gamma, pos_weight, neg_weight};
  const Reduction r = reduction_of(logits, weight, avg_factor, divisor, reduction, kind);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    const FocalKernel<T> kernel(logits, target, score, class_weight, options, ignore_index);
    return reduce<T>(kernel, r, logits, result_type(logits, widen), logits.sizes());
  };
  return logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sigmoid_focal_backward(
    Tensor grad, Tensor logits, Tensor target, std::optional<Tensor> score,
    std::optional<Tensor> class_weight, std::optional<Tensor> weight,
    std::optional<Tensor> avg_factor, std::string kind, bool activated, double alpha, double gamma,
    double pos_weight, double neg_weight, std::optional<int64_t> ignore_index,
    std::optional<double> divisor, std::string reduction, bool, int64_t needs) {
  const Options options{kind, activated, alpha, gamma, pos_weight, neg_weight};
  const Reduction r = reduction_of(logits, weight, avg_factor, divisor, reduction, kind);
  std::tuple<Tensor, Tensor, Tensor, Tensor> result{
      gradient_like(logits, logits, needs, 0), gradient_like(logits, target, needs, 1),
      gradient_like(logits, score.value_or(logits), needs, 2),
      gradient_like(logits, weight.value_or(logits), needs, 3)};
  // The scores of rows without a single class: no block visits them.
  if (logits.numel() == 0 && needs >> 2 & 1) torch::stable::fill_(std::get<2>(result), 0);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    FocalKernel<T> kernel(logits, target, score, class_weight, options, ignore_index);
    kernel.logits_gradient = sink_for(std::get<0>(result), needs, 0);
    kernel.target_gradient = sink_for(std::get<1>(result), needs, 1);
    kernel.score_gradient = sink_for(std::get<2>(result), needs, 2);
    propagate<T>(kernel, r, grad, sink_for(std::get<3>(result), needs, 3));
  };
  logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

std::tuple<Tensor, Tensor> sigmoid_focal_with_gradient(
    Tensor logits, Tensor target, std::optional<Tensor> score, std::optional<Tensor> class_weight,
    std::optional<Tensor> weight, std::optional<Tensor> avg_factor, std::string kind,
    bool activated, double alpha, double gamma, double pos_weight, double neg_weight,
    std::optional<int64_t> ignore_index, std::optional<double> divisor, std::string reduction,
    bool widen) {
  const Options options{kind, activated, alpha, gamma, pos_weight, neg_weight};
  const Reduction r = reduction_of(logits, weight, avg_factor, divisor, reduction, kind);
  Tensor gradient = gradient_like(logits, logits, 1, 0);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    FocalKernel<T> kernel(logits, target, score, class_weight, options, ignore_index);
    kernel.logits_gradient = Sink(gradient);
    return reduce_with_gradient<T>(kernel, r, logits, result_type(logits, widen));
  };
  return {logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{}), gradient};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("sigmoid_focal", TORCH_BOX(&sigmoid_focal));
  m.impl("sigmoid_focal_backward", TORCH_BOX(&sigmoid_focal_backward));
  m.impl("sigmoid_focal_with_gradient", TORCH_BOX(&sigmoid_focal_with_gradient));
}

}  // namespace
}  // namespace fastloss::cpu
