// CPU kernels of `cross_entropy`: softmax cross entropy of every pixel, weighted and reduced.
// Definition and edge rules: fastloss/reference/cross_entropy.py.
#include "cpu/cross_entropy.h"

#include <tuple>

#include "cpu/cross_entropy_tiles.h"

namespace fastloss::cpu {
namespace {

template <typename T>
struct PixelLoss {
  std::vector<T> class_weight;
  T kept, spread;  // 1 - s and s / C
  T weight_sum;

  PixelLoss(const std::optional<Tensor>& weight, int64_t classes, double smoothing)
      : class_weight(classes, T(1)),
        kept(static_cast<T>(1 - smoothing)),
        spread(static_cast<T>(smoothing / static_cast<double>(classes))) {
    if (weight) {
      const Source<T> source(*weight);  // keeps the copy of a strided tensor
      const T* from = source.load(0, classes, class_weight.data());
      if (from != class_weight.data()) std::copy(from, from + classes, class_weight.data());
    }
    double sum = 0;
    for (T w : class_weight) sum += w;
    weight_sum = static_cast<T>(sum);
  }
  const T* smoothed() const { return spread != T(0) ? class_weight.data() : nullptr; }
};

// What there is for each pixel besides logits and target, and what is wanted.
struct Maps {
  std::optional<Planes> grad, weight;     // (N, P)
  double scale = 1;                       // times `grad`, is the gradient of the weighted losses
  bool sum = false;                       // of the weighted losses
  std::optional<Planes> losses;           // (N, P), weighted
  std::optional<Planes> gradient;         // (N, C, P)
  std::optional<Planes> weight_gradient;  // (N, P)
};

// loss = kept w_y nll + spread smoothed, 0 for ignored pixels
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void losses_of(const T* __restrict nll, const T* __restrict w_y,
                             const T* __restrict smoothed, const Label<T>* __restrict label, T kept,
                             T spread, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const T loss = kept * w_y[j] * nll[j] + spread * smoothed[j];
    out[j] = label[j] < 0 ? T(0) : loss;
  }
}

// m is the gradient of the loss.
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void gradient_of(const T* __restrict m, const T* __restrict w_y,
                               const T* __restrict inverse, const Label<T>* __restrict label,
                               T kept, T spread, T weight_sum,
                               TileGradient<kWidth, T>* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const T at_label = m[j] * (kept * w_y[j]), shift = m[j] * spread;
    out->at_label[j] = at_label;
    out->shift[j] = shift;
    out->factor[j] = (at_label + shift * weight_sum) * inverse[j];
    out->alive[j] = (label[j] >= 0) & (m[j] != T(0));
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
              const Maps& maps)
      : x_(x), target_(target), loss_(loss), maps_(maps) {}

  // Does what is wanted; sums of the losses of each chunk.
  std::vector<double> run() const {
    const bool rows =
        ClassTiles<T>::fit(x_) && (!maps_.gradient || ClassTiles<T>::fit(*maps_.gradient));
    return rows ? run<ClassTiles<T>>() : run<PixelTiles<T>>();
  }

 private:
  template <typename Tiles>
  std::vector<double> run() const {
    const int64_t size = Tiles::chunk(x_);
    std::vector<double> sums(x_.images * chunks_of(x_, size));
    const auto chunk = [&](int64_t i, int64_t n, int64_t p, int64_t count) {
      Tiles tiles(x_, maps_.gradient);
      int64_t read = 0;
      tiles.for_each(p, count, [&](auto width, int64_t first, int64_t pixels) {
        read += tile<width>(tiles, n, first, pixels, &sums[i]);
      });
      traffic.read += x_.bytes(read);
      if (maps_.gradient) traffic.written += maps_.gradient->bytes(count);
    };
    for_each_chunk(x_, chunk, size);
    return sums;
  }

