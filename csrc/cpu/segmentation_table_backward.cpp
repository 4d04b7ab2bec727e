// CPU kernel of `segmentation_table_backward`: one read of the logits and one write of their
// gradient. The gradient of the table gives every statistic a coefficient per class.
#include "cpu/segmentation_table.h"

namespace fastloss::cpu {
namespace {

// g[s][c], the coefficients of one group.
template <typename T>
struct Coefficients {
  std::vector<T> values;
  const T* of[kStatistics];
  std::vector<T> at_label;  // what the p of a pixel's label has besides
  T neg_log_sum = 0;        // of kNegLogProb over the classes

  Coefficients(const TableOptions& o, int64_t classes, const double* grad)
      : values((o.columns() + 1) * classes) {
    for (int64_t i = 0; i < o.columns() * classes; ++i) values[i] = static_cast<T>(grad[i]);
    for (int s = 0; s < kStatistics; ++s) {
      const auto statistic = static_cast<Statistic>(s);
      const int64_t column = o.has(statistic) ? o.column(statistic) : o.columns();  // zeros
      of[s] = values.data() + column * classes;
    }
    double sum = 0;
    for (int64_t c = 0; c < classes; ++c) {
      sum += of[kNegLogProb][c];
      at_label.push_back(of[kOverlap][c] + of[kProduct][c]);
    }
    neg_log_sum = static_cast<T>(sum);
  }
};

// <p, g> of every pixel, where g are the coefficients of p.
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void mean_of(const T* __restrict exponentials, const T* __restrict inverse,
                           int64_t classes, const T* __restrict g, T* __restrict mean) {
  for (int64_t c = 0; c < classes; ++c)
    for (int64_t j = 0; j < kWidth; ++j) mean[j] += g[c] * exponentials[c * kWidth + j];
  for (int64_t j = 0; j < kWidth; ++j) mean[j] *= inverse[j];
}

// Derivative of a pixel's focal terms by -ln p.
template <typename Power, int64_t kWidth, typename T>
FASTLOSS_SIMD void softmax_focal_slopes(const T* __restrict nll, FocalFactor<T> f,
                                        const T* __restrict g_loss, const T* __restrict g_factor,
                                        T* __restrict slope) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const auto term = focal_term<Power>(nll[j], one_minus_exp(nll[j]), exp_nonpositive(-nll[j]), f);
    slope[j] += g_loss[j] * term.loss_slope + g_factor[j] * term.factor_slope;
  }
}

// out = p (g + offset) - shift, 0 where ignored.
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void softmax_row(const T* __restrict exponentials, const T* __restrict inverse,
                               const T* __restrict offset, const Label<T>* __restrict label, T g,
                               T shift, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const T value = exponentials[j] * inverse[j] * (g + offset[j]) - shift;
    out[j] = label[j] >= 0 ? value : T(0);
  }
}

// What follows adds to the gradients of a row: g_x of the logits, g_t of a dense target.
template <typename T>
struct Slopes {
  T* g_x;
  T* g_t;
};

template <bool kSigmoid, bool kWantTarget, int64_t kWidth, typename T>
FASTLOSS_SIMD void probability_slopes(const T* __restrict x, const Sigmoids<kWidth, T>& sigmoids,
                                      const T* __restrict t, T g_value, T g_minimum, T g_product,
                                      T* __restrict g_x, T* __restrict g_t) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    T p = x[j], slope = T(1);
    if constexpr (kSigmoid) {
      const Logit<T> in = sigmoids.at(x, j);
      p = in.p, slope = in.dp();
    }
    g_x[j] += slope * (g_value + g_minimum * lower(p, t[j]) + g_product * t[j]);
    if constexpr (kWantTarget) g_t[j] += g_minimum * lower(t[j], p) + g_product * p;
  }
}

// Also 0 where ignored.
template <typename Power, int64_t kWidth, typename T>
FASTLOSS_SIMD void index_focal_slopes(const T* __restrict x, const Label<T>* __restrict label,
                                      Label<T> c, FocalFactor<T> f, Balance<T> balance, T g_loss,
                                      T g_factor, T* __restrict g_x) {
  const T of_class = g_loss * balance.at(T(1)), of_others = g_loss * balance.at(T(0));
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const HardTarget<T> in(x[j], label[j] == c);
    const auto term = focal_term<Power>(in.b, in.m, in.pt, f);
    const T g_b =
        (label[j] == c ? of_class : of_others) * term.loss_slope + g_factor * term.factor_slope;
    g_x[j] += label[j] >= 0 ? g_b * in.b_x : T(0);
  }
}

