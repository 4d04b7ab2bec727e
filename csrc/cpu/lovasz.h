// What the exact and the binned Lovász losses share: their options, the labels and softmaxes of all
// pixels, and the factors of the classes.
#pragma once

#include "common/lovasz.h"
#include "cpu/pixel_tiles.h"

namespace fastloss::cpu {

struct LovaszOptions {
  std::string kind;
  bool present;
  std::optional<std::vector<int64_t>> classes;
  bool per_image;
  std::optional<int64_t> ignore_index;
  bool strict;

  bool hinge() const { return kind == "hinge"; }
  bool softmax() const { return kind == "softmax"; }
  int64_t groups(const Planes& x) const { return per_image ? x.images : 1; }
  // Images of a group.
  int64_t images(const Planes& x) const { return per_image ? 1 : x.images; }
};

// The number of pixels of every class in every group, (G, C).
class LabelCounts {
 public:
  LabelCounts(const LovaszOptions& o, const Planes& x)
      : options_(o), classes_(x.classes), counts_(o.groups(x) * x.classes) {}

  int64_t at(int64_t group, int64_t c) const { return counts_[group * classes_ + c]; }
  template <typename L>
  void add(int64_t image, const L* label, int64_t count) {
    std::vector<int64_t> found(classes_ + 2);  // also ignored ones and background
    for (int64_t j = 0; j < count; ++j) ++found[label[j] + 1];
    std::atomic<int64_t>* to = counts_.data() + (options_.per_image ? image : 0) * classes_;
    for (int64_t c = 0; c < classes_; ++c) to[c] += found[c + 1];
  }
  // The factor of the value of each class of a group.
  std::vector<double> factors(int64_t group) const {
    std::vector<double> result(classes_);
    if (options_.classes) {
      const double each = 1 / static_cast<double>(options_.classes->size());
      for (int64_t c : *options_.classes) result[c] += each;
      return result;
    }
    double counted = 0;
    for (int64_t c = 0; c < classes_; ++c) counted += !options_.present || at(group, c) > 0;
    for (int64_t c = 0; c < classes_; ++c)
      result[c] = !options_.present || at(group, c) > 0 ? 1 / counted : 0;
    return result;
  }

 private:
  const LovaszOptions& options_;
  int64_t classes_;
  std::vector<std::atomic<int64_t>> counts_;
};

// body(i, n, p, count) for rows of up to kBlock pixels of the group of image n, in order; i counts
// the pixels.
template <typename Body>
void for_each_row(const LovaszOptions& o, const Planes& x, int64_t first, const Body& body) {
  int64_t i = 0;
  for (int64_t n = first; n < first + o.images(x); ++n) {
    for (int64_t p = 0; p < x.pixels; p += kBlock) {
      const int64_t count = std::min(kBlock, x.pixels - p);
      body(i, n, p, count);
      i += count;
    }
  }
}

// Copies a tensor of T with unit stride to one of any dtype and strides.
template <typename T>
void copy_planes(const Planes& from, const Planes& to) {
  for_each_chunk(from, [&](int64_t, int64_t n, int64_t p, int64_t count) {
    std::vector<T> buffer(from.classes * count);
    from.load(n, p, count, count, buffer.data());
    to.store(n, p, count, count, buffer.data());
  });
}

// The probability of a pixel.
template <typename T>
FASTLOSS_FN T probability_of(T x, T peak, T inverse) {
  return exp_nonpositive(x - peak) * inverse;
}

// What every pixel keeps of its softmax, and its label; (N, P) each.
template <typename T>
struct PixelSoftmax {
  std::unique_ptr<T[]> peak, inverse;
  std::unique_ptr<Label<T>[]> label;
};

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
    const T signed_slope = difference > T(0) ? slope[j] : difference < T(0) ? -slope[j] : T(0);
    g[j] = label[j] >= 0 ? signed_slope : T(0);
    if constexpr (kSoftmax) {
      p[j] = value;
      mean[j] += value * g[j];
    }
  }
}
// p (g_p - <p, g_p>), the gradient of the logits.
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void through_softmax(const T* __restrict p, const T* __restrict mean,
                                   const Label<T>* __restrict label, const T* __restrict g,
                                   T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const T value = p[j] * (g[j] - mean[j]);
    out[j] = label[j] >= 0 ? value : T(0);
  }
}

}  // namespace fastloss::cpu
