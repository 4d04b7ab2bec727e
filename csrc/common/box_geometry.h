// Aligned box losses for one pair of xyxy boxes: value and the gradient to all eight coordinates.
// Definitions and sources: fastloss/reference/box_loss.py. Nothing here branches on data, so loops
// over pairs vectorise.
#pragma once

#include "common/math.h"

namespace fastloss {

template <typename T>
struct BoxParams {
  T eps, union_eps, smooth_point = T(0);
  // Above every floor, or below every area where its eps is 0, which is no floor. The inside of
  // loops takes a minimum with them instead of asking.
  T limit = eps > T(0) ? std::numeric_limits<T>::infinity() : -std::numeric_limits<T>::infinity();
  T union_limit = union_eps > T(0) ? std::numeric_limits<T>::infinity()
                                   : -std::numeric_limits<T>::infinity();
};

// d max(a, b) / da: 1 where a wins, 1/2 at a tie, as torch.maximum; min is the mirror image.
template <typename T>
FASTLOSS_FN T wins(T a, T b) {
  return a > b ? T(1) : (a == b ? T(0.5) : T(0));
}

// 1 / x, and 0 where x is 0 or so small that the quotient could overflow.
template <typename T>
FASTLOSS_FN T inverse_or_zero(T x) {
  return abs_(x) < tiny<T>() ? T(0) : T(1) / x;
}

// One axis of a pair: prediction [p1, p2], target [t1, t2].
template <typename T>
struct Axis {
  T p1, p2, t1, t2;

  FASTLOSS_FN T p() const { return p2 - p1; }
  FASTLOSS_FN T t() const { return t2 - t1; }
  FASTLOSS_FN T overlap() const { return min_(p2, t2) - max_(p1, t1); }  // negative when disjoint
  FASTLOSS_FN T hull() const { return max_(p2, t2) - min_(p1, t1); }
  // Twice the distance of the centres; differences first, since coordinates may be far from 0.
  FASTLOSS_FN T shift() const { return (t1 - p1) + (t2 - p2); }
};

// Derivatives of the loss with respect to the quantities of one axis.
template <typename T>
struct AxisGradient {
  T p, t, overlap, hull, shift;
};

// Chain rule from the quantities of an axis back to its four coordinates.
template <typename T>
FASTLOSS_FN Axis<T> coordinates(const Axis<T>& a, const AxisGradient<T>& g) {
  const T p1_first = wins(a.p1, a.t1), p2_last = wins(a.p2, a.t2);
  // overlap = min(p2, t2) - max(p1, t1); hull = max(p2, t2) - min(p1, t1)
  return {-g.p - g.overlap * p1_first - g.hull * (T(1) - p1_first) - g.shift,
          g.p + g.overlap * (T(1) - p2_last) + g.hull * p2_last - g.shift,
          -g.t - g.overlap * (T(1) - p1_first) - g.hull * p1_first + g.shift,
          g.t + g.overlap * p2_last + g.hull * (T(1) - p2_last) + g.shift};
}

template <typename T>
struct BoxPair {
  Axis<T> x, y;
  T scale;   // coordinates were multiplied by this power of two
  T poison;  // 0, or NaN where a coordinate is not finite

  // Coordinates beyond 2^60 (2^500 for double) are scaled down so that areas and squared diagonals
  // stay finite; the losses do not change if eps is scaled with what it is compared with.
  FASTLOSS_FN BoxPair(const T* p, const T* t)
      : x{p[0], p[2], t[0], t[2]}, y{p[1], p[3], t[1], t[3]} {
    const bool single = sizeof(T) == sizeof(float);
    const T limit = single ? T(1.152921504606847e18) : T(3.273390607896142e150);
    const T factor =
        single ? T(8.470329472543003e-22) : T(9.332636185032189e-302);  // 2^-70, 2^-1000
    const T largest = max_(max_(max_(abs_(x.p1), abs_(x.p2)), max_(abs_(x.t1), abs_(x.t2))),
                           max_(max_(abs_(y.p1), abs_(y.p2)), max_(abs_(y.t1), abs_(y.t2))));
    scale = largest > limit ? factor : T(1);
    poison = T(0) * x.p1 + T(0) * x.p2 + T(0) * x.t1 + T(0) * x.t2 + T(0) * y.p1 + T(0) * y.p2 +
             T(0) * y.t1 + T(0) * y.t2;
    x = {x.p1 * scale, x.p2 * scale, x.t1 * scale, x.t2 * scale};
    y = {y.p1 * scale, y.p2 * scale, y.t1 * scale, y.t2 * scale};
  }
  FASTLOSS_FN T as_area(T value) const { return value * scale * scale; }
};

template <typename T>
struct PairGradient {
  AxisGradient<T> x, y;
};

// Intersection and union shared by all kinds: union = max(union + added, floor); the gradient stops
// where the floor holds.
template <typename T>
struct Overlap {
  static constexpr T no_floor = -std::numeric_limits<T>::infinity();
  T iw, ih, union_, inverse, iou, union_open;