template <typename Power, bool kWantTarget, int64_t kWidth, typename T>
FASTLOSS_SIMD void dense_focal_slopes(const T* __restrict x, const Sigmoids<kWidth, T>& sigmoids,
                                      const T* __restrict t, FocalFactor<T> f, Balance<T> balance,
                                      T g_loss, T g_factor, T* __restrict g_x, T* __restrict g_t) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const SoftTarget<T> in(sigmoids.at(x, j), t[j]);
    const auto term = focal_term<Power>(in.b, in.m, in.pt, f);
    const T g_b = g_loss * balance.at(t[j]) * term.loss_slope + g_factor * term.factor_slope;
    g_x[j] += g_b * in.b_x;
    if constexpr (kWantTarget)
      g_t[j] += (balance.slope == T(0) ? T(0) : g_loss * balance.slope * term.loss) - g_b * x[j];
  }
}

template <bool kWantTarget, int64_t kWidth, typename T>
FASTLOSS_SIMD void bce_slopes(const T* __restrict x, const Sigmoids<kWidth, T>& sigmoids,
                              const T* __restrict t, T smoothing, T g_positive, T g_negative,
                              T* __restrict g_x, T* __restrict g_t) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const Logit<T> in = sigmoids.at(x, j);
    const T smooth = t[j] + smoothing * (T(1) - T(2) * t[j]);
    g_x[j] += g_negative * (T(1) - smooth) * in.p - g_positive * smooth * in.q;
    if constexpr (kWantTarget)
      g_t[j] += (T(1) - T(2) * smoothing) * (g_positive * (max_(-in.x, T(0)) + in.softplus_tail) -
                                             g_negative * (max_(in.x, T(0)) + in.softplus_tail));
  }
}

// Both gradients of a row, 0 where ignored.
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void clear_ignored(const Label<T>* __restrict label, T* __restrict g) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) g[j] = label[j] >= 0 ? g[j] : T(0);
}

template <typename T>
class GradientKernel {
 public:
  GradientKernel(const Planes& x, const PixelTarget& target, const TableOptions& o,
                 const std::optional<Planes>& g_x, const std::optional<Planes>& g_t)
      : x_(x),
        target_(target),
        o_(o),
        g_x_(g_x),
        g_t_(g_t),
        softmax_factor_(o.softmax_gamma, o.softmax_threshold),
        factor_(o.gamma, o.threshold) {}

  void chunk(int64_t n, int64_t p, int64_t count, const Coefficients<T>& g) const {
    const int64_t tile_size =
        x_.classes *
        (x_.classes <= kManyClasses ? std::min(kWide, std::max(count, kNarrow)) : kNarrow);
    std::vector<T> logits, exponentials(o_.uses_softmax() ? tile_size : 0), out, of_target;
    for_each_tile(x_.classes, p, count, [&](auto width, int64_t first, int64_t pixels) {
      constexpr int64_t kWidth = width;
      const Rows<T> x(x_, n, first, pixels, kWidth, logits);
      int64_t out_stride = g_x_ ? g_x_->row_stride() : 0;
      T* g_x = g_x_ ? g_x_->rows<T>(n, first, pixels, kWidth) : nullptr;
      const bool direct = g_x != nullptr;
      if (!direct) {
        out.resize(tile_size);
        g_x = out.data(), out_stride = kWidth;
      }
      if (g_t_) of_target.resize(tile_size);
      tile<kWidth>(n, first, pixels, x.of(0), x.stride(), exponentials.data(), g, g_x, out_stride,
                   of_target.data());
      if (g_x_ && !direct) g_x_->store(n, first, pixels, kWidth, out.data());
      if (g_t_) g_t_->store(n, first, pixels, kWidth, of_target.data());
    });
    traffic.read += x_.bytes(count);
    if (g_x_) traffic.written += g_x_->bytes(count);
  }

