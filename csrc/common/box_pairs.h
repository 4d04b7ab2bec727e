// Similarity of one box of each of two sets, for all pairs of the sets: value and gradient.
// Definitions and sources: fastloss/reference/pairwise_iou.py. What depends on one box alone (area,
// angle) is computed once per box, and its gradient is collected per box too.
//
// kTame: coordinates are finite and at most 2^30, eps is from 2^-60 to 2^60, so that no product of
// two areas overflows for proper boxes and no denominator that eps bounds is 0. Otherwise T is
// double, which has room for the areas of float boxes of any size (and of double ones up to 1e150);
// what is left are coordinates that are not finite and eps = 0.
//
// box_geometry.h has the same formulas for one pair by itself, with losses, scaled coordinates and
// angles in the same pass.
#pragma once

#include "common/math.h"

namespace fastloss {

// A box xyxy with its area and, for CIoU, atan(width / height); or the derivatives to these.
template <typename T>
struct PairBox {
  T x1, y1, x2, y2, area, angle;
};

// The value of `tie` at equality, `value` where a > b, else 0: value * d max(a, b) / da.
template <typename T>
FASTLOSS_FN T where_wins(T a, T b, T value, T tie) {
  return a > b ? value : (a == b ? tie : T(0));
}

template <bool kTame, typename T>
FASTLOSS_FN T inverse(T x) {
  if constexpr (kTame) return T(1) / x;
  return abs_(x) < tiny<T>() ? T(0) : T(1) / x;
}

// eps as a kind takes it. Where it is the floor of areas, 0 is none: those of inverted boxes are
// negative. Not for the inside of loops, which would not vectorise.
template <typename Kind, typename T>
FASTLOSS_FN T eps_for(T eps) {
  return Kind::floors && !(eps > T(0)) ? -std::numeric_limits<T>::infinity() : eps;
}

// Extents of a pair: `overlap` is negative where the boxes are disjoint, `inter` is not, and `hull`
// is at least `least_hull`.
template <typename T>
struct Extents {
  T overlap_x, overlap_y, inter_w, inter_h, hull_w, hull_h, inter, raw_union;

  FASTLOSS_FN Extents(const PairBox<T>& a, const PairBox<T>& b, T least_hull = T(0))
      : overlap_x(min_(a.x2, b.x2) - max_(a.x1, b.x1)),
        overlap_y(min_(a.y2, b.y2) - max_(a.y1, b.y1)),
        inter_w(max_(overlap_x, T(0))),
        inter_h(max_(overlap_y, T(0))),
        hull_w(max_(max_(a.x2, b.x2) - min_(a.x1, b.x1), least_hull)),
        hull_h(max_(max_(a.y2, b.y2) - min_(a.y1, b.y1), least_hull)),
        inter(inter_w * inter_h),
        raw_union(a.area + b.area - inter) {}
};

// Derivatives of the similarity to the quantities of a pair; `angle` is that of box a, b has its
// negative.
template <typename T>
struct Slopes {
  T overlap_x, overlap_y, hull_x, hull_y, shift_x, shift_y, area, angle;
};

template <typename T>
FASTLOSS_FN void overlap_slopes(const Extents<T>& e, T inter, T area, Slopes<T>& s) {
  // clamp(min=0) lets the gradient through at exactly 0.
  s.overlap_x = e.overlap_x >= T(0) ? inter * e.inter_h : T(0);
  s.overlap_y = e.overlap_y >= T(0) ? inter * e.inter_w : T(0);
  s.area = area;
}

struct PairIoU {
  static constexpr bool floors = true, hull = false, shift = false, angle = false;

  // I / max(U, eps)
  template <bool kTame, typename T>
  static FASTLOSS_FN T value(const PairBox<T>& a, const PairBox<T>& b, T eps) {
    const Extents<T> e(a, b);
    return e.inter * inverse<kTame>(max_(e.raw_union, eps));
  }
  template <bool kTame, typename T>
  static FASTLOSS_FN Slopes<T> slopes(const PairBox<T>& a, const PairBox<T>& b, T g, T eps) {
    const Extents<T> e(a, b);
    const T over_union = inverse<kTame>(max_(e.raw_union, eps));
    const T g_union = g * over_union;
    const T area = e.raw_union >= eps ? -g_union * (e.inter * over_union) : T(0);
    Slopes<T> s{};
    overlap_slopes(e, g_union - area, area, s);
    return s;
  }
};

struct PairGIoU {
  static constexpr bool floors = true, hull = true, shift = false, angle = false;

  // I / U - (H - U) / H with U = max(U, eps), H = max(H, eps); at best by one division. The hull's
  // extents are clamped at 0 unless eps is below it.
  template <bool kTame, typename T>
  static FASTLOSS_FN T value(const PairBox<T>& a, const PairBox<T>& b, T eps) {
    const Extents<T> e(a, b, min_(eps, T(0)));
    const T u = max_(e.raw_union, eps), h = max_(e.hull_w * e.hull_h, eps);
    if constexpr (kTame) return (e.inter * h + u * u) / (u * h) - T(1);
    return e.inter * inverse<kTame>(u) - (h - u) * inverse<kTame>(h);
  }
  template <bool kTame, typename T>
  static FASTLOSS_FN Slopes<T> slopes(const PairBox<T>& a, const PairBox<T>& b, T g, T eps) {
    const Extents<T> e(a, b, min_(eps, T(0)));
    const T hull = e.hull_w * e.hull_h, u = max_(e.raw_union, eps);
    const T over_union = inverse<kTame>(u), over_hull = inverse<kTame>(max_(hull, eps));
    const T g_union = g * over_union, g_hull = g * over_hull;
    const T area = e.raw_union >= eps ? g_hull - g_union * (e.inter * over_union) : T(0);
    const T hull_slope = hull >= eps ? -g_hull * (u * over_hull) : T(0);
    Slopes<T> s{};
    overlap_slopes(e, g_union - area, area, s);
    // Where an extent of the hull is clamped its area is 0, below eps.
    s.hull_x = hull_slope * e.hull_h;
    s.hull_y = hull_slope * e.hull_w;
    return s;
  }
};

template <bool kComplete>
struct PairDistanceIoU {
  static constexpr bool floors = false, hull = true, shift = true, angle = kComplete;
  static constexpr double four_over_pi2 = 0.4052847345693511;

