// What the exact and the binned Lovász losses share: their options, the factors of the classes, the
// way through the softmax, and what becomes of the values of groups.
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

// The values of the groups as the op returns them.
inline Tensor reduced(const std::vector<double>& values, const std::string& reduction,
                      const Tensor& like, bool widen) {
  const int64_t groups = static_cast<int64_t>(values.size());
  const ScalarType type = result_type(like, widen);
  if (reduction == "none") {
    Tensor result = torch::stable::new_empty(like, {groups}, type);
    Sink(result).store<double>(0, groups, values.data());
    return result;
  }
  double total = 0;
  for (double value : values) total += value;
  if (reduction == "mean") total /= static_cast<double>(std::max<int64_t>(groups, 1));
  Tensor result = torch::stable::new_empty(like, std::vector<int64_t>{}, type);
  Sink(result).store<double>(0, 1, &total);
  return result;
}

// The gradient of the value of every group, from that of the result: ones if there is none.
inline std::vector<double> spread(const std::optional<Tensor>& grad, const std::string& reduction,
                                  int64_t groups) {
  std::vector<double> result(groups, 1);
  if (grad) {
    const bool none = reduction == "none";
    const Source<double> source(*grad);  // keeps the copy of a strided tensor
    std::vector<double> buffer(none ? groups : 1);
    const double* from = source.load(0, none ? groups : 1, buffer.data());
    for (int64_t g = 0; g < groups; ++g) result[g] = from[none ? g : 0];
  }
  if (reduction == "mean")
    for (double& value : result) value /= static_cast<double>(std::max<int64_t>(groups, 1));
  return result;
}

}  // namespace fastloss::cpu