 private:
  template <int64_t kWidth>
  void tile(int64_t n, int64_t p, int64_t count, const T* x, int64_t stride, T* exponentials,
            const Coefficients<T>& g, T* g_x, int64_t out_stride, T* g_t) const {
    alignas(64) Label<T> label[kWidth];
    if (o_.index) target_.labels(n, p, count, kWidth, label);
    if (o_.uses_softmax()) {
      softmax_tile<kWidth>(x, stride, label, exponentials, g, g_x, out_stride);
    } else {
      for (int64_t c = 0; c < x_.classes; ++c)
        std::fill(g_x + c * out_stride, g_x + c * out_stride + kWidth, T(0));
    }
    if (!o_.has(kOfSigmoidFocal | kOfBce) && (o_.softmax || !o_.has(kOfProbability)) && !g_t_)
      return;
    alignas(64) T t[kWidth];
    for (int64_t c = 0; c < x_.classes; ++c) {
      if (!o_.index)
        target_.values(n, c, p, count, kWidth, t, label);
      else if (o_.uses_one_hot())
        one_hot<kWidth, T>(label, c, t);
      const Row<kWidth, T> r{x + c * stride, t, label};
      T* of_x = g_x + c * out_stride;
      if (g_t_) {
        T* of_t = g_t + c * kWidth;
        std::fill(of_t, of_t + kWidth, g.of[kTarget][c]);
        row<true, kWidth>(r, c, g, of_x, of_t);
        if (target_.ignores()) clear_ignored<kWidth, T>(label, of_t);
      } else {
        row<false, kWidth>(r, c, g, of_x, nullptr);
      }
      if (target_.ignores() && (!o_.index || o_.uses_one_hot()))
        clear_ignored<kWidth, T>(label, of_x);
    }
  }

  template <int64_t kWidth>
  void softmax_tile(const T* x, int64_t stride, const Label<T>* label, T* exponentials,
                    const Coefficients<T>& g, T* g_x, int64_t out_stride) const {
    Softmax<kWidth, T> softmax;
    alignas(64) T mean[kWidth] = {}, p[kWidth] = {}, nll[kWidth], slope[kWidth], at_label[kWidth];
    alignas(64) T g_loss[kWidth], g_factor[kWidth];
    softmax_of<kWidth, T>(x, stride, x_.classes, exponentials, &softmax);
    if (o_.has(kProbability))
      mean_of<kWidth, T>(exponentials, softmax.inverse, x_.classes, g.of[kProbability], mean);
    if (o_.has(kOfSoftmaxFocal | bits({kOverlap, kProduct})))
      at_labels<kWidth, T>(x, stride, x_.classes, exponentials, label, softmax, nll, p);
    pick<kWidth, T>(g.of[kNll], label, x_.classes, slope);
    pick<kWidth, T>(g.at_label.data(), label, x_.classes, at_label);
    if (o_.has(kOfSoftmaxFocal)) {
      pick<kWidth, T>(g.of[kSoftmaxFocal], label, x_.classes, g_loss);
      pick<kWidth, T>(g.of[kSoftmaxFocalTerm], label, x_.classes, g_factor);
      const auto add = softmax_factor_.is_square() ? &softmax_focal_slopes<Square, kWidth, T>
                                                   : &softmax_focal_slopes<General, kWidth, T>;
      add(nll, softmax_factor_, g_loss, g_factor, slope);
    }
    // With d the coefficients of p and a the slope by -ln p of the label:
    // p (d - <p, d>) + a (p - t) + p sum(n) - n, where d has p's own and, at the label, more.
    alignas(64) T offset[kWidth];
    for (int64_t j = 0; j < kWidth; ++j) {
      offset[j] = slope[j] + g.neg_log_sum - (mean[j] + p[j] * at_label[j]);
      at_label[j] = p[j] * at_label[j] - slope[j];
    }
    for (int64_t c = 0; c < x_.classes; ++c)
      softmax_row<kWidth, T>(exponentials + c * kWidth, softmax.inverse, offset, label,
                             g.of[kProbability][c], g.of[kNegLogProb][c], g_x + c * out_stride);
    for (int64_t j = 0; j < kWidth; ++j)
      if (label[j] >= 0 && label[j] < x_.classes) g_x[label[j] * out_stride + j] += at_label[j];
  }

