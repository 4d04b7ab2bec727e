// What the forward and backward kernels of `segmentation_table` share.
#pragma once

#include "cpu/pixel_tiles.h"

namespace fastloss::cpu {

// Bits of `statistics`, in the order of fastloss/reference/segmentation_table.py.
enum Statistic : int {
  kValid,
  kTarget,
  kProbability,
  kOverlap,
  kProduct,
  kNll,
  kNegLogProb,
  kSoftmaxFocal,
  kSoftmaxFocalTerm,
  kSigmoidFocal,
  kSigmoidFocalTerm,
  kBcePositive,
  kBceNegative,
  kPredicted,
  kCorrect,
  kStatistics
};

constexpr int64_t bits(std::initializer_list<int> statistics) {
  int64_t result = 0;
  for (int s : statistics) result |= int64_t(1) << s;
  return result;
}
constexpr int64_t kOfProbability = bits({kProbability, kOverlap, kProduct});
constexpr int64_t kOfSoftmaxFocal = bits({kSoftmaxFocal, kSoftmaxFocalTerm});
constexpr int64_t kOfSigmoidFocal = bits({kSigmoidFocal, kSigmoidFocalTerm});
constexpr int64_t kOfBce = bits({kBcePositive, kBceNegative});
constexpr int64_t kOfPrediction = bits({kPredicted, kCorrect});

// The op's arguments after the tensors.
struct TableOptions {
  int64_t statistics;
  bool softmax, sigmoid, index;
  double softmax_gamma, softmax_threshold;
  std::optional<double> alpha;
  double gamma, threshold, smoothing;

  TableOptions(int64_t statistics, const std::string& activation, bool index, double softmax_gamma,
               std::optional<double> softmax_threshold, std::optional<double> alpha, double gamma,
               std::optional<double> threshold, double smoothing)
      : statistics(statistics),
        softmax(activation == "softmax"),
        sigmoid(activation == "sigmoid"),
        index(index),
        softmax_gamma(softmax_gamma),
        softmax_threshold(softmax_threshold.value_or(-1)),
        alpha(alpha),
        gamma(gamma),
        threshold(threshold.value_or(-1)),
        smoothing(smoothing) {}

  template <typename T>
  Balance<T> balance() const {
    return alpha ? Balance<T>(*alpha) : Balance<T>();
  }
  bool has(int64_t wanted) const { return (statistics & wanted) != 0; }
  bool has(Statistic s) const { return has(int64_t(1) << s); }
  // Column of a statistic in the table.
  int64_t column(Statistic s) const {
    int64_t result = 0;
    for (int i = 0; i < s; ++i) result += statistics >> i & 1;
    return result;
  }
  int64_t columns() const { return column(kStatistics); }
  // Whether the softmax is needed at all, and whether rows are looked at one by one.
  bool uses_softmax() const {
    return softmax && has(kOfProbability | kOfSoftmaxFocal | bits({kNll, kNegLogProb}));
  }
  bool uses_rows() const {
    return has(kOfSigmoidFocal | kOfBce) || (!softmax && has(kOfProbability)) ||
           (!index && has(kOfPrediction | bits({kTarget, kValid})));
  }
  // Whether class indices have to be made dense for it.
  bool uses_one_hot() const { return index && (has(kOfBce) || (!softmax && has(kOfProbability))); }
  // Whether sigmoids of whole rows are used; focal losses of class indices make their own.
  bool uses_sigmoid() const {
    return has(kOfBce) || (!index && has(kOfSigmoidFocal)) ||
           (sigmoid && has(kOfProbability | kOfPrediction));
  }
};

// One row of a tile: a class of 256 or 32 pixels.
template <int64_t kWidth, typename T>
struct Row {
  const T* x;
  const T* t;             // the target; for class indices 0 or 1, if that is used
  const Label<T>* label;  // negative where ignored
};

// The sigmoids of a row and what comes with them.
template <int64_t kWidth, typename T>
struct Sigmoids {
  alignas(64) T p[kWidth], q[kWidth], tail[kWidth];

  FASTLOSS_FN Logit<T> at(const T* x, int64_t j) const { return {x[j], p[j], q[j], tail[j]}; }
};
// Without the tail, which sums of probabilities alone do not need, a third of the work is saved.
template <bool kTail, int64_t kWidth, typename T>
FASTLOSS_SIMD void sigmoids_of(const T* __restrict x, Sigmoids<kWidth, T>* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const Logit<T> in(x[j]);
    out->p[j] = in.p, out->q[j] = in.q;
    if constexpr (kTail) out->tail[j] = in.softplus_tail;
  }
}
template <int64_t kWidth, typename T>
void sigmoids_for(const TableOptions& o, const T* x, Sigmoids<kWidth, T>* out) {
  if (!o.uses_sigmoid()) return;
  const bool tail = o.has(kOfSigmoidFocal | kOfBce);
  (tail ? &sigmoids_of<true, kWidth, T> : &sigmoids_of<false, kWidth, T>)(x, out);
}

// t of class c from labels.
template <int64_t kWidth, typename T>
FASTLOSS_FN void one_hot(const Label<T>* __restrict label, int64_t c, T* __restrict t) {
  for (int64_t j = 0; j < kWidth; ++j) t[j] = label[j] == static_cast<Label<T>>(c) ? T(1) : T(0);
}

}  // namespace fastloss::cpu
