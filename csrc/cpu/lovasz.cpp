// CPU kernels of `lovasz`. The softmax goes by classes: the errors of one are made from the logits,
// put in order, and the slopes written where the gradient of that class will be, which a last pass
// turns into the gradient of the logits.
#include "cpu/lovasz_hinge.h"

namespace fastloss::cpu {
namespace {

// The probability of a pixel.
template <typename T>
FASTLOSS_FN T probability_of(T x, T peak, T inverse) {
  return exp_nonpositive(x - peak) * inverse;
}

// What every pixel keeps of its softmax, and its label; (N, P) each.
template <typename T>
struct PixelSoftmax {
  Workspace<T> peak, inverse;
  Workspace<Label<T>> label;
};

// The words of a class; ignored pixels are left out. Positives make the range: what comes after the
// last of them changes nothing.
template <bool kSoftmax, typename T>
FASTLOSS_SIMD Range<T> error_row(const T* __restrict x, const T* __restrict peak,
                                 const T* __restrict inverse, const Label<T>* __restrict label,
                                 Label<T> c, int64_t count, Bits<T>* __restrict words) {
  using Signed = std::make_signed_t<Bits<T>>;
  constexpr Signed kNone = std::numeric_limits<Signed>::max();
  Signed least = kNone, most = 0;
#pragma omp simd reduction(min : least) reduction(max : most)
  for (int64_t j = 0; j < count; ++j) {
    const T p = kSoftmax ? probability_of(x[j], peak[j], inverse[j]) : x[j];
    const bool positive = label[j] == c;
    const Bits<T> all = error_word(abs_((positive ? T(1) : T(0)) - p), positive);
    const Bits<T> word = label[j] >= 0 ? all : Bits<T>(0);
    words[j] = word;
    const Signed value = static_cast<Signed>(word >> 1);
    least = positive & (value < least) ? value : least;
    most = value > most ? value : most;
  }
  return {static_cast<Bits<T>>(least), static_cast<Bits<T>>(most)};
}

// From the slopes d L / d e of a row those of its p: slope sign(p - t). Adds to <p, g_p>.
template <bool kSoftmax, int64_t kWidth, typename T>
FASTLOSS_SIMD void signed_slopes(const T* __restrict x, const T* __restrict peak,
                                 const T* __restrict inverse, const Label<T>* __restrict label,
                                 Label<T> c, const T* __restrict slope, T* __restrict p,
                                 T* __restrict g, T* __restrict mean) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const T value = kSoftmax ? probability_of(x[j], peak[j], inverse[j]) : x[j];
    const T difference = value - (label[j] == c ? T(1) : T(0));
    // 0 for no error, and for NaN.
    g[j] = difference > T(0) ? slope[j] : difference < T(0) ? -slope[j] : T(0);
    if constexpr (kSoftmax) {
      p[j] = value;
      mean[j] += value * g[j];
    }
  }
}

// Copies a contiguous tensor of T to one of any dtype and strides.
template <typename T>
void copy_planes(const Planes& from, const Planes& to) {
  for_each_chunk(from, [&](int64_t, int64_t n, int64_t p, int64_t count) {
    std::vector<T> buffer(from.classes * count);
    from.load(n, p, count, count, buffer.data());
    to.store(n, p, count, count, buffer.data());
  });
}

template <typename T>
class SoftmaxKernel {
 public:
  SoftmaxKernel(const LovaszOptions& o, const Planes& x, const PixelTarget& target)
      : o_(o), x_(x), target_(target), counts_(o, x), size_(x.images * x.pixels) {
    const int64_t room = size_ + kWide;  // tiles read on beyond the last pixel
    if (o.softmax()) pixels_.peak = Workspace<T>(room), pixels_.inverse = Workspace<T>(room);
    pixels_.label = Workspace<Label<T>>(room);
    for_each_chunk(x, [&](int64_t, int64_t n, int64_t p, int64_t count) { prepare(n, p, count); });
    target.check();
  }

  // The values of all groups; with `slopes`, a slope for every pixel and class. `grad` are the
  // gradients of the values.
  std::vector<double> values(const std::vector<double>& grad, const std::optional<Planes>& slopes) {
    const bool narrow = x_.images * x_.classes * x_.pixels < (int64_t(1) << 30);
    return narrow ? values_with<uint32_t>(grad, slopes) : values_with<uint64_t>(grad, slopes);
  }

  // Slopes to gradients of the logits; they may lie in the same place.
  void gradients(const Planes& slopes, const Planes& gradient) const {
    for_each_chunk(x_, [&](int64_t, int64_t n, int64_t p, int64_t count) {
      gradient_chunk(slopes, gradient, n, p, count);
    });
  }