  // Returns of how many pixels it read the logits.
  template <int64_t kWidth, typename Tiles>
  int64_t tile(Tiles& tiles, int64_t n, int64_t p, int64_t count, double* sum) const {
    alignas(64) T g[kWidth], m[kWidth];  // gradients of the weighted loss and of the loss
    load<kWidth>(maps_.grad, n, p, count, g);
    scaled(g, static_cast<T>(maps_.scale), m, kWidth);
    std::copy_n(m, kWidth, g);
    alignas(64) T weight[kWidth];
    load<kWidth>(maps_.weight, n, p, count, weight);
    multiply(weight, m, kWidth);
    const bool needs_loss = maps_.sum || maps_.losses || maps_.weight_gradient;
    if (!needs_loss && !nonzeros<kWidth>(m)) {  // the logits of these pixels do not matter
      tiles.template clear<kWidth>(n, p, count);
      return 0;
    }

    Softmax<kWidth, T> softmax;
    alignas(64) Label<T> label[kWidth];
    alignas(64) T w_y[kWidth];
    tiles.template softmax<kWidth>(n, p, count, &softmax);
    target_.labels(n, p, count, kWidth, label);
    pick<kWidth, T>(loss_.class_weight.data(), label, x_.classes, w_y);
    if (needs_loss) {
      alignas(64) T losses[kWidth];
      unweighted<kWidth>(tiles, count, softmax, label, w_y, losses);
      if (maps_.weight_gradient) {
        multiply(losses, g, kWidth);
        maps_.weight_gradient->store(n, p, count, kWidth, g);
      }
      multiply(weight, losses, kWidth);
      if (maps_.losses) maps_.losses->store(n, p, count, kWidth, losses);
      *sum += fastloss::cpu::sum(losses, count);
    }
    if (maps_.gradient) {
      TileGradient<kWidth, T> gradient;
      gradient_of<kWidth, T>(m, w_y, softmax.inverse, label, loss_.kept, loss_.spread,
                             loss_.weight_sum, &gradient);
      tiles.template write<kWidth>(n, p, count, label, loss_.smoothed(), gradient);
    }
    return count;
  }

  // Numbers of a map, 1 if there is none.
  template <int64_t kWidth>
  static void load(const std::optional<Planes>& map, int64_t n, int64_t p, int64_t count, T* out) {
    if (map)
      map->load(n, p, count, kWidth, out);
    else
      std::fill_n(out, kWidth, T(1));
  }

  template <int64_t kWidth, typename Tiles>
  void unweighted(const Tiles& tiles, int64_t count, const Softmax<kWidth, T>& softmax,
                  const Label<T>* label, const T* w_y, T* out) const {
    alignas(64) T nll[kWidth], smoothed[kWidth] = {};
    for (int64_t j = 0; j < kWidth; ++j) {
      const bool known = label[j] >= 0 && label[j] < x_.classes;
      nll[j] = known ? softmax.log_sum[j] + (softmax.peak[j] - tiles.logit(label[j], j)) : T(0);
    }
    if (const T* w = loss_.smoothed())
      tiles.template add_smoothed<kWidth>(count, softmax, w, smoothed);
    losses_of<kWidth, T>(nll, w_y, smoothed, label, loss_.kept, loss_.spread, out);
  }

  const Planes& x_;
  const PixelTarget& target_;
  const PixelLoss<T>& loss_;
  const Maps& maps_;
};

// The sum of w_y over the pixels that count: the divisor of "mean" if none is given.
template <typename T>
double total_weight(const Planes& x, const PixelTarget& target, const PixelLoss<T>& loss) {
  std::vector<double> sums(x.images * chunks_of(x));
  for_each_chunk(x, [&](int64_t i, int64_t n, int64_t p, int64_t count) {
    for (int64_t j = 0; j < count; j += kWide) {
      const int64_t pixels = std::min(kWide, count - j);
      alignas(64) Label<T> label[kWide];
      alignas(64) T w_y[kWide];
      target.labels(n, p + j, pixels, kWide, label);
      pick<kWide, T>(loss.class_weight.data(), label, x.classes, w_y);
      sums[i] += sum(w_y, pixels);
    }
  });
  double total = 0;
  for (double s : sums) total += s;
  return std::max(total, static_cast<double>(tiny<T>()));
}

// The arguments that all ops have.
struct Call {
  const Tensor &logits, &target;
  const std::optional<Tensor>&class_weight, &weight, &avg_factor;
  std::optional<int64_t> ignore_index;
  double smoothing;
  std::optional<double> divisor;
  const std::string& reduction;

  // Calls f(kernel's run for maps, the reduction) with numbers of the type to compute in.
  template <typename F>
  void with(bool strict, const F& f) const {
    const Planes x(logits);
    const PixelTarget t(logits, target, ignore_index, strict);
    const auto call = [&](auto sample) {
      using T = decltype(sample);
      const PixelLoss<T> loss(class_weight, x.classes, smoothing);
      Reduction r(weight, avg_factor, divisor, reduction, target.numel(), 1);
      if (reduction == "mean" && !avg_factor && !divisor) r.divisor = total_weight(x, t, loss);
      f(sample, r, [&](Maps maps) {
        if (weight) maps.weight.emplace(*weight);
        return PixelKernel<T>(x, t, loss, maps).run();
      });
    };
    logits.scalar_type() == ScalarType::Double ? call(double{}) : call(float{});
    t.check();
  }
};

