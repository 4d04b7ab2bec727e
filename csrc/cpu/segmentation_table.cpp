// CPU kernel of `segmentation_table`: one read of the logits, tile by tile; everything else about a
// tile stays in the first-level cache.
#include "cpu/segmentation_table.h"

namespace fastloss::cpu {
namespace {

// Sums over the pixels of a chunk. Every statistic of a class has kSumLanes parts.
class Sums {
 public:
  Sums(const TableOptions& o, int64_t classes)
      : options_(o), classes_(classes), lanes_(o.columns() * classes * kSumLanes) {}

  double* lanes(Statistic s, int64_t c) {
    return lanes_.data() + (options_.column(s) * classes_ + c) * kSumLanes;
  }
  // Writes the sums in the order of the table.
  void finish(double* out) const {
    for (size_t i = 0; i < lanes_.size() / kSumLanes; ++i) {
      double sum = 0;
      for (int64_t l = 0; l < kSumLanes; ++l) sum += lanes_[i * kSumLanes + l];
      out[i] = sum;
    }
  }

 private:
  const TableOptions& options_;
  int64_t classes_;
  std::vector<double> lanes_;
};

// sum p and sum -ln p of a class.
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void probability_row(const T* __restrict exponentials,
                                   const Softmax<kWidth, T>& softmax,
                                   const Label<T>* __restrict label, double* lanes) {
  add_row<kWidth, T>(lanes, [&](int64_t j) __attribute__((always_inline)) {
    const T p = exponentials[j] * softmax.inverse[j];
    return label[j] >= 0 ? p : T(0);
  });
}
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void neg_log_row(const T* __restrict x, const Softmax<kWidth, T>& softmax,
                               const Label<T>* __restrict label, double* lanes) {
  add_row<kWidth, T>(lanes, [&](int64_t j) __attribute__((always_inline)) {
    const T loss = softmax.log_sum[j] + (softmax.peak[j] - x[j]);
    return label[j] >= 0 ? loss : T(0);
  });
}

template <typename Power, int64_t kWidth, typename T>
FASTLOSS_SIMD void softmax_focal_pixels(const T* __restrict nll, const T* __restrict known,
                                        FocalFactor<T> f, T* __restrict factor,
                                        T* __restrict loss) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const auto term = focal_term<Power>(nll[j], one_minus_exp(nll[j]), exp_nonpositive(-nll[j]), f);
    factor[j] = known[j] * term.factor, loss[j] = known[j] * term.loss;
  }
}

// The focal losses of a class against labels, or their factors, added to lanes.
template <typename Power, bool kFactor, int64_t kWidth, typename T>
FASTLOSS_SIMD void index_focal_row(const T* __restrict x, const Label<T>* __restrict label,
                                   Label<T> c, FocalFactor<T> f, Balance<T> balance,
                                   double* lanes) {
  const T of_class = balance.at(T(1)), of_others = balance.at(T(0));
  add_row<kWidth, T>(lanes, [&](int64_t j) __attribute__((always_inline)) {
    const HardTarget<T> in(x[j], label[j] == c);
    const auto term = focal_term<Power>(in.b, in.m, in.pt, f);
    const T value = kFactor ? term.factor : (label[j] == c ? of_class : of_others) * term.loss;
    return label[j] >= 0 ? value : T(0);
  });
}

