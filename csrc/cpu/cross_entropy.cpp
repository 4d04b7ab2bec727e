// CPU kernels of `cross_entropy`: softmax cross entropy (or focal loss) of every pixel.
#include "cpu/cross_entropy.h"

#include "cpu/pixel_tiles.h"

namespace fastloss::cpu {
namespace {

template <typename T>
struct PixelLoss {
  std::vector<T> class_weight;  // with a 0 for the background
  T smoothing, spread;          // s and s / C
  T weight_sum;
  FocalFactor<T> factor;

  PixelLoss(const std::optional<Tensor>& weight, int64_t classes, double smoothing, double gamma,
            double threshold)
      : class_weight(classes, T(1)),
        smoothing(static_cast<T>(smoothing)),
        spread(static_cast<T>(smoothing / static_cast<double>(classes))),
        factor(gamma, threshold) {
    if (weight) {
      const Source<T> source(*weight);  // keeps the copy of a strided tensor
      const T* from = source.load(0, classes, class_weight.data());
      if (from != class_weight.data()) std::copy(from, from + classes, class_weight.data());
    }
    double sum = 0;
    for (T w : class_weight) sum += w;
    weight_sum = static_cast<T>(sum);
    class_weight.push_back(T(0));
  }
};

// out = w (1 - s) f(nll) nll, or its derivative by nll.
template <typename Power, bool kSlope, int64_t kWidth, typename T>
FASTLOSS_SIMD void label_part(const T* __restrict nll, const T* __restrict weight, T kept,
                              FocalFactor<T> f, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const auto term = focal_term<Power>(nll[j], one_minus_exp(nll[j]), exp_nonpositive(-nll[j]), f);
    out[j] = weight[j] * kept * (kSlope ? term.loss_slope : term.loss);
  }
}

// out += w (ln sum exp(x) - x)
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void add_smoothing(const T* __restrict x, const T* __restrict log_sum, T w,
                                 T* __restrict out) {
  for (int64_t j = 0; j < kWidth; ++j) out[j] += w * (log_sum[j] - x[j]);
}

// out = g (p factor - shift), 0 where g is 0
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void gradient_row(const T* __restrict exponentials, const T* __restrict inverse,
                                const T* __restrict factor, const T* __restrict g,
                                const Label<T>* __restrict label, T shift, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const T value = g[j] * (exponentials[j] * inverse[j] * factor[j] - shift);
    out[j] = (label[j] >= 0) & (g[j] != T(0)) ? value : T(0);
  }
}

template <int64_t kWidth, typename T>
FASTLOSS_SIMD int64_t nonzeros(const T* x) {
  int64_t count = 0;
  for (int64_t j = 0; j < kWidth; ++j) count += x[j] != T(0);
  return count;
}

template <typename T>
class PixelKernel {
 public:
  PixelKernel(const Planes& x, const PixelTarget& target, const PixelLoss<T>& loss,
              const Planes& map, const std::optional<Planes>& gradient)
      : x_(x), target_(target), loss_(loss), map_(map), gradient_(gradient) {}

  // The losses of a chunk into the map, or from the map, then the gradient of the loss, the
  // gradient of the logits.
  void chunk(int64_t n, int64_t p, int64_t count) const {
    const int64_t size = x_.classes * (x_.classes <= kManyClasses ? kWide : kNarrow);
    std::vector<T> logits, exponentials(size), out;
    int64_t read = 0;
    for_each_tile(x_.classes, p, count, [&](auto width, int64_t first, int64_t pixels) {
      constexpr int64_t kWidth = width;
      alignas(64) T map[kWidth];
      if (gradient_) {
        map_.load(n, first, pixels, kWidth, map);
        if (!nonzeros<kWidth>(map)) return clear<kWidth>(n, first, pixels, out);
      }
      read += pixels;
      const Rows<T> x(x_, n, first, pixels, kWidth, logits);
      if (!gradient_) {
        values<kWidth>(n, first, pixels, x.of(0), x.stride(), exponentials.data(), map);
        map_.store(n, first, pixels, kWidth, map);
        return;
      }
      T* g = gradient_->rows<T>(n, first, pixels, kWidth);
      const bool direct = g != nullptr;
      if (!direct) {
        out.resize(size);
        g = out.data();
      }
      slopes<kWidth>(n, first, pixels, x.of(0), x.stride(), exponentials.data(), map, g,
                     direct ? gradient_->row_stride() : kWidth);
      if (!direct) gradient_->store(n, first, pixels, kWidth, out.data());
    });
    traffic.read += x_.bytes(read);
    if (gradient_) traffic.written += gradient_->bytes(count);
  }

 private:
  // A tile whose map is 0 has no gradient; its logits are not read.
  template <int64_t kWidth>
  void clear(int64_t n, int64_t p, int64_t count, std::vector<T>& buffer) const {
    if (T* g = gradient_->rows<T>(n, p, count, kWidth)) {
      for (int64_t c = 0; c < x_.classes; ++c)
        std::fill_n(g + c * gradient_->row_stride(), kWidth, T(0));
      return;
    }
    buffer.assign(x_.classes * kWidth, T(0));
    gradient_->store(n, p, count, kWidth, buffer.data());
  }