 private:
  void prepare(int64_t n, int64_t p, int64_t count) {
    std::vector<T> logits, exponentials;
    Label<T>* label = pixels_.label.get() + n * x_.pixels;
    for_each_tile(x_.classes, p, count, [&](auto width, int64_t first, int64_t pixels) {
      constexpr int64_t kWidth = width;
      alignas(64) Label<T> found[kWidth];
      target_.labels(n, first, pixels, kWidth, found);
      std::copy(found, found + pixels, label + first);
      if (!o_.softmax()) return;
      exponentials.resize(x_.classes * kWidth);
      const Rows<T> x(x_, n, first, pixels, kWidth, logits);
      Softmax<kWidth, T> softmax;
      softmax_of<kWidth>(x.of(0), x.stride(), x_.classes, exponentials.data(), &softmax);
      const int64_t at = n * x_.pixels + first;
      std::copy(softmax.peak, softmax.peak + pixels, pixels_.peak.get() + at);
      std::copy(softmax.inverse, softmax.inverse + pixels, pixels_.inverse.get() + at);
    });
    counts_.add(n, label + p, count);
  }

  template <typename Index>
  std::vector<double> values_with(const std::vector<double>& grad,
                                  const std::optional<Planes>& slopes) const {
    const int64_t groups = o_.groups(x_), problems = groups * x_.classes;
    const int64_t images = o_.images(x_), count = images * x_.pixels;
    std::vector<double> factors, parts(problems), result(groups);
    std::vector<int64_t> totals;
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t total : counts_.of(g)) totals.push_back(total);
      for (double factor : class_factors(o_, counts_.of(g))) factors.push_back(factor);
    }
    torch::stable::parallel_for(0, problems, 1, [&](int64_t first, int64_t last) {
      Order<T, Index> order(count, x_.pixels, slopes ? slopes->image_stride() : x_.pixels);
      for (int64_t i = first; i < last; ++i) {
        const int64_t group = i / x_.classes, c = i % x_.classes, n = group * images;
        T* to = slopes ? slopes->plane<T>(n, c) : nullptr;
        for (int64_t k = 0; to && k < images; ++k)
          std::fill_n(to + k * slopes->image_stride(), x_.pixels, T(0));
        if (factors[i] == 0) continue;
        const double slope = factors[i] * grad[group];
        parts[i] = factors[i] * problem(order, n, c, totals[i], slope, to);
      }
    });
    for (int64_t i = 0; i < problems; ++i) result[i / x_.classes] += parts[i];
    return result;
  }

  // The value of class c in the images from n on, and its slopes times `factor`.
  template <typename Index>
  double problem(Order<T, Index>& order, int64_t n, int64_t c, int64_t total, double factor,
                 T* slopes) const {
    Range<T> range;
    for_each_row(o_, x_, n, [&](int64_t i, int64_t image, int64_t p, int64_t size) {
      range.include(errors(image, c, p, size, order.words() + i));
    });
    return solve(order, range, static_cast<double>(total),
                 [&](int64_t pixel, T, bool, double jump) {
                   if (slopes) slopes[pixel] = static_cast<T>(factor * jump);
                 });
  }

  Range<T> errors(int64_t n, int64_t c, int64_t p, int64_t count, Bits<T>* words) const {
    alignas(64) T buffer[kBlock];
    const T* x = x_.row<T>(n, c, p, count, buffer);
    const int64_t at = n * x_.pixels + p;
    const Label<T>*label = pixels_.label.get() + at, own = static_cast<Label<T>>(c);
    if (!o_.softmax()) return error_row<false, T>(x, nullptr, nullptr, label, own, count, words);
    const T *peak = pixels_.peak.get() + at, *inverse = pixels_.inverse.get() + at;
    return error_row<true, T>(x, peak, inverse, label, own, count, words);
  }

  void gradient_chunk(const Planes& slopes, const Planes& gradient, int64_t n, int64_t p,
                      int64_t count) const {
    std::vector<T> logits, loaded, probabilities, signed_(x_.classes * kWide), out;
    if (o_.softmax()) probabilities.resize(x_.classes * kWide);
    for_each_tile(x_.classes, p, count, [&](auto width, int64_t first, int64_t pixels) {
      constexpr int64_t kWidth = width;
      const Rows<T> x(x_, n, first, pixels, kWidth, logits);
      const Rows<T> slope(slopes, n, first, pixels, kWidth, loaded);
      T* to = gradient.rows<T>(n, first, pixels, kWidth);
      const bool direct = to != nullptr;
      const int64_t stride = direct ? gradient.row_stride() : kWidth;
      if (!direct) {
        out.resize(x_.classes * kWidth);
        to = out.data();
      }
      tile<kWidth>(x, slope, n * x_.pixels + first, probabilities.data(), signed_.data(), to,
                   stride);
      if (!direct) gradient.store(n, first, pixels, kWidth, out.data());
    });
  }

  template <int64_t kWidth>
  void tile(const Rows<T>& x, const Rows<T>& slope, int64_t at, T* p, T* g, T* out,
            int64_t stride) const {
    alignas(64) T mean[kWidth] = {};
    const Label<T>* label = pixels_.label.get() + at;
    for (int64_t c = 0; c < x_.classes; ++c) {
      if (o_.softmax())
        signed_slopes<true, kWidth, T>(x.of(c), pixels_.peak.get() + at, pixels_.inverse.get() + at,
                                       label, static_cast<Label<T>>(c), slope.of(c), p + c * kWidth,
                                       g + c * kWidth, mean);
      else
        signed_slopes<false, kWidth, T>(x.of(c), nullptr, nullptr, label, static_cast<Label<T>>(c),
                                        slope.of(c), nullptr, g + c * kWidth, nullptr);
    }
    for (int64_t c = 0; c < x_.classes; ++c) {  // `out` may be where the slopes were
      T *row = g + c * kWidth, *to = out + c * stride;
      if (o_.softmax())
        through_softmax<kWidth, T>(p + c * kWidth, mean, label, row, to);
      else
        std::copy(row, row + kWidth, to);
    }
  }

  const LovaszOptions& o_;
  const Planes& x_;
  const PixelTarget& target_;
  LabelCounts counts_;
  PixelSoftmax<T> pixels_;
  int64_t size_;
};

