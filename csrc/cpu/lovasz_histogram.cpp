// CPU kernels of `lovasz_histogram`: one read of the logits counts the errors of a group into bins,
// the counts give every bin its slopes, and one more read looks them up.
#include <mutex>

#include "cpu/lovasz.h"

namespace fastloss::cpu {
namespace {

enum class Kind { kSoftmax, kProbabilities, kHinge };

// The bins of errors; the last of `size` is that of NaN.
template <typename T>
struct Binning {
  T scale;
  Label<T> size;
  int shift;  // hinge: of the bits of a float

  Binning(const LovaszOptions& o, int64_t bins) : scale(static_cast<T>(bins)) {
    int octave_bits = 0;
    while (int64_t(32) << octave_bits < bins) ++octave_bits;
    shift = 23 - octave_bits;
    size = static_cast<Label<T>>((o.hinge() ? (int64_t(255) << octave_bits) + 1 : bins) + 1);
  }

  template <Kind kKind>
  FASTLOSS_FN Label<T> of(T error) const {
    Label<T> bin;
    if constexpr (kKind == Kind::kHinge) {
      const float narrow = static_cast<float>(error > T(0) ? error : T(0));
      bin = static_cast<Label<T>>(bit_cast<int32_t>(narrow) >> shift);
    } else {
      bin = static_cast<int32_t>(min_(error * scale, scale - T(1)));
    }
    return error == error ? bin : size - 1;
  }
  double middle(Kind kind, Label<T> bin) const {
    if (bin == size - 1) return std::numeric_limits<double>::quiet_NaN();
    if (kind != Kind::kHinge) return (static_cast<double>(bin) + 0.5) / static_cast<double>(scale);
    if (bin == 0) return 0;
    if (bin == size - 2) return std::numeric_limits<double>::infinity();
    const auto edge = [&](int64_t k) {
      if (k == size - 2) return 0x1p128;  // where the numbers of float end
      return static_cast<double>(bit_cast<float>(static_cast<int32_t>(k << shift)));
    };
    return (edge(bin) + edge(bin + 1)) / 2;
  }
};

// The error of a pixel, and its derivative by what it is made of: a probability, or for hinge the
// logit.
template <typename T>
struct PixelError {
  T value, sign;
};
template <Kind kKind, typename T>
FASTLOSS_FN PixelError<T> pixel_error(T p, bool positive) {
  if constexpr (kKind == Kind::kHinge) {
    const T slope = positive ? T(-1) : T(1), error = T(1) + slope * p;
    return {error, error > T(0) ? slope : T(0)};
  }
  const T difference = p - (positive ? T(1) : T(0));
  const T sign = difference > T(0) ? T(1) : difference < T(0) ? T(-1) : T(0);
  return {abs_(difference), sign};
}

// Where a row's pixels are counted: negatives, then positives, then what is ignored. For softmax p
// is exponentials times `inverse`.
template <Kind kKind, int64_t kWidth, typename T>
FASTLOSS_SIMD void bin_row(const T* __restrict p, const T* __restrict inverse,
                           const Label<T>* __restrict label, Label<T> c, Binning<T> binning,
                           Label<T>* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const T value = kKind == Kind::kSoftmax ? p[j] * inverse[j] : p[j];
    const bool positive = label[j] == c;
    const Label<T> bin = binning.template of<kKind>(pixel_error<kKind>(value, positive).value);
    const Label<T> at = positive ? bin + binning.size : bin;
    out[j] = label[j] >= 0 ? at : 2 * binning.size;
  }
}

// The slopes of a row from where its pixels are counted.
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void look_up(const T* __restrict slopes, const Label<T>* __restrict at,
                           T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) out[j] = slopes[at[j]];
}
// Of the error to those of p; adds to <p, g_p>.
template <Kind kKind, int64_t kWidth, typename T>
FASTLOSS_SIMD void slope_row(const T* __restrict p, const T* __restrict inverse,
                             const Label<T>* __restrict label, Label<T> c,
                             const T* __restrict slope, T* __restrict g, T* __restrict mean) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const T value = kKind == Kind::kSoftmax ? p[j] * inverse[j] : p[j];
    const T slope_p = slope[j] * pixel_error<kKind>(value, label[j] == c).sign;
    g[j] = slope_p;
    if constexpr (kKind == Kind::kSoftmax) mean[j] += value * slope_p;
  }
}
// p from exponentials.
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void normalise(const T* __restrict inverse, T* __restrict p) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) p[j] *= inverse[j];
}

