// CPU kernels of `ohem_loss`: the cross entropy of the hard pixels.
#include "cpu/pixel_tiles.h"

namespace fastloss::cpu {
namespace {

// The pixels that are kept: p <= t, or p < t if that is strict.
template <typename T>
struct Choice {
  T t;
  bool strict;

  FASTLOSS_FN bool operator()(T p) const { return (p < t) | (!strict & (p == t)); }
};

// Adds of the pixels kept the sum of w nll, and that of w.
template <typename T>
FASTLOSS_SIMD void sum_kept(const T* __restrict p, const T* __restrict nll, const T* __restrict w,
                            Choice<T> choice, int64_t count, double* __restrict sums) {
  double loss = 0, weight = 0;
#pragma omp simd reduction(+ : loss, weight)
  for (int64_t j = 0; j < count; ++j) {
    const bool kept = choice(p[j]);
    const double own = static_cast<double>(w[j]), product = own * static_cast<double>(nll[j]);
    loss += kept ? product : 0;
    weight += kept ? own : 0;
  }
  sums[0] += loss, sums[1] += weight;
}

// out = scale w for the pixels kept, else 0
template <typename T>
FASTLOSS_SIMD void scale_kept(const T* __restrict p, const T* __restrict w, Choice<T> choice,
                              double scale, int64_t count, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) {
    const T value = static_cast<T>(scale * static_cast<double>(w[j]));
    out[j] = choice(p[j]) ? value : T(0);
  }
}

template <typename T>
class LossKernel {
 public:
  LossKernel(const Tensor& pixels, const Tensor& target, const std::optional<Tensor>& class_weight,
             const Tensor& threshold, const std::string& rule)
      : pixels_(torch::stable::contiguous(pixels)),
        plane_(torch::stable::select(pixels_, 0, 0)),
        // `ohem_pixels` has refused labels out of range.
        target_(class_weight ? class_weight->size(0) : 1, target, {}, false),
        count_(plane_.images * plane_.pixels),
        p_(static_cast<const T*>(pixels_.const_data_ptr())),
        is_mean_(rule == "gdl"),
        choice_{*static_cast<const T*>(threshold.const_data_ptr()), !is_mean_} {
    if (class_weight) {
      weights_.resize(class_weight->size(0));
      const Source<T> source(*class_weight);  // keeps the copy of a strided tensor
      const int64_t classes = static_cast<int64_t>(weights_.size());
      const T* from = source.load(0, classes, weights_.data());
      if (from != weights_.data()) std::copy_n(from, classes, weights_.data());
    }
  }

  double loss() {
    add_up();
    return sums_[0] / divisor();
  }

  // Gradients to the probabilities, which are 0, and to the losses.
  Tensor gradient(double grad) {
    if (is_mean_) add_up();
    Tensor result = torch::stable::new_empty(pixels_, pixels_.sizes());
    T* to_p = static_cast<T*>(result.mutable_data_ptr());
    const double scale = grad / divisor();
    for_each_part([&](int64_t, int64_t start, int64_t count, const T* w) {
      std::fill_n(to_p + start, count, T(0));
      scale_kept(p_ + start, w, choice_, scale, count, to_p + count_ + start);
    });
    return result;
  }

 private:
  double divisor() const {
    if (!is_mean_) return static_cast<double>(std::max<int64_t>(count_, 1));
    return sums_[1] == 0 ? 1 : sums_[1];
  }

  void add_up() {
    std::vector<double> partial(2 * plane_.images * chunks_of(plane_));
    for_each_part([&](int64_t chunk, int64_t start, int64_t count, const T* w) {
      sum_kept(p_ + start, p_ + count_ + start, w, choice_, count, partial.data() + 2 * chunk);
    });
    for (size_t i = 0; i < partial.size(); ++i) sums_[i % 2] += partial[i];
  }

  // Calls body(chunk, first pixel, pixels, their class weights) for all pixels.
  template <typename Body>
  void for_each_part(const Body& body) const {
    for_each_chunk(plane_, [&](int64_t chunk, int64_t n, int64_t p, int64_t pixels) {
      Label<T> labels[kWide];
      T w[kWide];
      std::fill_n(w, kWide, T(1));
      for (int64_t first = p; first < p + pixels; first += kWide) {
        const int64_t count = std::min(kWide, p + pixels - first);
        if (!weights_.empty()) {
          target_.labels(n, first, count, kWide, labels);
          pick<kWide>(weights_.data(), labels, static_cast<int64_t>(weights_.size()), w);
        }
        body(chunk, n * plane_.pixels + first, count, w);
      }
    });
  }

  const Tensor pixels_;       // (2, N, P)
  const Planes plane_;        // (N, P), the probabilities
  const PixelTarget target_;  // (N, P)
  const int64_t count_;
  const T* p_;  // probabilities, then losses
  const bool is_mean_;
  const Choice<T> choice_;
  std::vector<T> weights_;
  double sums_[2] = {0, 0};
};

Tensor ohem_loss(Tensor pixels, Tensor target, std::optional<Tensor> class_weight, Tensor threshold,
                 std::string rule, ScalarType dtype) {
  Tensor result = torch::stable::new_empty(pixels, std::vector<int64_t>{}, dtype);
  const auto with = [&](auto sample) {
    using T = decltype(sample);
    const double loss = LossKernel<T>(pixels, target, class_weight, threshold, rule).loss();
    Sink(result).store<double>(0, 1, &loss);
  };
  pixels.scalar_type() == ScalarType::Double ? with(double{}) : with(float{});
  return result;
}

Tensor ohem_loss_backward(Tensor grad, Tensor pixels, Tensor target,
                          std::optional<Tensor> class_weight, Tensor threshold, std::string rule,
                          ScalarType, int64_t needs) {
  if (!(needs & 1)) return torch::stable::new_empty(pixels, std::vector<int64_t>{0});
  double buffer;
  const Source<double> source(grad);
  const double incoming = *source.load(0, 1, &buffer);
  return pixels.scalar_type() == ScalarType::Double
             ? LossKernel<double>(pixels, target, class_weight, threshold, rule).gradient(incoming)
             : LossKernel<float>(pixels, target, class_weight, threshold, rule).gradient(incoming);
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("ohem_loss", TORCH_BOX(&ohem_loss));
  m.impl("ohem_loss_backward", TORCH_BOX(&ohem_loss_backward));
}

}  // namespace
}  // namespace fastloss::cpu
