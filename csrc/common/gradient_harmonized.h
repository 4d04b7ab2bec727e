// The gradient length, the loss and its derivatives of one element, for gradient harmonizing.
// Definitions: fastloss/reference/gradient_harmonized.py. The length decides about the bin, so it
// is computed by the operations of the definition, without rearranging them.
#pragma once

#include "common/focal.h"

namespace fastloss {

// Binary cross entropy of a logit.
struct HarmonizedClassification {
  template <typename T>
  struct Element {
    Logit<T> in;
    T x, t;

    FASTLOSS_FN Element(T x, T t, T) : in(x), x(x), t(t) {}
    FASTLOSS_FN T length() const { return abs_(in.p - t); }
    FASTLOSS_FN T loss() const { return in.bce(t); }
    FASTLOSS_FN T dx() const { return in.residual(t); }
    FASTLOSS_FN T dt() const { return -x; }
  };
};

// Authentic smooth L1.
struct HarmonizedRegression {
  template <typename T>
  struct Element {
    T d, root, mu;

    FASTLOSS_FN Element(T x, T t, T mu) : d(x - t), mu(mu) { root = std::sqrt(d * d + mu * mu); }
    FASTLOSS_FN bool overflows() const { return root > std::numeric_limits<T>::max(); }
    FASTLOSS_FN T length() const { return abs_(dx()); }
    FASTLOSS_FN T loss() const { return overflows() ? abs_(d) - mu : d * (d / (root + mu)); }
    FASTLOSS_FN T dx() const { return overflows() ? (d < T(0) ? T(-1) : T(1)) : d / root; }
    FASTLOSS_FN T dt() const { return -dx(); }
  };
};

}  // namespace fastloss
