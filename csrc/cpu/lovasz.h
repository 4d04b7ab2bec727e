// What the exact and the binned Lovász losses share: their options, the factors of the classes, the
// way through the softmax.
#pragma once

#include "common/lovasz.h"
#include "cpu/few_values.h"
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
  int64_t groups(const Tensor& logits) const { return per_image ? logits.size(0) : 1; }
  // Images of a group.
  int64_t images(const Planes& x) const { return per_image ? 1 : x.images; }
};

// The number of pixels of every class in every group, (G, C).
class LabelCounts {
 public:
  LabelCounts(const LovaszOptions& o, const Planes& x)
      : options_(o), classes_(x.classes), counts_(o.groups(x) * x.classes) {}

  template <typename L>
  void add(int64_t image, const L* label, int64_t count) {
    std::vector<int64_t> found(classes_ + 2);  // also ignored ones and background
    for (int64_t j = 0; j < count; ++j) ++found[label[j] + 1];
    std::atomic<int64_t>* to = counts_.data() + (options_.per_image ? image : 0) * classes_;
    for (int64_t c = 0; c < classes_; ++c) to[c] += found[c + 1];
  }
  // Of each class of a group.
  std::vector<int64_t> of(int64_t group) const {
    const auto first = counts_.begin() + group * classes_;
    return {first, first + classes_};
  }

 private:
  const LovaszOptions& options_;
  int64_t classes_;
  std::vector<std::atomic<int64_t>> counts_;
};

// The factor of the value of each class of a group, from its numbers of pixels.
inline std::vector<double> class_factors(const LovaszOptions& o,
                                         const std::vector<int64_t>& counts) {
  std::vector<double> factors(counts.size());
  if (o.classes) {
    for (int64_t c : *o.classes) factors[c] += 1 / static_cast<double>(o.classes->size());
    return factors;
  }
  double counted = 0;
  for (int64_t count : counts) counted += !o.present || count > 0;
  for (size_t c = 0; c < counts.size(); ++c)
    factors[c] = !o.present || counts[c] > 0 ? 1 / counted : 0;
  return factors;
}

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

template <typename F>
auto dispatch_compute(const Tensor& logits, const F& f) {
  return logits.scalar_type() == ScalarType::Double ? f(double{}) : f(float{});
}

}  // namespace fastloss::cpu
