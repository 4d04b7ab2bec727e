// EIoU and SIoU of one pair of xyxy boxes, in the form of the kinds in box_geometry.h.
// Definitions and sources: fastloss/reference/box_shape.py.
#pragma once

#include "common/box_geometry.h"

namespace fastloss {

// Adds the gradient of a function of the two areas with derivative g_area to each of them.
template <typename T>
FASTLOSS_FN void add_areas(const BoxPair<T>& b, T g_area, PairGradient<T>& g) {
  g.x.p += g_area * b.y.p();
  g.y.p += g_area * b.x.p();
  g.x.t += g_area * b.y.t();
  g.y.t += g_area * b.x.t();
}

// Smooth L1 of 1 - I / U, where the intersection I is continued to negative values for disjoint
// boxes; union_eps added to U.
struct EIoU {
  template <typename T>
  struct Terms {
    T ox, oy, rx, ry, inter, inverse, x;

    FASTLOSS_FN Terms(const BoxPair<T>& b, T added)
        : ox(b.x.overlap()), oy(b.y.overlap()), rx(reach(b.x, ox)), ry(reach(b.y, oy)) {
      inter = max_(ox, T(0)) * max_(oy, T(0)) + rx * min_(oy, T(0)) + ry * min_(ox, T(0));
      const T areas = b.x.p() * b.y.p() + b.x.t() * b.y.t();
      inverse = inverse_or_zero(areas - inter + added);
      x = T(1) - inter * inverse;
    }
    static FASTLOSS_FN T reach(const Axis<T>& a, T overlap) {
      return overlap + T(2) * abs_(a.t1 - a.p1);
    }
  };

  template <typename T>
  static FASTLOSS_FN T value(const BoxPair<T>& b, const BoxParams<T>& o) {
    const T x = Terms<T>(b, b.as_area(o.union_eps)).x;
    return x < o.smooth_point ? T(0.5) * x * x / o.smooth_point : x - T(0.5) * o.smooth_point;
  }
  template <typename T>
  static FASTLOSS_FN PairGradient<T> gradient(const BoxPair<T>& b, const BoxParams<T>& o) {
    const Terms<T> terms(b, b.as_area(o.union_eps));
    const T slope = terms.x < o.smooth_point ? terms.x / o.smooth_point : T(1);
    const T g_area = slope * terms.inter * terms.inverse * terms.inverse;
    const T g_inter = -slope * terms.inverse - g_area;
    PairGradient<T> g{};
    axis(b.x, terms.ox, terms.oy, terms.ry, g_inter, g.x);
    axis(b.y, terms.oy, terms.ox, terms.rx, g_inter, g.y);
    add_areas(b, g_area, g);
    return g;
  }

 private:
  // The gradient of I to one axis with overlap o; `other` and `reach` belong to the other axis.
  template <typename T>
  static FASTLOSS_FN void axis(const Axis<T>& a, T o, T other, T reach, T g_inter,
                               AxisGradient<T>& g) {
    const T inside = wins(o, T(0));
    const T g_reach = g_inter * min_(other, T(0));
    g.overlap = g_inter * (inside * max_(other, T(0)) + (T(1) - inside) * reach) + g_reach;
    // reach also has 2 |t1 - p1|, and t1 - p1 = (shift - (t - p)) / 2.
    const T first = a.t1 > a.p1 ? g_reach : (a.t1 < a.p1 ? -g_reach : T(0));
    g.shift = first;
    g.p = first;
    g.t = -first;
  }
};

// 1 - clamp(I / U - (D + S) / 2, -1, 1) with the costs of distance (and angle) D and of shape S;
// union_eps added to U, eps to the offsets of the centres and to heights, a floor of the hull.
// kSign: 1 for gamma = 2 - angle cost, -1 for its negative.
//
// Exponents and what multiplies a gradient are bounded, so that a product with a factor of 0, which
// stops the gradient where a clamp holds, is 0. (With choices in its place loops do not vectorise.)
template <int kSign>
struct SIoU {
  static constexpr double limit = 80, shape_limit = 20;

  // One axis of the distance cost: the offset of the centres in units of the hull's extent.
  template <typename T>
  struct Distance {
    T centre, inverse_hull, ratio, rho;

    FASTLOSS_FN Distance(const Axis<T>& a, T eps)
        : centre(a.shift() * T(0.5) + eps), inverse_hull(inverse_or_zero(max_(a.hull(), eps))) {
      ratio = min_(max_(centre * inverse_hull, T(-limit)), T(limit));
      rho = ratio * ratio;
    }
  };