// Focal losses of a row against a dense target, and their factors.
template <typename Power, int64_t kWidth, typename T>
FASTLOSS_SIMD void dense_focal_row(const T* __restrict x, const Sigmoids<kWidth, T>& sigmoids,
                                   const T* __restrict t, FocalFactor<T> f, Balance<T> balance,
                                   T* __restrict factor, T* __restrict loss) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const SoftTarget<T> in(sigmoids.at(x, j), t[j]);
    const auto term = focal_term<Power>(in.b, in.m, in.pt, f);
    factor[j] = term.factor, loss[j] = balance.at(t[j]) * term.loss;
  }
}
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void bce_row(const T* __restrict x, const Sigmoids<kWidth, T>& sigmoids,
                           const T* __restrict t, T smoothing, T* __restrict positive,
                           T* __restrict negative) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const Logit<T> in = sigmoids.at(x, j);
    const T smooth = t[j] + smoothing * (T(1) - T(2) * t[j]);
    const T pos = smooth * (max_(-in.x, T(0)) + in.softplus_tail);
    const T neg = (T(1) - smooth) * (max_(in.x, T(0)) + in.softplus_tail);
    positive[j] = smooth == T(0) ? T(0) : pos;
    negative[j] = smooth == T(1) ? T(0) : neg;
  }
}
// lanes += the valid ones of v, of v * t, of min(v, t), of [v > 1/2], of [v > 1/2 and t > 1/2].
enum class Sum { kValue, kProduct, kMinimum, kAboveHalf, kBothAboveHalf };
template <Sum kSum, int64_t kWidth, typename T>
FASTLOSS_SIMD void sum_row(const T* __restrict v, const T* __restrict t,
                           const Label<T>* __restrict label, double* lanes) {
  add_row<kWidth, T>(lanes, [&](int64_t j) __attribute__((always_inline)) {
    T value = v[j];
    if constexpr (kSum == Sum::kProduct) value = v[j] * t[j];
    if constexpr (kSum == Sum::kMinimum) {
      value = min_(v[j], t[j]) + (v[j] - v[j]);  // keeps a NaN
    }
    if constexpr (kSum == Sum::kAboveHalf) value = v[j] > T(0.5) ? T(1) : T(0);
    if constexpr (kSum == Sum::kBothAboveHalf)
      value = (v[j] > T(0.5)) & (t[j] > T(0.5)) ? T(1) : T(0);
    return label[j] >= 0 ? value : T(0);
  });
}

// The class of the largest logit of every pixel, -1 if one is NaN.
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void predict(const T* __restrict x, int64_t stride, int64_t classes,
                           Label<T>* __restrict best) {
  alignas(64) T peak[kWidth], poison[kWidth];
  for (int64_t j = 0; j < kWidth; ++j) peak[j] = poison[j] = x[j], best[j] = 0;
  for (int64_t c = 1; c < classes; ++c) {
    const T* row = x + c * stride;
#pragma GCC ivdep
    for (int64_t j = 0; j < kWidth; ++j) {
      best[j] = row[j] > peak[j] ? static_cast<Label<T>>(c) : best[j];
      peak[j] = max_(row[j], peak[j]);
      poison[j] = row[j] == row[j] ? poison[j] : row[j];
    }
  }
  for (int64_t j = 0; j < kWidth; ++j) best[j] = poison[j] == poison[j] ? best[j] : Label<T>(-1);
}

// Where the sums of every pixel's class are, and 1; where it has none, a place and 0.
template <int64_t kWidth, typename T>
struct Slots {
  alignas(64) T known[kWidth];
  alignas(64) Label<T> at[kWidth];
};
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void slots_of(const Label<T>* __restrict label, int64_t classes,
                            Slots<kWidth, T>* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const bool is_known = (label[j] >= 0) & (label[j] < static_cast<Label<T>>(classes));
    out->known[j] = is_known ? T(1) : T(0);
    out->at[j] = (is_known ? label[j] : Label<T>(0)) * static_cast<Label<T>>(kSumLanes) +
                 static_cast<Label<T>>(j % kSumLanes);
  }
}

template <typename T>
class TableKernel {
 public:
  TableKernel(const Planes& x, const PixelTarget& target, const TableOptions& o)
      : x_(x),
        target_(target),
        o_(o),
        softmax_factor_(o.softmax_gamma, o.softmax_threshold),
        factor_(o.gamma, o.threshold) {}

  // The sums over `count` pixels of image n from p on.
  void chunk(int64_t n, int64_t p, int64_t count, double* out) const {
    Sums sums(o_, x_.classes);
    std::vector<T> logits, exponentials(o_.uses_softmax() ? x_.classes * width() : 0);
    for_each_tile(x_.classes, p, count, [&](auto width, int64_t first, int64_t pixels) {
      constexpr int64_t kWidth = width;
      const Rows<T> x(x_, n, first, pixels, kWidth, logits);
      tile<kWidth>(n, first, pixels, x.of(0), x.stride(), exponentials.data(), sums);
    });
    traffic.read += x_.bytes(count);
    sums.finish(out);
  }

 private:
  int64_t width() const { return x_.classes <= kManyClasses ? kWide : kNarrow; }