  template <bool kWantTarget, int64_t kWidth>
  void row(const Row<kWidth, T>& r, int64_t c, const Coefficients<T>& g, T* g_x, T* g_t) const {
    Sigmoids<kWidth, T> sigmoids;
    sigmoids_for<kWidth, T>(o_, r.x, &sigmoids);
    if (!o_.softmax && o_.has(kOfProbability)) {
      const auto add = o_.sigmoid ? &probability_slopes<true, kWantTarget, kWidth, T>
                                  : &probability_slopes<false, kWantTarget, kWidth, T>;
      add(r.x, sigmoids, r.t, g.of[kProbability][c], g.of[kOverlap][c], g.of[kProduct][c], g_x,
          g_t);
    }
    const T g_loss = g.of[kSigmoidFocal][c], g_factor = g.of[kSigmoidFocalTerm][c];
    if (o_.has(kOfSigmoidFocal) && o_.index) {
      const auto add = factor_.is_square() ? &index_focal_slopes<Square, kWidth, T>
                                           : &index_focal_slopes<General, kWidth, T>;
      add(r.x, r.label, static_cast<Label<T>>(c), factor_, o_.balance<T>(), g_loss, g_factor, g_x);
    } else if (o_.has(kOfSigmoidFocal)) {
      const auto add = factor_.is_square() ? &dense_focal_slopes<Square, kWantTarget, kWidth, T>
                                           : &dense_focal_slopes<General, kWantTarget, kWidth, T>;
      add(r.x, sigmoids, r.t, factor_, o_.balance<T>(), g_loss, g_factor, g_x, g_t);
    }
    if (o_.has(kOfBce))
      bce_slopes<kWantTarget, kWidth, T>(r.x, sigmoids, r.t, static_cast<T>(o_.smoothing),
                                         g.of[kBcePositive][c], g.of[kBceNegative][c], g_x, g_t);
  }

  const Planes& x_;
  const PixelTarget& target_;
  const TableOptions& o_;
  const std::optional<Planes>&g_x_, &g_t_;
  FocalFactor<T> softmax_factor_, factor_;
};

std::tuple<Tensor, Tensor> segmentation_table_backward(
    Tensor grad, Tensor logits, Tensor target, int64_t statistics, std::string activation,
    std::optional<int64_t> ignore_index, bool, bool, double softmax_gamma,
    std::optional<double> softmax_threshold, std::optional<double> alpha, double gamma,
    std::optional<double> threshold, double bce_smoothing, int64_t needs) {
  const Planes x(logits);
  const PixelTarget t(logits, target, ignore_index, false);
  const TableOptions o(statistics, activation, t.is_index, softmax_gamma, softmax_threshold, alpha,
                       gamma, threshold, bce_smoothing);
  const bool of_target = (needs & 2) && !t.is_index && is_float(target.scalar_type());
  const Tensor nothing = torch::stable::new_empty(logits, std::vector<int64_t>{0});
  std::tuple<Tensor, Tensor> result{
      needs & 1 ? torch::stable::empty_like(logits) : nothing,
      of_target ? torch::stable::new_empty(target, target.sizes()) : nothing};
  std::optional<Planes> g_x, g_t;
  if (needs & 1) g_x.emplace(std::get<0>(result));
  if (of_target) g_t.emplace(std::get<1>(result));
  const Tensor table = torch::stable::contiguous(grad);
  const double* coefficients = static_cast<const double*>(table.const_data_ptr());
  const int64_t groups = table.size(0), cells = o.columns() * x.classes;
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    std::vector<Coefficients<T>> of_group;
    of_group.reserve(groups);
    for (int64_t i = 0; i < groups; ++i)
      of_group.emplace_back(o, x.classes, coefficients + i * cells);
    const GradientKernel<T> kernel(x, t, o, g_x, g_t);
    for_each_chunk(x, [&](int64_t, int64_t n, int64_t p, int64_t count) {
      kernel.chunk(n, p, count, of_group[groups > 1 ? n : 0]);
    });
  };
  logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("segmentation_table_backward", TORCH_BOX(&segmentation_table_backward));
}

}  // namespace
}  // namespace fastloss::cpu
