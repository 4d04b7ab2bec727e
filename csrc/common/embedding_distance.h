// The formula of the stem `embedding_distance`; see fastloss/reference/embedding_distance.py.
#pragma once

#include "common/math.h"

namespace fastloss {

// 1 for a pair with a weight above 0 and this target, else 0. A number, not a bool, so that loops
// over it stay in vectors of T.
template <typename T>
FASTLOSS_FN T is_pair(T target, T weight, T wanted) {
  const T same = target == wanted ? T(1) : T(0);
  return weight > T(0) ? same : T(0);
}

template <typename T>
struct EmbeddingPair {
  T prediction;  // less its margin, clamped to [0, 1]
  T difference;  // from the target
  T slope;       // 1 where the prediction grows, else 0

  FASTLOSS_FN EmbeddingPair(T pred, T target, T weight, T pos_margin, T neg_margin) {
    const T margin = target == T(1) ? pos_margin : target == T(0) ? neg_margin : T(0);
    const T x = pred - (weight > T(0) ? margin : T(0));
    const T above = x < T(0) ? T(0) : x;
    prediction = above > T(1) ? T(1) : above;  // NaN stays
    difference = prediction - (weight > T(0) ? target : T(-1));
    slope = x == prediction ? T(1) : T(0);
  }
};

}  // namespace fastloss