  template <int64_t kWidth>
  void tile(int64_t n, int64_t p, int64_t count, const T* x, int64_t stride, T* exponentials,
            Sums& sums) const {
    alignas(64) Label<T> label[kWidth];
    if (o_.index) {
      target_.labels(n, p, count, kWidth, label);
      Slots<kWidth, T> slots;
      slots_of<kWidth, T>(label, x_.classes, &slots);
      if (o_.uses_softmax()) softmax_tile<kWidth>(x, stride, label, slots, exponentials, sums);
      scatter<kWidth>(kTarget, slots, slots.known, sums);
      if (o_.has(kValid)) count_valid<kWidth>(label, sums);
      if (o_.has(kOfPrediction)) count_predictions<kWidth>(x, stride, label, sums);
    }
    if (!o_.uses_rows()) return;
    alignas(64) T t[kWidth];
    for (int64_t c = 0; c < x_.classes; ++c) {
      if (!o_.index)
        target_.values(n, c, p, count, kWidth, t, label);
      else if (o_.uses_one_hot())
        one_hot<kWidth, T>(label, c, t);
      row<kWidth>({x + c * stride, t, label}, c, sums);
    }
  }

  template <int64_t kWidth>
  void softmax_tile(const T* x, int64_t stride, const Label<T>* label,
                    const Slots<kWidth, T>& slots, T* exponentials, Sums& sums) const {
    Softmax<kWidth, T> softmax;
    softmax_of<kWidth>(x, stride, x_.classes, exponentials, &softmax);
    for (int64_t c = 0; c < x_.classes; ++c) {
      if (o_.has(kProbability))
        probability_row<kWidth, T>(exponentials + c * kWidth, softmax, label,
                                   sums.lanes(kProbability, c));
      if (o_.has(kNegLogProb))
        neg_log_row<kWidth, T>(x + c * stride, softmax, label, sums.lanes(kNegLogProb, c));
    }
    alignas(64) T nll[kWidth], p[kWidth], factor[kWidth], loss[kWidth];
    at_labels<kWidth, T>(x, stride, x_.classes, exponentials, label, softmax, nll, p);
    scatter<kWidth>(kOverlap, slots, p, sums);
    scatter<kWidth>(kProduct, slots, p, sums);
    scatter<kWidth>(kNll, slots, nll, sums);
    if (!o_.has(kOfSoftmaxFocal)) return;
    const auto run = softmax_factor_.is_square() ? &softmax_focal_pixels<Square, kWidth, T>
                                                 : &softmax_focal_pixels<General, kWidth, T>;
    run(nll, slots.known, softmax_factor_, factor, loss);
    scatter<kWidth>(kSoftmaxFocal, slots, loss, sums);
    scatter<kWidth>(kSoftmaxFocalTerm, slots, factor, sums);
  }

  // Adds the value of every pixel, 0 where it has no class, to the sum of its class.
  template <int64_t kWidth>
  void scatter(Statistic s, const Slots<kWidth, T>& slots, const T* value, Sums& sums) const {
    if (!o_.has(s)) return;
    double* lanes = sums.lanes(s, 0);
    for (int64_t j = 0; j < kWidth; ++j) lanes[slots.at[j]] += static_cast<double>(value[j]);
  }

  template <int64_t kWidth>
  void count_valid(const Label<T>* label, Sums& sums) const {
    double valid = 0;
    for (int64_t j = 0; j < kWidth; ++j) valid += label[j] >= 0;
    for (int64_t c = 0; c < x_.classes; ++c) *sums.lanes(kValid, c) += valid;
  }

  template <int64_t kWidth>
  void count_predictions(const T* x, int64_t stride, const Label<T>* label, Sums& sums) const {
    alignas(64) Label<T> best[kWidth];
    Slots<kWidth, T> slots;
    predict<kWidth, T>(x, stride, x_.classes, best);
    for (int64_t j = 0; j < kWidth; ++j)  // of ignored pixels there is no prediction
      best[j] = label[j] >= 0 ? best[j] : -1;
    slots_of<kWidth, T>(best, x_.classes, &slots);
    scatter<kWidth>(kPredicted, slots, slots.known, sums);
    for (int64_t j = 0; j < kWidth; ++j) best[j] = best[j] == label[j] ? best[j] : -1;
    slots_of<kWidth, T>(best, x_.classes, &slots);
    scatter<kWidth>(kCorrect, slots, slots.known, sums);
  }