template <Kind kKind, typename T>
class HistogramKernel {
 public:
  HistogramKernel(const LovaszOptions& o, const Planes& x, const PixelTarget& target, int64_t bins,
                  const std::optional<Planes>& gradient)
      : o_(o), x_(x), target_(target), binning_(o, bins), gradient_(gradient) {}

  // The value of a group of images from `first` on; its gradient for that of the value.
  double group(int64_t first, double grad) const {
    const int64_t cells = 2 * binning_.size + 1;
    const std::vector<int64_t> counts = count(first);
    target_.check();
    std::vector<int64_t> totals(x_.classes);
    for (int64_t c = 0; c < x_.classes; ++c)
      for (int64_t k = 0; k < binning_.size; ++k)
        totals[c] += counts[c * cells + binning_.size + k];
    const std::vector<double> factors =
        kKind == Kind::kHinge ? std::vector<double>{1} : class_factors(o_, totals);
    std::vector<T> slopes(gradient_ ? cells * x_.classes : 0);
    double value = 0;
    for (int64_t c = 0; c < x_.classes; ++c) {
      if (factors[c] == 0) continue;
      T* to = gradient_ ? slopes.data() + c * cells : nullptr;
      value += factors[c] * scan(counts.data() + c * cells, totals[c], factors[c] * grad, to);
    }
    if (gradient_) {
      chunks(first, [&](int64_t n, int64_t p, int64_t pixels) {
        std::vector<T> g, out;
        tiles(n, p, pixels, [&](auto width, auto... tile) {
          this->template gradient_tile<width>(slopes.data(), g, out, tile...);
        });
      });
    }
    return value;
  }