// The loss, and if `gradient` is given that of the logits for an incoming gradient of 1.
Tensor loss_of(const Call& call, bool widen, const std::optional<Tensor>& gradient) {
  const ScalarType type = result_type(call.logits, widen);
  const bool none = call.reduction == "none";
  Tensor result = none ? torch::stable::new_empty(call.logits, call.target.sizes(), type)
                       : torch::stable::new_empty(call.logits, std::vector<int64_t>{}, type);
  call.with(true, [&](auto sample, const Reduction& r, const auto& run) {
    Maps maps;
    maps.scale = 1 / r.divisor;
    if (gradient) maps.gradient.emplace(*gradient);
    if (none) maps.losses.emplace(result);
    maps.sum = !none;
    const std::vector<double> sums = run(maps);
    if (!none) finish_sum<decltype(sample)>(sums, r, Sink(result));
  });
  return result;
}

std::tuple<Tensor, Tensor> gradients_of(const Call& call, const Tensor& grad, int64_t needs) {
  Tensor gradient = needs & 1 ? torch::stable::empty_like(call.logits)
                              : gradient_like(call.logits, call.logits, needs, 0);
  Tensor weight_gradient = gradient_like(call.logits, call.weight.value_or(call.logits), needs, 1);
  call.with(false, [&](auto sample, const Reduction& r, const auto& run) {
    Maps maps;
    if (r.none) {
      maps.grad.emplace(grad);
    } else {
      decltype(sample) value;
      value = *Source<decltype(sample)>(grad).load(0, 1, &value);
      maps.scale = static_cast<double>(value) / r.divisor;
    }
    if (needs & 1) maps.gradient.emplace(gradient);
    if (needs & 2) maps.weight_gradient.emplace(weight_gradient);
    run(maps);
  });
  return {gradient, weight_gradient};
}

Tensor cross_entropy(Tensor logits, Tensor target, std::optional<Tensor> class_weight,
                     std::optional<Tensor> weight, std::optional<Tensor> avg_factor,
                     std::optional<int64_t> ignore_index, double smoothing,
                     std::optional<double> divisor, std::string reduction, bool widen) {
  return loss_of({logits, target, class_weight, weight, avg_factor, ignore_index, smoothing,
                  divisor, reduction},
                 widen, {});
}

std::tuple<Tensor, Tensor> cross_entropy_backward(Tensor grad, Tensor logits, Tensor target,
                                                  std::optional<Tensor> class_weight,
                                                  std::optional<Tensor> weight,
                                                  std::optional<Tensor> avg_factor,
                                                  std::optional<int64_t> ignore_index,
                                                  double smoothing, std::optional<double> divisor,
                                                  std::string reduction, bool, int64_t needs) {
  return gradients_of({logits, target, class_weight, weight, avg_factor, ignore_index, smoothing,
                       divisor, reduction},
                      grad, needs);
}

std::tuple<Tensor, Tensor> cross_entropy_with_gradient(
    Tensor logits, Tensor target, std::optional<Tensor> class_weight, std::optional<Tensor> weight,
    std::optional<Tensor> avg_factor, std::optional<int64_t> ignore_index, double smoothing,
    std::optional<double> divisor, std::string reduction, bool widen) {
  Tensor gradient = torch::stable::empty_like(logits);
  const Tensor loss = loss_of({logits, target, class_weight, weight, avg_factor, ignore_index,
                               smoothing, divisor, reduction},
                              widen, gradient);
  return {loss, gradient};
}

}  // namespace

Tensor nll_backward(const Tensor& grad, const Tensor& logits, const Tensor& target,
                    std::optional<int64_t> ignore_index) {
  const std::optional<Tensor> absent;
  const std::string none = "none";
  return std::get<0>(
      gradients_of({logits, target, absent, absent, absent, ignore_index, 0, {}, none}, grad, 1));
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("cross_entropy", TORCH_BOX(&cross_entropy));
  m.impl("cross_entropy_backward", TORCH_BOX(&cross_entropy_backward));
  m.impl("cross_entropy_with_gradient", TORCH_BOX(&cross_entropy_with_gradient));
}

}  // namespace fastloss::cpu