  template <int64_t kWidth>
  void row(const Row<kWidth, T>& r, int64_t c, Sums& sums) const {
    const auto add = [&]<Sum kSum>(std::integral_constant<Sum, kSum>, Statistic s, const T* v) {
      if (o_.has(s)) sum_row<kSum, kWidth, T>(v, r.t, r.label, sums.lanes(s, c));
    };
    constexpr std::integral_constant<Sum, Sum::kValue> value;
    alignas(64) T a[kWidth], b[kWidth];
    Sigmoids<kWidth, T> sigmoids;
    sigmoids_for<kWidth, T>(o_, r.x, &sigmoids);
    if (!o_.softmax) {
      const T* p = o_.sigmoid ? sigmoids.p : r.x;
      add(value, kProbability, p);
      add(std::integral_constant<Sum, Sum::kMinimum>{}, kOverlap, p);
      add(std::integral_constant<Sum, Sum::kProduct>{}, kProduct, p);
      if (!o_.index) {
        add(std::integral_constant<Sum, Sum::kAboveHalf>{}, kPredicted, p);
        add(std::integral_constant<Sum, Sum::kBothAboveHalf>{}, kCorrect, p);
      }
    }
    if (!o_.index) {
      add(value, kTarget, r.t);
      std::fill(b, b + kWidth, T(1));
      add(value, kValid, b);
    }
    if (o_.has(kOfSigmoidFocal) && o_.index) {
      index_focal<false, kWidth>(kSigmoidFocal, r, c, sums);
      index_focal<true, kWidth>(kSigmoidFocalTerm, r, c, sums);
    } else if (o_.has(kOfSigmoidFocal)) {
      const auto run = factor_.is_square() ? &dense_focal_row<Square, kWidth, T>
                                           : &dense_focal_row<General, kWidth, T>;
      run(r.x, sigmoids, r.t, factor_, o_.balance<T>(), a, b);
      add(value, kSigmoidFocalTerm, a);
      add(value, kSigmoidFocal, b);
    }
    if (o_.has(kOfBce)) {
      bce_row<kWidth, T>(r.x, sigmoids, r.t, static_cast<T>(o_.smoothing), a, b);
      add(value, kBcePositive, a);
      add(value, kBceNegative, b);
    }
  }

  template <bool kFactor, int64_t kWidth>
  void index_focal(Statistic s, const Row<kWidth, T>& r, int64_t c, Sums& sums) const {
    if (!o_.has(s)) return;
    const auto run = factor_.is_square() ? &index_focal_row<Square, kFactor, kWidth, T>
                                         : &index_focal_row<General, kFactor, kWidth, T>;
    run(r.x, r.label, static_cast<Label<T>>(c), factor_, o_.balance<T>(), sums.lanes(s, c));
  }

  const Planes& x_;
  const PixelTarget& target_;
  const TableOptions& o_;
  FocalFactor<T> softmax_factor_, factor_;
};

Tensor segmentation_table(Tensor logits, Tensor target, int64_t statistics, std::string activation,
                          std::optional<int64_t> ignore_index, bool per_image, bool strict,
                          double softmax_gamma, std::optional<double> softmax_threshold,
                          std::optional<double> alpha, double gamma,
                          std::optional<double> threshold, double bce_smoothing) {
  const Planes x(logits);
  const PixelTarget t(logits, target, ignore_index, strict);
  const TableOptions o(statistics, activation, t.is_index, softmax_gamma, softmax_threshold, alpha,
                       gamma, threshold, bce_smoothing);
  const int64_t cells = o.columns() * x.classes, chunks = chunks_of(x);
  std::vector<double> partial(x.images * chunks * cells);
  const auto run = [&](auto sample) {
    const TableKernel<decltype(sample)> kernel(x, t, o);
    for_each_chunk(x, [&](int64_t chunk, int64_t n, int64_t p, int64_t count) {
      kernel.chunk(n, p, count, partial.data() + chunk * cells);
    });
  };
  logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  t.check();
  const int64_t groups = per_image ? x.images : 1;
  Tensor table =
      torch::stable::new_zeros(logits, {groups, o.columns(), x.classes}, ScalarType::Double);
  double* out = static_cast<double*>(table.mutable_data_ptr());
  for (int64_t i = 0; i < x.images * chunks; ++i)
    for (int64_t k = 0; k < cells; ++k)
      out[(per_image ? i / chunks : 0) * cells + k] += partial[i * cells + k];
  return table;
}

// Bytes of logits read and of gradients written since the last call.
std::vector<int64_t> ask_traffic() {
  return {traffic.read.exchange(0), traffic.written.exchange(0)};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("segmentation_table", TORCH_BOX(&segmentation_table));
}
STABLE_TORCH_LIBRARY_IMPL(fastloss, CompositeExplicitAutograd, m) {
  m.impl("_traffic", TORCH_BOX(&ask_traffic));
}

}  // namespace
}  // namespace fastloss::cpu
