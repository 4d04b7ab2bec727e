// Bounded IoU loss of one pair of xyxy boxes, a value per coordinate.
// Definitions and sources: fastloss/reference/bounded_iou_loss.py.
#pragma once

#include "common/box_geometry.h"

namespace fastloss {

template <typename T>
struct BoundedParams {
  T beta, eps;
};

// One axis: the excess 1 - score of centre and extent, and what their derivatives need.
template <typename T>
struct BoundedAxis {
  T shift, inverse, inverse_p, inverse_t, quotient, shrunk, grown;

  FASTLOSS_FN BoundedAxis(const Axis<T>& a, T eps) : shift(a.shift()) {
    const T d = abs_(shift);
    inverse = inverse_or_zero(a.t() + d + eps);
    inverse_p = inverse_or_zero(a.p() + eps);
    inverse_t = inverse_or_zero(a.t() + eps);
    quotient = (a.t() - d) * inverse;
    shrunk = a.t() * inverse_p;
    grown = a.p() * inverse_t;
  }
  FASTLOSS_FN T of_centre() const { return T(1) - max_(quotient, T(0)); }
  FASTLOSS_FN T of_extent() const { return T(1) - min_(shrunk, grown); }

  // d of_centre / d shift
  FASTLOSS_FN T to_shift() const {
    const T sign = shift > T(0) ? T(1) : (shift < T(0) ? T(-1) : T(0));
    return wins(quotient, T(0)) * (T(1) + quotient) * inverse * sign;
  }
  // d of_extent / d p. Choices, not products: the quotient that is not the minimum may be infinite.
  FASTLOSS_FN T to_p() const {
    const T of_shrunk = shrunk * inverse_p;
    const T tie = T(0.5) * (of_shrunk - inverse_t);
    return shrunk < grown ? of_shrunk : (shrunk == grown ? tie : -inverse_t);
  }
};

template <typename T>
FASTLOSS_FN T bounded_value(T x, T beta) {
  return x < beta ? T(0.5) * x * x / beta : x - T(0.5) * beta;
}
template <typename T>
FASTLOSS_FN T bounded_slope(T x, T beta) {
  return x < beta ? x / beta : T(1);
}

// Losses of (centre x, centre y, width, height).
template <typename T>
FASTLOSS_FN void bounded_iou(const BoxPair<T>& b, const BoundedParams<T>& o, T* out) {
  const BoundedAxis<T> x(b.x, o.eps * b.scale), y(b.y, o.eps * b.scale);
  out[0] = bounded_value(x.of_centre(), o.beta) + b.poison;
  out[1] = bounded_value(y.of_centre(), o.beta) + b.poison;
  out[2] = bounded_value(x.of_extent(), o.beta) + b.poison;
  out[3] = bounded_value(y.of_extent(), o.beta) + b.poison;
}

// Gradient to the prediction (x1, y1, x2, y2) of the sum of the losses times m (4).
template <typename T>
FASTLOSS_FN void bounded_iou_gradient(const BoxPair<T>& b, const BoundedParams<T>& o, const T* m,
                                      T* out) {
  const BoundedAxis<T> x(b.x, o.eps * b.scale), y(b.y, o.eps * b.scale);
  const T x_shift = m[0] * bounded_slope(x.of_centre(), o.beta) * x.to_shift();
  const T y_shift = m[1] * bounded_slope(y.of_centre(), o.beta) * y.to_shift();
  const T width = m[2] * bounded_slope(x.of_extent(), o.beta) * x.to_p();
  const T height = m[3] * bounded_slope(y.of_extent(), o.beta) * y.to_p();
  out[0] = (-x_shift - width) * b.scale + b.poison;
  out[1] = (-y_shift - height) * b.scale + b.poison;
  out[2] = (width - x_shift) * b.scale + b.poison;
  out[3] = (height - y_shift) * b.scale + b.poison;
}

}  // namespace fastloss