 private:
  template <typename Body>
  void chunks(int64_t first, const Body& body) const {
    const int64_t each = chunks_of(x_);
    torch::stable::parallel_for(0, o_.images(x_) * each, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t p = i % each * kPixels;
        body(first + i / each, p, std::min(kPixels, x_.pixels - p));
      }
    });
  }

  // body(width, image, first pixel, pixels, rows of p, their factors or null, labels) for the tiles
  // of a chunk; p may be written to.
  template <typename Body>
  void tiles(int64_t n, int64_t p, int64_t count, const Body& body) const {
    std::vector<T> logits, rows;
    for_each_tile(x_.classes, p, count, [&](auto width, int64_t first, int64_t pixels) {
      constexpr int64_t kWidth = width;
      alignas(64) Label<T> label[kWidth];
      const Rows<T> x(x_, n, first, pixels, kWidth, logits);
      if constexpr (kKind != Kind::kHinge) target_.labels(n, first, pixels, kWidth, label);
      rows.resize(x_.classes * kWidth);
      if constexpr (kKind == Kind::kSoftmax) {
        Softmax<kWidth, T> softmax;
        softmax_of<kWidth>(x.of(0), x.stride(), x_.classes, rows.data(), &softmax);
        body(width, n, first, pixels, rows.data(), softmax.inverse, label);
      } else {
        for (int64_t c = 0; c < x_.classes; ++c)
          std::copy(x.of(c), x.of(c) + kWidth, rows.data() + c * kWidth);
        if constexpr (kKind == Kind::kHinge)
          hinge_labels<kWidth>(n, first, pixels, label, &rows[0]);
        body(width, n, first, pixels, rows.data(), static_cast<T*>(nullptr), label);
      }
    });
  }

  // 0 for a target above 1/2, the class of which the errors are; 1 for others; -1 where ignored. A
  // NaN goes on to x.
  template <int64_t kWidth>
  void hinge_labels(int64_t n, int64_t p, int64_t count, Label<T>* label, T* x) const {
    alignas(64) T t[kWidth];
    target_.template values<T>(n, 0, p, count, kWidth, t, label);
    for (int64_t j = 0; j < kWidth; ++j) {
      x[j] = t[j] == t[j] ? x[j] : t[j];
      label[j] = label[j] < 0 ? -1 : t[j] <= T(0.5) ? 1 : 0;
    }
  }

  // Counts of a group, (C, 2 K + 3); integers, so that the order of adding does not matter.
  std::vector<int64_t> count(int64_t first) const {
    const int64_t cells = 2 * binning_.size + 1, each = chunks_of(x_);
    std::vector<int64_t> result(x_.classes * cells);
    std::mutex mutex;
    torch::stable::parallel_for(0, o_.images(x_) * each, 1, [&](int64_t begin, int64_t end) {
      std::vector<uint32_t> found(x_.classes * cells);
      int64_t since = 0;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t p = i % each * kPixels;
        tiles(first + i / each, p, std::min(kPixels, x_.pixels - p),
              [&](auto width, int64_t, int64_t, int64_t, const T* rows, const T* inverse,
                  const Label<T>* label) {
                constexpr int64_t kWidth = width;
                alignas(64) Label<T> at[kWidth];
                for (int64_t c = 0; c < x_.classes; ++c) {
                  bin_row<kKind, kWidth, T>(rows + c * kWidth, inverse, label,
                                            static_cast<Label<T>>(c), binning_, at);
                  uint32_t* row = found.data() + c * cells;
                  for (int64_t j = 0; j < kWidth; ++j) ++row[at[j]];
                }
              });
        // Before a count could overflow; tiles may be wider than their pixels.
        if (i + 1 < end && ++since < int64_t(1) << 18) continue;
        const std::lock_guard<std::mutex> lock(mutex);
        for (size_t k = 0; k < found.size(); ++k) result[k] += found[k];
        std::fill(found.begin(), found.end(), 0), since = 0;
      }
    });
    return result;
  }

  // The value of a problem, and the slopes of its bins times `factor`, from the largest error down.
  double scan(const int64_t* counts, int64_t total, double factor, T* slopes) const {
    const int64_t size = binning_.size;
    const double n = static_cast<double>(total);
    double value = 0, f_above = 0, b_above = 0;
    for (int64_t k = size - 1; k >= 0; --k) {
      const double b = static_cast<double>(counts[k]), f = static_cast<double>(counts[size + k]);
      if (b + f == 0) continue;
      const LovaszSlopes of = lovasz_slopes(n, f, b, f_above, b_above);
      const double mass = f * of.positive + b * of.negative;
      if (mass != 0) value += mass * binning_.middle(kKind, static_cast<Label<T>>(k));
      if (slopes) {
        slopes[k] = static_cast<T>(factor * of.negative);
        slopes[size + k] = static_cast<T>(factor * of.positive);
      }
      f_above += f, b_above += b;
    }
    return value;
  }

  template <int64_t kWidth>
  void gradient_tile(const T* slopes, std::vector<T>& g, std::vector<T>& out, int64_t n, int64_t p,
                     int64_t count, T* rows, const T* inverse, const Label<T>* label) const {
    if constexpr (kKind == Kind::kSoftmax) g.resize(x_.classes * kWidth);
    alignas(64) T mean[kWidth] = {};
    T* to = gradient_->rows<T>(n, p, count, kWidth);
    const bool direct = to != nullptr;
    const int64_t stride = direct ? gradient_->row_stride() : kWidth;
    if (!direct) {
      out.resize(x_.classes * kWidth);
      to = out.data();
    }
    alignas(64) Label<T> at[kWidth];
    alignas(64) T slope[kWidth];
    for (int64_t c = 0; c < x_.classes; ++c) {
      const T* row = rows + c * kWidth;
      const Label<T> own = static_cast<Label<T>>(c);
      bin_row<kKind, kWidth, T>(row, inverse, label, own, binning_, at);
      look_up<kWidth, T>(slopes + (2 * binning_.size + 1) * c, at, slope);
      slope_row<kKind, kWidth, T>(row, inverse, label, own, slope,
                                  kKind == Kind::kSoftmax ? g.data() + c * kWidth : to + c * stride,
                                  mean);
    }
    for (int64_t c = 0; kKind == Kind::kSoftmax && c < x_.classes; ++c) {
      normalise<kWidth, T>(inverse, rows + c * kWidth);
      through_softmax<kWidth, T>(rows + c * kWidth, mean, label, g.data() + c * kWidth,
                                 to + c * stride);
    }
    if (!direct) gradient_->store(n, p, count, kWidth, out.data());
  }

  const LovaszOptions& o_;
  const Planes& x_;
  const PixelTarget& target_;
  Binning<T> binning_;
  const std::optional<Planes>& gradient_;
};