  FASTLOSS_FN Overlap(const BoxPair<T>& b, T floor, T added) {
    iw = max_(b.x.overlap(), T(0));
    ih = max_(b.y.overlap(), T(0));
    const T inter = iw * ih;
    const T u = b.x.p() * b.y.p() + b.x.t() * b.y.t() - inter + added;
    union_open = u >= floor ? T(1) : T(0);
    union_ = union_open != T(0) ? u : floor;
    inverse = inverse_or_zero(union_);
    iou = inter * inverse;
  }

  // Adds the gradient of a function with d/d iou = g_iou and an explicit d/d union = g_union.
  FASTLOSS_FN void backward(const BoxPair<T>& b, T g_iou, T g_union, PairGradient<T>& g) const {
    const T g_u = union_open * (g_union - g_iou * iou * inverse);
    const T g_inter = g_iou * inverse - g_u;
    // clamp(min=0) lets the gradient through at exactly 0.
    g.x.overlap += b.x.overlap() >= T(0) ? g_inter * ih : T(0);
    g.y.overlap += b.y.overlap() >= T(0) ? g_inter * iw : T(0);
    g.x.p += g_u * b.y.p();
    g.y.p += g_u * b.x.p();
    g.x.t += g_u * b.y.t();
    g.y.t += g_u * b.x.t();
  }
};

struct Linear {
  template <typename T>
  static FASTLOSS_FN T value(T iou) {
    return T(1) - iou;
  }
  template <typename T>
  static FASTLOSS_FN T derivative(T) {
    return T(-1);
  }
};
struct Squared {
  template <typename T>
  static FASTLOSS_FN T value(T iou) {
    return T(1) - iou * iou;
  }
  template <typename T>
  static FASTLOSS_FN T derivative(T iou) {
    return T(-2) * iou;
  }
};
struct Log {
  template <typename T>
  static FASTLOSS_FN T value(T iou) {
    return iou == T(0) ? std::numeric_limits<T>::infinity() : -log_(iou);
  }
  template <typename T>
  static FASTLOSS_FN T derivative(T iou) {
    return T(-1) / iou;
  }
};

// union_eps as a floor of the union, which 0 is not: inverted boxes have a negative one.
template <typename T>
FASTLOSS_FN T union_floor(const BoxPair<T>& b, const BoxParams<T>& o) {
  return min_(b.as_area(o.union_eps), o.union_limit);
}

// mode(max(iou, eps)), union floored at union_eps
template <typename Mode>
struct IoU {
  template <typename T>
  static FASTLOSS_FN T value(const BoxPair<T>& b, const BoxParams<T>& o) {
    return Mode::value(max_(Overlap<T>(b, union_floor(b, o), T(0)).iou, o.eps));
  }
  template <typename T>
  static FASTLOSS_FN PairGradient<T> gradient(const BoxPair<T>& b, const BoxParams<T>& o) {
    const Overlap<T> overlap(b, union_floor(b, o), T(0));
    PairGradient<T> g{};
    const T slope = overlap.iou >= o.eps ? Mode::derivative(max_(overlap.iou, o.eps)) : T(0);
    overlap.backward(b, slope, T(0), g);
    return g;
  }
};

// 1 - iou + (hull - union) / hull, union floored at union_eps, hull area at eps and its extents at
// 0, unless eps is 0: the hull of inverted boxes is inverted.
struct GIoU {
  template <typename T>
  static FASTLOSS_FN T hull_floor(const BoxPair<T>& b, const BoxParams<T>& o) {
    return min_(b.as_area(o.eps), o.limit);
  }
  template <typename T>
  static FASTLOSS_FN T value(const BoxPair<T>& b, const BoxParams<T>& o) {
    const Overlap<T> overlap(b, union_floor(b, o), T(0));
    const T floor = hull_floor(b, o), least = min_(o.limit, T(0));
    const T hull = max_(max_(b.x.hull(), least) * max_(b.y.hull(), least), floor);
    return T(1) - overlap.iou + (hull - overlap.union_) * inverse_or_zero(hull);
  }
  template <typename T>
  static FASTLOSS_FN PairGradient<T> gradient(const BoxPair<T>& b, const BoxParams<T>& o) {
    const Overlap<T> overlap(b, union_floor(b, o), T(0));
    const T floor = hull_floor(b, o), least = min_(o.limit, T(0));
    const T hw = max_(b.x.hull(), least), hh = max_(b.y.hull(), least);
    const T area = hw * hh;
    const T inverse = inverse_or_zero(max_(area, floor));
    const T g_hull = area >= floor ? overlap.union_ * inverse * inverse : T(0);
    PairGradient<T> g{};
    overlap.backward(b, T(-1), -inverse, g);
    g.x.hull = b.x.hull() >= least ? g_hull * hh : T(0);
    g.y.hull = b.y.hull() >= least ? g_hull * hw : T(0);
    return g;
  }
};

// 1 - iou + rho^2 / c^2 (+ alpha v for CIoU), eps added to union and c^2
template <bool kComplete>
struct DistanceIoU {
  // v = 4 / pi^2 (atan(tw / th) - atan(pw / ph))^2, eps added to the heights
  template <typename T>
  static FASTLOSS_FN T angle(const BoxPair<T>& b, T eps) {
    return atan_ratio(b.x.t(), b.y.t() + eps) - atan_ratio(b.x.p(), b.y.p() + eps);
  }
  // alpha = [iou > 1/2] v / (1 - iou + v), a constant in the gradient; 0 for coinciding boxes
  template <typename T>
  static FASTLOSS_FN T trade_off(T iou, T v) {
    const T denominator = T(1) - iou + v;
    return iou > T(0.5) ? v * inverse_or_zero(denominator) : T(0);
  }
  static constexpr double four_over_pi2 = 0.4052847345693511;