  // What both directions begin with; `at_label` is the label's part of the loss or its slope.
  template <bool kSlope, int64_t kWidth>
  void prepare(int64_t n, int64_t p, int64_t count, const T* x, int64_t stride, T* exponentials,
               Softmax<kWidth, T>& softmax, Label<T>* label, T* at_label) const {
    alignas(64) T nll[kWidth], of_label[kWidth], weight[kWidth];
    target_.labels(n, p, count, kWidth, label);
    softmax_of<kWidth>(x, stride, x_.classes, exponentials, &softmax);
    at_labels<kWidth, T>(x, stride, x_.classes, exponentials, label, softmax, nll, of_label);
    for (int64_t j = 0; j < kWidth; ++j)
      weight[j] = loss_.class_weight[label[j] < 0 ? x_.classes : label[j]];
    const auto run = loss_.factor.is_square() ? &label_part<Square, kSlope, kWidth, T>
                                              : &label_part<General, kSlope, kWidth, T>;
    run(nll, weight, T(1) - loss_.smoothing, loss_.factor, at_label);
  }

  template <int64_t kWidth>
  void values(int64_t n, int64_t p, int64_t count, const T* x, int64_t stride, T* exponentials,
              T* out) const {
    Softmax<kWidth, T> softmax;
    alignas(64) Label<T> label[kWidth];
    prepare<false, kWidth>(n, p, count, x, stride, exponentials, softmax, label, out);
    if (loss_.smoothing != T(0))
      for (int64_t c = 0; c < x_.classes; ++c)
        add_smoothing<kWidth, T>(x + c * stride, softmax.log_sum,
                                 loss_.spread * loss_.class_weight[c], out);
    for (int64_t j = 0; j < kWidth; ++j) out[j] = label[j] < 0 ? T(0) : out[j];
  }

  template <int64_t kWidth>
  void slopes(int64_t n, int64_t p, int64_t count, const T* x, int64_t stride, T* exponentials,
              const T* map, T* g, int64_t g_stride) const {
    Softmax<kWidth, T> softmax;
    alignas(64) Label<T> label[kWidth];
    alignas(64) T slope[kWidth], factor[kWidth];
    prepare<true, kWidth>(n, p, count, x, stride, exponentials, softmax, label, slope);
    for (int64_t j = 0; j < kWidth; ++j) factor[j] = slope[j] + loss_.spread * loss_.weight_sum;
    for (int64_t c = 0; c < x_.classes; ++c)
      gradient_row<kWidth, T>(exponentials + c * kWidth, softmax.inverse, factor, map, label,
                              loss_.spread * loss_.class_weight[c], g + c * g_stride);
    for (int64_t j = 0; j < kWidth; ++j)
      if (label[j] >= 0 && label[j] < x_.classes && map[j] != T(0))
        g[label[j] * g_stride + j] -= map[j] * slope[j];
  }

  const Planes& x_;
  const PixelTarget& target_;
  const PixelLoss<T>& loss_;
  const Planes& map_;
  const std::optional<Planes>& gradient_;
};

void run(const Tensor& logits, const Tensor& target, const std::optional<Tensor>& class_weight,
         std::optional<int64_t> ignore_index, double smoothing, double gamma,
         std::optional<double> threshold, const Planes& map,
         const std::optional<Planes>& gradient) {
  const Planes x(logits);
  const PixelTarget t(logits, target, ignore_index, !gradient);
  const auto with = [&](auto sample) {
    using T = decltype(sample);
    const PixelLoss<T> loss(class_weight, x.classes, smoothing, gamma, threshold.value_or(-1));
    const PixelKernel<T> kernel(x, t, loss, map, gradient);
    for_each_chunk(
        x, [&](int64_t, int64_t n, int64_t p, int64_t count) { kernel.chunk(n, p, count); });
  };
  logits.scalar_type() == ScalarType::Double ? with(double{}) : with(float{});
  t.check();
}

Tensor cross_entropy(Tensor logits, Tensor target, std::optional<Tensor> class_weight,
                     std::optional<int64_t> ignore_index, double smoothing, double gamma,
                     std::optional<double> threshold, bool widen) {
  Tensor result = torch::stable::new_empty(logits, target.sizes(), result_type(logits, widen));
  run(logits, target, class_weight, ignore_index, smoothing, gamma, threshold, Planes(result), {});
  return result;
}

Tensor cross_entropy_backward(Tensor grad, Tensor logits, Tensor target,
                              std::optional<Tensor> class_weight,
                              std::optional<int64_t> ignore_index, double smoothing, double gamma,
                              std::optional<double> threshold, bool, int64_t) {
  Tensor result = torch::stable::empty_like(logits);
  run(logits, target, class_weight, ignore_index, smoothing, gamma, threshold, Planes(grad),
      Planes(result));
  return result;
}

}  // namespace

Tensor nll_backward(const Tensor& grad, const Tensor& logits, const Tensor& target,
                    std::optional<int64_t> ignore_index) {
  Tensor result = torch::stable::empty_like(logits);
  run(logits, target, {}, ignore_index, 0, 0, {}, Planes(grad), Planes(result));
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("cross_entropy", TORCH_BOX(&cross_entropy));
  m.impl("cross_entropy_backward", TORCH_BOX(&cross_entropy_backward));
}

}  // namespace fastloss::cpu
