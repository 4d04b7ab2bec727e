// CPU kernels of `ohem_pixels`: probability and cross entropy of every pixel's class.
#include "cpu/cross_entropy.h"
#include "cpu/pixel_tiles.h"

namespace fastloss::cpu {
namespace {

// The marks of fastloss/reference/ohem_pixels.py.
constexpr int kIgnored = 2, kHardest = -1;

template <int64_t kWidth, typename T>
FASTLOSS_SIMD void mark(const T* __restrict p, const Label<T>* __restrict label, Label<T> classes,
                        T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const T kept = p[j] < 2 * tiny<T>() ? T(0) : p[j];
    const T known = (label[j] < classes) & (kept == kept) ? kept : T(kHardest);
    out[j] = label[j] < 0 ? T(kIgnored) : known;
  }
}

template <typename T>
class PixelsKernel {
 public:
  PixelsKernel(const Planes& x, const PixelTarget& target, T* out)
      : x_(x), target_(target), probability_(out), nll_(out + x.images * x.pixels) {}

  void chunk(int64_t n, int64_t p, int64_t count) const {
    const int64_t size = x_.classes * (x_.classes <= kManyClasses ? kWide : kNarrow);
    std::vector<T> logits, exponentials(size);
    for_each_tile(x_.classes, p, count, [&](auto width, int64_t first, int64_t pixels) {
      constexpr int64_t kWidth = width;
      const Rows<T> x(x_, n, first, pixels, kWidth, logits);
      Softmax<kWidth, T> softmax;
      alignas(64) Label<T> label[kWidth];
      alignas(64) T nll[kWidth], probability[kWidth], marked[kWidth];
      target_.labels(n, first, pixels, kWidth, label);
      softmax_of<kWidth>(x.of(0), x.stride(), x_.classes, exponentials.data(), &softmax);
      at_labels<kWidth, T>(x.of(0), x.stride(), x_.classes, exponentials.data(), label, softmax,
                           nll, probability);
      mark<kWidth, T>(probability, label, static_cast<Label<T>>(x_.classes), marked);
      std::copy_n(marked, pixels, probability_ + n * x_.pixels + first);
      std::copy_n(nll, pixels, nll_ + n * x_.pixels + first);
    });
    traffic.read += x_.bytes(count);
  }

 private:
  const Planes& x_;
  const PixelTarget& target_;
  T *probability_, *nll_;  // (N, P)
};

Tensor ohem_pixels(Tensor logits, Tensor target, std::optional<int64_t> ignore_index) {
  const Planes x(logits);
  const PixelTarget t(logits, target, ignore_index, true);
  const std::vector<int64_t> sizes{2, x.images, x.pixels};
  Tensor result = torch::stable::new_empty(logits, sizes, result_type(logits, true));
  const auto with = [&](auto sample) {
    using T = decltype(sample);
    const PixelsKernel<T> kernel(x, t, static_cast<T*>(result.mutable_data_ptr()));
    for_each_chunk(
        x, [&](int64_t, int64_t n, int64_t p, int64_t count) { kernel.chunk(n, p, count); });
  };
  logits.scalar_type() == ScalarType::Double ? with(double{}) : with(float{});
  t.check();
  return result;
}

Tensor ohem_pixels_backward(Tensor grad, Tensor logits, Tensor target,
                            std::optional<int64_t> ignore_index, int64_t needs) {
  if (!(needs & 1)) return torch::stable::new_empty(logits, std::vector<int64_t>{0});
  return nll_backward(torch::stable::select(grad, 0, 1), logits, target, ignore_index);
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("ohem_pixels", TORCH_BOX(&ohem_pixels));
  m.impl("ohem_pixels_backward", TORCH_BOX(&ohem_pixels_backward));
}

}  // namespace
}  // namespace fastloss::cpu