  template <typename T>
  static FASTLOSS_FN T value(const BoxPair<T>& b, const BoxParams<T>& o) {
    const Overlap<T> overlap(b, Overlap<T>::no_floor, b.as_area(o.union_eps));
    const T hw = max_(b.x.hull(), T(0)), hh = max_(b.y.hull(), T(0));
    const T sx = b.x.shift(), sy = b.y.shift();
    const T distance =
        (sx * sx + sy * sy) * T(0.25) * inverse_or_zero(hw * hw + hh * hh + b.as_area(o.eps));
    if constexpr (!kComplete) return T(1) - (overlap.iou - distance);
    const T d = angle(b, o.eps * b.scale), v = T(four_over_pi2) * d * d;
    const T score = overlap.iou - (distance + trade_off(overlap.iou, v) * v);
    return T(1) - min_(max_(score, T(-1)), T(1));
  }
  template <typename T>
  static FASTLOSS_FN PairGradient<T> gradient(const BoxPair<T>& b, const BoxParams<T>& o) {
    const Overlap<T> overlap(b, Overlap<T>::no_floor, b.as_area(o.union_eps));
    const T hw = max_(b.x.hull(), T(0)), hh = max_(b.y.hull(), T(0));
    const T sx = b.x.shift(), sy = b.y.shift();
    const T inverse = inverse_or_zero(hw * hw + hh * hh + b.as_area(o.eps));
    const T distance = (sx * sx + sy * sy) * T(0.25) * inverse;
    T open = T(1);  // 0 where the clamp of CIoU holds
    PairGradient<T> g{};
    if constexpr (kComplete) {
      const T eps = o.eps * b.scale;
      const T pw = b.x.p(), ph = b.y.p() + eps, tw = b.x.t(), th = b.y.t() + eps;
      const T d = angle(b, eps), v = T(four_over_pi2) * d * d;
      const T alpha = trade_off(overlap.iou, v);
      const T score = overlap.iou - (distance + alpha * v);
      open = score >= T(-1) && score <= T(1) ? T(1) : T(0);
      // d atan(w / h) = (h dw - w dh) / (w^2 + h^2)
      const T slope = open * alpha * T(2 * four_over_pi2) * d;
      const T p = slope / max_(pw * pw + ph * ph, tiny<T>());
      const T t = slope / max_(tw * tw + th * th, tiny<T>());
      g.x.p = -p * ph;
      g.y.p = p * pw;
      g.x.t = t * th;
      g.y.t = -t * tw;
    }
    overlap.backward(b, -open, T(0), g);
    const T g_c2 = -open * distance * inverse;
    g.x.hull = b.x.hull() >= T(0) ? T(2) * hw * g_c2 : T(0);
    g.y.hull = b.y.hull() >= T(0) ? T(2) * hh * g_c2 : T(0);
    g.x.shift = open * T(0.5) * sx * inverse;
    g.y.shift = open * T(0.5) * sy * inverse;
    return g;
  }
};

using DIoU = DistanceIoU<false>;
using CIoU = DistanceIoU<true>;

}  // namespace fastloss