  // One extent (width or height) of the shape cost: 1 - exp(-omega), omega = |p - t| / max(p, t).
  template <typename T>
  struct Shape {
    T inverse, omega, decay, cost, open;

    FASTLOSS_FN Shape(T p, T t) : inverse(inverse_or_zero(max_(p, t))) {
      const T exact = abs_(p - t) * inverse;
      omega = min_(max_(exact, T(-shape_limit)), T(limit));
      open = exact == omega ? T(1) : T(0);
      decay = exp_(-omega);
      cost = T(1) - decay;
    }
    FASTLOSS_FN T fourth_power() const { return (cost * cost) * (cost * cost); }
  };

  template <typename T>
  struct Terms {
    Overlap<T> overlap;
    Distance<T> x, y;
    Shape<T> w, h;
    T inverse_square, gamma, qx, qy, ex, ey, score;

    FASTLOSS_FN Terms(const BoxPair<T>& b, const BoxParams<T>& o, T eps)
        : overlap(b, Overlap<T>::no_floor, b.as_area(o.union_eps)),
          x(b.x, eps),
          y(b.y, eps),
          w(b.x.p(), b.x.t()),
          h(b.y.p() + eps, b.y.t() + eps) {
      inverse_square = inverse_or_zero(x.centre * x.centre + y.centre * y.centre);
      gamma = T(kSign) * (T(2) - T(2) * abs_(x.centre) * abs_(y.centre) * inverse_square);
      qx = gamma * x.rho;
      qy = gamma * y.rho;
      ex = exp_(min_(max_(qx, T(-limit)), T(limit)));
      ey = exp_(min_(max_(qy, T(-limit)), T(limit)));
      const T distance = T(2) - ex - ey, shape = w.fourth_power() + h.fourth_power();
      score = overlap.iou - T(0.5) * (distance + shape);
    }
  };

  template <typename T>
  static FASTLOSS_FN T value(const BoxPair<T>& b, const BoxParams<T>& o) {
    return T(1) - min_(max_(Terms<T>(b, o, o.eps * b.scale).score, T(-1)), T(1));
  }

  template <typename T>
  static FASTLOSS_FN PairGradient<T> gradient(const BoxPair<T>& b, const BoxParams<T>& o) {
    const T eps = o.eps * b.scale;
    const Terms<T> terms(b, o, eps);
    const T open = terms.score >= T(-1) && terms.score <= T(1) ? T(1) : T(0);
    const T x = (abs_(terms.qx) <= T(limit) ? T(-0.5) : T(0)) * (open * terms.ex);
    const T y = (abs_(terms.qy) <= T(limit) ? T(-0.5) : T(0)) * (open * terms.ey);
    const T g_gamma = x * terms.x.rho + y * terms.y.rho;
    // dL / d angle cost times d angle cost / d centre, which is of the same form on both axes.
    const T cx = terms.x.centre, cy = terms.y.centre, k = terms.inverse_square;
    const T swing = T(-2 * kSign) * g_gamma * k * ((cy * cy - cx * cx) * k);
    PairGradient<T> g{};
    distance(b.x, terms.x, x * terms.gamma, swing * abs_(cy), eps, g.x);
    distance(b.y, terms.y, y * terms.gamma, -swing * abs_(cx), eps, g.y);
    shape(b.x.p(), b.x.t(), terms.w, open, g.x);
    shape(b.y.p() + eps, b.y.t() + eps, terms.h, open, g.y);
    terms.overlap.backward(b, -open, T(0), g);
    return g;
  }

 private:
  template <typename T>
  static FASTLOSS_FN void distance(const Axis<T>& a, const Distance<T>& d, T g_rho, T g_angle,
                                   T eps, AxisGradient<T>& g) {
    const T g_centre = T(2) * d.ratio * g_rho * d.inverse_hull;
    const T sign = d.centre > T(0) ? T(1) : (d.centre < T(0) ? T(-1) : T(0));
    g.hull = a.hull() >= eps ? -g_centre * d.ratio : T(0);
    g.shift = T(0.5) * (g_centre + sign * g_angle);
  }
  template <typename T>
  static FASTLOSS_FN void shape(T p, T t, const Shape<T>& s, T open, AxisGradient<T>& g) {
    const T smaller = open * s.open * T(-2) * (s.cost * s.cost * s.cost) * s.decay * s.inverse;
    const T larger = smaller * (s.omega - T(1));
    const T p_part = wins(p, t);
    g.p = p_part * larger + (T(1) - p_part) * smaller;
    g.t = p_part * smaller + (T(1) - p_part) * larger;
  }
};

}  // namespace fastloss