std::vector<double> run(const Tensor& logits, const Tensor& target, const LovaszOptions& o,
                        int64_t bins, const std::vector<double>& grad,
                        const std::optional<Tensor>& result) {
  const Planes x(logits);
  const PixelTarget t(logits, target, o.ignore_index, o.strict);
  std::optional<Planes> gradient;
  if (result) gradient.emplace(*result);
  std::vector<double> values(grad.size());
  dispatch_compute(logits, [&](auto sample) {
    using T = decltype(sample);
    const auto with = [&]<Kind kKind>(std::integral_constant<Kind, kKind>) {
      const HistogramKernel<kKind, T> kernel(o, x, t, bins, gradient);
      for (size_t g = 0; g < grad.size(); ++g)
        values[g] = kernel.group(static_cast<int64_t>(g) * o.images(x), grad[g]);
    };
    if (o.hinge()) return with(std::integral_constant<Kind, Kind::kHinge>{});
    if (o.softmax()) return with(std::integral_constant<Kind, Kind::kSoftmax>{});
    with(std::integral_constant<Kind, Kind::kProbabilities>{});
  });
  return values;
}

Tensor lovasz_histogram(Tensor logits, Tensor target, std::string kind, bool present,
                        std::optional<std::vector<int64_t>> classes, bool per_image,
                        std::optional<int64_t> ignore_index, bool strict, int64_t bins,
                        std::string reduction, bool widen) {
  const LovaszOptions o{kind, present, classes, per_image, ignore_index, strict};
  const auto values =
      run(logits, target, o, bins, spread({}, reduction, o.groups(logits)), std::nullopt);
  return reduced(values, {o.groups(logits)}, reduction, logits, widen);
}

std::tuple<Tensor, Tensor> lovasz_histogram_with_gradient(
    Tensor logits, Tensor target, std::string kind, bool present,
    std::optional<std::vector<int64_t>> classes, bool per_image,
    std::optional<int64_t> ignore_index, bool strict, int64_t bins, std::string reduction,
    bool widen) {
  const LovaszOptions o{kind, present, classes, per_image, ignore_index, strict};
  const Tensor gradient = torch::stable::empty_like(logits);
  const auto values =
      run(logits, target, o, bins, spread({}, reduction, o.groups(logits)), gradient);
  return {reduced(values, {o.groups(logits)}, reduction, logits, widen), gradient};
}

Tensor lovasz_histogram_backward(Tensor grad, Tensor logits, Tensor target, std::string kind,
                                 bool present, std::optional<std::vector<int64_t>> classes,
                                 bool per_image, std::optional<int64_t> ignore_index, bool strict,
                                 int64_t bins, std::string reduction, bool, int64_t) {
  const LovaszOptions o{kind, present, classes, per_image, ignore_index, strict};
  const Tensor gradient = torch::stable::empty_like(logits);
  run(logits, target, o, bins, spread(grad, reduction, o.groups(logits)), gradient);
  return gradient;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("lovasz_histogram", TORCH_BOX(&lovasz_histogram));
  m.impl("lovasz_histogram_with_gradient", TORCH_BOX(&lovasz_histogram_with_gradient));
  m.impl("lovasz_histogram_backward", TORCH_BOX(&lovasz_histogram_backward));
}

}  // namespace
}  // namespace fastloss::cpu