  // I / (U + eps) - rho^2 / (c^2 + eps), less alpha v for CIoU, which is clamped to [-1, 1]
  template <bool kTame, typename T>
  struct Terms {
    T shift_x, shift_y, over_union, iou, over_diagonal, distance, angle, alpha, score;

    FASTLOSS_FN Terms(const PairBox<T>& a, const PairBox<T>& b, const Extents<T>& e, T eps)
        // Twice the distance of the centres; differences first, coordinates may be far from 0.
        : shift_x((b.x1 - a.x1) + (b.x2 - a.x2)),
          shift_y((b.y1 - a.y1) + (b.y2 - a.y2)),
          over_union(inverse<false>(e.raw_union + eps)),  // 0 where boxes are inverted
          iou(e.inter * over_union),
          over_diagonal(inverse<kTame>(e.hull_w * e.hull_w + e.hull_h * e.hull_h + eps)),
          distance((shift_x * shift_x + shift_y * shift_y) * T(0.25) * over_diagonal),
          angle(0),
          alpha(0),
          score(iou - distance) {
      if constexpr (kComplete) {
        angle = a.angle - b.angle;
        const T v = T(four_over_pi2) * angle * angle;
        alpha = iou > T(0.5) ? v * inverse<false>(T(1) - iou + v) : T(0);
        score -= alpha * v;
      }
    }
  };
  template <bool kTame, typename T>
  static FASTLOSS_FN T value(const PairBox<T>& a, const PairBox<T>& b, T eps) {
    const Terms<kTame, T> t(a, b, Extents<T>(a, b), eps);
    return kComplete ? min_(max_(t.score, T(-1)), T(1)) : t.score;
  }
  template <bool kTame, typename T>
  static FASTLOSS_FN Slopes<T> slopes(const PairBox<T>& a, const PairBox<T>& b, T g, T eps) {
    const Extents<T> e(a, b);
    const Terms<kTame, T> t(a, b, e, eps);
    if constexpr (kComplete) g = t.score >= T(-1) && t.score <= T(1) ? g : T(0);
    const T g_union = g * t.over_union, area = -g_union * t.iou;
    const T diagonal = T(2) * g * t.distance * t.over_diagonal,
            shift = T(-0.5) * g * t.over_diagonal;
    Slopes<T> s{};
    overlap_slopes(e, g_union - area, area, s);
    s.hull_x = diagonal * e.hull_w;
    s.hull_y = diagonal * e.hull_h;
    s.shift_x = shift * t.shift_x;
    s.shift_y = shift * t.shift_y;
    if constexpr (kComplete) s.angle = T(-2 * four_over_pi2) * g * t.alpha * t.angle;
    return s;
  }
};

// Chain rule from the quantities of a pair to both boxes. With f = d max(a.x1, b.x1) / d a.x1, the
// overlap is min(x2) - max(x1) and the hull max(x2) - min(x1).
template <typename Kind, typename T>
FASTLOSS_FN void spread(const PairBox<T>& a, const PairBox<T>& b, const Slopes<T>& s,
                        PairBox<T>& g_a, PairBox<T>& g_b) {
  const T dx = Kind::hull ? s.overlap_x - s.hull_x : s.overlap_x, half_x = T(0.5) * dx;
  const T dy = Kind::hull ? s.overlap_y - s.hull_y : s.overlap_y, half_y = T(0.5) * dy;
  const T first_x = where_wins(a.x1, b.x1, dx, half_x), last_x = where_wins(a.x2, b.x2, dx, half_x);
  const T first_y = where_wins(a.y1, b.y1, dy, half_y), last_y = where_wins(a.y2, b.y2, dy, half_y);
  g_a = {-first_x, -first_y, s.overlap_x - last_x, s.overlap_y - last_y, s.area, s.angle};
  g_b = {first_x - s.overlap_x, first_y - s.overlap_y, last_x, last_y, s.area, -s.angle};
  if constexpr (Kind::hull) {
    g_a.x1 -= s.hull_x;
    g_a.y1 -= s.hull_y;
    g_b.x2 += s.hull_x;
    g_b.y2 += s.hull_y;
  }
  if constexpr (Kind::shift) {
    g_a.x1 -= s.shift_x;
    g_a.y1 -= s.shift_y;
    g_a.x2 -= s.shift_x;
    g_a.y2 -= s.shift_y;
    g_b.x1 += s.shift_x;
    g_b.y1 += s.shift_y;
    g_b.x2 += s.shift_x;
    g_b.y2 += s.shift_y;
  }
}

using PairDIoU = PairDistanceIoU<false>;
using PairCIoU = PairDistanceIoU<true>;

}  // namespace fastloss