// Values of the groups, and the gradients asked for; `grad` are the gradients of the values.
template <typename T>
std::vector<double> run(const Tensor& logits, const Tensor& target, const LovaszOptions& o,
                        const std::vector<double>& grad, const std::optional<Tensor>& g_logits,
                        const std::optional<Tensor>& g_target) {
  const Planes x(logits);
  const PixelTarget t(logits, target, o.ignore_index, o.strict);
  // Slopes of half precision would lose pixels, and those of channels that come last are far apart.
  std::optional<Tensor> slopes;
  if (g_logits)
    slopes = g_logits->scalar_type() == scalar_type_of<T>() && g_logits->is_contiguous()
                 ? *g_logits
                 : torch::stable::new_empty(logits, logits.sizes(), scalar_type_of<T>());
  const auto planes = [](const std::optional<Tensor>& tensor) {
    return tensor ? std::optional<Planes>(*tensor) : std::nullopt;
  };
  if (o.hinge()) {
    HingeKernel<T> kernel(o, x, t, planes(slopes), planes(g_target));
    std::vector<double> values = kernel.values(grad);
    if (slopes && slopes->const_data_ptr() != g_logits->const_data_ptr())
      copy_planes<T>(Planes(*slopes), Planes(*g_logits));
    return values;
  }
  SoftmaxKernel<T> kernel(o, x, t);
  std::vector<double> values = kernel.values(grad, planes(slopes));
  if (slopes) kernel.gradients(Planes(*slopes), Planes(*g_logits));
  return values;
}

Tensor lovasz(Tensor logits, Tensor target, std::string kind, bool present,
              std::optional<std::vector<int64_t>> classes, bool per_image,
              std::optional<int64_t> ignore_index, bool strict, std::string reduction, bool widen) {
  const LovaszOptions o{kind, present, classes, per_image, ignore_index, strict};
  const auto grad = spread({}, reduction, o.groups(logits));
  const auto values = dispatch_compute(
      logits, [&](auto sample) { return run<decltype(sample)>(logits, target, o, grad, {}, {}); });
  return reduced(values, {o.groups(logits)}, reduction, logits, widen);
}

std::tuple<Tensor, Tensor> lovasz_with_gradient(Tensor logits, Tensor target, std::string kind,
                                                bool present,
                                                std::optional<std::vector<int64_t>> classes,
                                                bool per_image, std::optional<int64_t> ignore_index,
                                                bool strict, std::string reduction, bool widen) {
  const LovaszOptions o{kind, present, classes, per_image, ignore_index, strict};
  const auto grad = spread({}, reduction, o.groups(logits));
  const Tensor gradient = torch::stable::empty_like(logits);
  const auto values = dispatch_compute(logits, [&](auto sample) {
    return run<decltype(sample)>(logits, target, o, grad, gradient, {});
  });
  return {reduced(values, {o.groups(logits)}, reduction, logits, widen), gradient};
}

std::tuple<Tensor, Tensor> lovasz_backward(Tensor grad, Tensor logits, Tensor target,
                                           std::string kind, bool present,
                                           std::optional<std::vector<int64_t>> classes,
                                           bool per_image, std::optional<int64_t> ignore_index,
                                           bool strict, std::string reduction, bool,
                                           int64_t needs) {
  const LovaszOptions o{kind, present, classes, per_image, ignore_index, strict};
  const bool of_target = (needs & 2) && o.hinge() && is_float(target.scalar_type());
  const std::vector<int64_t> none{0};
  std::optional<Tensor> g_logits, g_target;
  if (needs & 1) g_logits = torch::stable::empty_like(logits);
  if (of_target) g_target = torch::stable::new_empty(target, target.sizes());
  const auto incoming = spread(grad, reduction, o.groups(logits));
  dispatch_compute(logits, [&](auto sample) {
    return run<decltype(sample)>(logits, target, o, incoming, g_logits, g_target);
  });
  return {g_logits ? *g_logits : torch::stable::new_empty(logits, none),
          g_target ? *g_target : torch::stable::new_empty(logits, none)};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("lovasz", TORCH_BOX(&lovasz));
  m.impl("lovasz_with_gradient", TORCH_BOX(&lovasz_with_gradient));
  m.impl("lovasz_backward", TORCH_BOX(&lovasz_backward));
}

}  // namespace
}  // namespace fastloss::cpu
