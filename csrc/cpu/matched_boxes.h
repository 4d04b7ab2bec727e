// Box losses of a tile of `matched_detection`: its predictions along the lanes against one target
// after the other. Boxes of float are computed in float where they are tame, else in double; those
// that are not finite are unit boxes here and make the result NaN in the end.
#pragma once

#include "common/regression.h"
#include "cpu/matched_detection.h"

namespace fastloss::cpu {

// Without an eps, proper boxes with such an area give the same numbers for an eps of 2^-60: no
// floor acts, and it is lost in the sums with areas and extents.
constexpr double kProperArea = 0x1p-30, kNegligibleEps = 0x1p-60;

template <typename T>
FASTLOSS_FN PairBox<T> lane_box(const T* fields, int64_t l) {
  return {fields[l],
          fields[kTile + l],
          fields[2 * kTile + l],
          fields[3 * kTile + l],
          fields[4 * kTile + l],
          fields[5 * kTile + l]};
}
// Adds the first kCount fields, or zeros. (GCC does not vectorise what it leaves in a lambda.)
template <int kCount, typename T>
FASTLOSS_FN void add_to_lane(T* fields, int64_t l, const PairBox<T>& d, bool counts) {
  fields[l] += counts ? d.x1 : T(0);
  fields[kTile + l] += counts ? d.y1 : T(0);
  fields[2 * kTile + l] += counts ? d.x2 : T(0);
  fields[3 * kTile + l] += counts ? d.y2 : T(0);
  if constexpr (kCount > 4) fields[4 * kTile + l] += counts ? d.area : T(0);
  if constexpr (kCount > 5) fields[5 * kTile + l] += counts ? d.angle : T(0);
}

// Of rows (kTile, 4), those of lanes that are busy, the corners field by field, and 0 or NaN where
// one is not finite.
template <typename T>
FASTLOSS_SIMD void split_lanes(const T* __restrict boxes, const T* __restrict busy,
                               T* __restrict corners, T* __restrict poison) {
#pragma GCC ivdep
  for (int64_t l = 0; l < kTile; ++l) {
    const T x1 = boxes[4 * l], y1 = boxes[4 * l + 1], x2 = boxes[4 * l + 2], y2 = boxes[4 * l + 3];
    const T nan = (T(0) * x1 + T(0) * y1) + (T(0) * x2 + T(0) * y2);
    const bool kept = (busy[l] != T(0)) & (nan == T(0));
    poison[l] = busy[l] != T(0) ? nan : T(0);
    corners[l] = kept ? x1 : T(0);
    corners[kTile + l] = kept ? y1 : T(0);
    corners[2 * kTile + l] = kept ? x2 : T(1);
    corners[3 * kTile + l] = kept ? y2 : T(1);
  }
}
// The fields of PairBox but for the angle.
template <typename T, typename U>
FASTLOSS_SIMD void fields_of(const T* __restrict corners, U* __restrict fields) {
#pragma GCC ivdep
  for (int64_t l = 0; l < kTile; ++l) {
    const U x1 = corners[l], y1 = corners[kTile + l], x2 = corners[2 * kTile + l],
            y2 = corners[3 * kTile + l];
    fields[l] = x1;
    fields[kTile + l] = y1;
    fields[2 * kTile + l] = x2;
    fields[3 * kTile + l] = y2;
    fields[4 * kTile + l] = (x2 - x1) * (y2 - y1);
  }
}
template <typename U>
FASTLOSS_SIMD void angles_of(U* __restrict fields, U eps) {
#pragma GCC ivdep
  for (int64_t l = 0; l < kTile; ++l)
    fields[5 * kTile + l] = atan_ratio(fields[2 * kTile + l] - fields[l],
                                       fields[3 * kTile + l] - fields[kTile + l] + eps);
}

template <typename T>
bool is_proper(T x1, T y1, T x2, T y2) {
  return x2 > x1 && y2 > y1 && (x2 - x1) * (y2 - y1) >= T(kProperArea);
}

// out += sum of m (1 - similarity). Where a box is not tame, a pair without mass may overflow.
template <typename Kind, bool kTame, typename U, typename T>
FASTLOSS_FN void iou_values(const U* __restrict boxes, const Pairs<T>& pairs, U eps,
                            U* __restrict out) {
  const U pair_eps = eps_for<Kind>(eps);
  for (int64_t k = 0; k < pairs.count; ++k) {
    const PairBox<U> target = pairs.target(k).template box<U>();
    const T* __restrict mass = pairs.of(k);
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) {
      const U m = mass[l],
              loss = U(1) - Kind::template value<kTame>(lane_box(boxes, l), target, pair_eps);
      out[l] += kTame ? m * loss : times(m, loss);
    }
  }
}
// out += sum of g m times the derivatives of the similarity to the fields of a box.
template <typename Kind, bool kTame, typename U, typename T>
FASTLOSS_FN void iou_slopes(const U* __restrict boxes, const Pairs<T>& pairs, U eps,
                            const U* __restrict g, U* __restrict out) {
  const U pair_eps = eps_for<Kind>(eps);
  for (int64_t k = 0; k < pairs.count; ++k) {
    const PairBox<U> target = pairs.target(k).template box<U>();
    const T* __restrict mass = pairs.of(k);
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) {
      const PairBox<U> box = lane_box(boxes, l);
      const U m = g[l] * static_cast<U>(mass[l]);
      PairBox<U> d, unused;
      spread<Kind>(box, target, Kind::template slopes<kTame>(box, target, m, pair_eps), d, unused);
      add_to_lane<Kind::angle ? 6 : 5>(out, l, d, kTame || m != U(0));
    }
  }
}
// out += sum of m d(box - target) over the coordinates
template <typename Distance, bool kTame, typename U, typename T>
FASTLOSS_FN void distance_values(const U* __restrict boxes, const Pairs<T>& pairs,
                                 const RegressionParams<U>& params, U* __restrict out) {
  for (int64_t k = 0; k < pairs.count; ++k) {
    const PairBox<U> t = pairs.target(k).template box<U>();
    const T* __restrict mass = pairs.of(k);
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) {
      const PairBox<U> b = lane_box(boxes, l);
      const U m = mass[l];
      const U loss = (Distance::value(b.x1 - t.x1, params) + Distance::value(b.y1 - t.y1, params)) +
                     (Distance::value(b.x2 - t.x2, params) + Distance::value(b.y2 - t.y2, params));
      out[l] += kTame ? m * loss : times(m, loss);
    }
  }
}
// out += sum of g m times the derivatives of d to the coordinates
template <typename Distance, bool kTame, typename U, typename T>
FASTLOSS_FN void distance_slopes(const U* __restrict boxes, const Pairs<T>& pairs,
                                 const RegressionParams<U>& params, const U* __restrict g,
                                 U* __restrict out) {
  for (int64_t k = 0; k < pairs.count; ++k) {
    const PairBox<U> t = pairs.target(k).template box<U>();
    const T* __restrict mass = pairs.of(k);
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) {
      const PairBox<U> b = lane_box(boxes, l);
      const U m = g[l] * static_cast<U>(mass[l]);
      const PairBox<U> d{m * Distance::derivative(b.x1 - t.x1, params),
                         m * Distance::derivative(b.y1 - t.y1, params),
                         m * Distance::derivative(b.x2 - t.x2, params),
                         m * Distance::derivative(b.y2 - t.y2, params)};
      add_to_lane<4>(out, l, d, kTame || m != U(0));
    }
  }
}

// The functions that are compiled. Tame boxes are those of float.
template <typename Kind, typename T>
FASTLOSS_SIMD FASTLOSS_FINITE void matched_iou_fwd(const float* boxes, const Pairs<T>& pairs,
                                                   float eps, float* out) {
  iou_values<Kind, true>(boxes, pairs, eps, out);
}
template <typename Kind, typename T>
FASTLOSS_SIMD void matched_iou_fwd(const double* boxes, const Pairs<T>& pairs, double eps,
                                   double* out) {
  iou_values<Kind, false>(boxes, pairs, eps, out);
}
template <typename Kind, typename T>
FASTLOSS_SIMD FASTLOSS_FINITE void matched_iou_bwd(const float* boxes, const Pairs<T>& pairs,
                                                   float eps, const float* g, float* out) {
  iou_slopes<Kind, true>(boxes, pairs, eps, g, out);
}
template <typename Kind, typename T>
FASTLOSS_SIMD void matched_iou_bwd(const double* boxes, const Pairs<T>& pairs, double eps,
                                   const double* g, double* out) {
  iou_slopes<Kind, false>(boxes, pairs, eps, g, out);
}
template <typename Distance, typename U, typename T>
FASTLOSS_SIMD void matched_distance_fwd(const U* boxes, const Pairs<T>& pairs,
                                        const RegressionParams<U>& params, U* out) {
  distance_values<Distance, std::is_same_v<U, float>>(boxes, pairs, params, out);
}
template <typename Distance, typename U, typename T>
FASTLOSS_SIMD void matched_distance_bwd(const U* boxes, const Pairs<T>& pairs,
                                        const RegressionParams<U>& params, const U* g, U* out) {
  distance_slopes<Distance, std::is_same_v<U, float>>(boxes, pairs, params, g, out);
}

// Derivatives to the coordinates (kTile, 4) from those to all fields.
template <typename U, typename T>
FASTLOSS_SIMD void to_corners(const U* __restrict boxes, const U* __restrict g, U eps,
                              const T* __restrict poison, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t l = 0; l < kTile; ++l) {
    const PairBox<U> box = lane_box(boxes, l), d = lane_box(g, l);
    const U width = box.x2 - box.x1, height = box.y2 - box.y1;
    // angle = atan(w / h): (h dw - w dh) / (w^2 + h^2), with h = height + eps
    const U h = height + eps;
    const U angle = d.angle / max_(width * width + h * h, tiny<U>());
    const U g_width = d.area * height + angle * h, g_height = d.area * width - angle * width;
    out[4 * l] = static_cast<T>(d.x1 - g_width) + poison[l];
    out[4 * l + 1] = static_cast<T>(d.y1 - g_height) + poison[l];
    out[4 * l + 2] = static_cast<T>(d.x2 + g_width) + poison[l];
    out[4 * l + 3] = static_cast<T>(d.y2 + g_height) + poison[l];
  }
}

struct BoxOptions {
  std::string distance, iou_kind;
  double beta, distance_weight, iou_weight, eps;

  bool angle() const { return iou_kind == "ciou" && iou_weight != 0; }
};

template <typename U, typename T>
struct BoxFunctions {
  void (*iou_fwd)(const U*, const Pairs<T>&, U, U*);
  void (*iou_bwd)(const U*, const Pairs<T>&, U, const U*, U*);
  void (*distance_fwd)(const U*, const Pairs<T>&, const RegressionParams<U>&, U*);
  void (*distance_bwd)(const U*, const Pairs<T>&, const RegressionParams<U>&, const U*, U*);

  explicit BoxFunctions(const BoxOptions& o) {
    o.iou_kind == "iou"    ? set_kind<PairIoU>()
    : o.iou_kind == "giou" ? set_kind<PairGIoU>()
    : o.iou_kind == "diou" ? set_kind<PairDIoU>()
                           : set_kind<PairCIoU>();
    o.distance == "l1"          ? set_distance<L1>()
    : o.distance == "smooth_l1" ? set_distance<SmoothL1>()
                                : set_distance<MSE>();
  }
  template <typename Kind>
  void set_kind() {
    iou_fwd = &matched_iou_fwd<Kind, T>, iou_bwd = &matched_iou_bwd<Kind, T>;
  }
  template <typename Distance>
  void set_distance() {
    distance_fwd = &matched_distance_fwd<Distance, U, T>;
    distance_bwd = &matched_distance_bwd<Distance, U, T>;
  }
};

template <typename T>
class BoxLosses {
 public:
  explicit BoxLosses(const BoxOptions& options) : o_(options), narrow_(options), wide_(options) {}

  // What a prediction is compared with, from its box (4) in T.
  Target<T> target(const T* box) const {
    static constexpr T unit[] = {0, 0, 1, 1};
    Target<T> result{};
    result.finite = std::all_of(box, box + 4, [](T x) { return std::isfinite(x); });
    if (!result.finite) box = unit;
    result.tame = std::all_of(box, box + 4, [](T x) { return std::abs(x) <= T(0x1p30); });
    result.proper = is_proper(box[0], box[1], box[2], box[3]);
    result.narrow = pair_box<T>(box);
    result.wide = pair_box<double>(box);
    return result;
  }

  // The losses of boxes (kTile, 4), those of lanes with masses.
  void values(const T* boxes, const Pairs<T>& pairs, const T* busy, T* out) const {
    alignas(64) T poison[kTile];
    with_fields(boxes, pairs, busy, poison, [&](const auto* fields, const auto& run, auto eps) {
      using U = decltype(eps);
      alignas(64) U iou[kTile] = {}, distance[kTile] = {};
      if (o_.iou_weight != 0) run.iou_fwd(fields, pairs, eps, iou);
      if (o_.distance_weight != 0) run.distance_fwd(fields, pairs, params<U>(), distance);
      for (int64_t l = 0; l < kTile; ++l)
        out[l] = static_cast<T>(static_cast<U>(o_.distance_weight) * distance[l] +
                                static_cast<U>(o_.iou_weight) * iou[l]) +
                 poison[l];
    });
  }
  // Their gradients (kTile, 4), for the incoming ones g; busy are lanes with masses times these.
  void gradients(const T* boxes, const Pairs<T>& pairs, const T* busy, const T* g, T* out) const {
    alignas(64) T poison[kTile];
    with_fields(boxes, pairs, busy, poison, [&](const auto* fields, const auto& run, auto eps) {
      using U = decltype(eps);
      alignas(64) U slopes[kFields * kTile] = {}, of_iou[kTile], of_distance[kTile];
      for (int64_t l = 0; l < kTile; ++l) {
        of_iou[l] = -static_cast<U>(o_.iou_weight) * static_cast<U>(g[l]);
        of_distance[l] = static_cast<U>(o_.distance_weight) * static_cast<U>(g[l]);
      }
      if (o_.iou_weight != 0) run.iou_bwd(fields, pairs, eps, of_iou, slopes);
      if (o_.distance_weight != 0)
        run.distance_bwd(fields, pairs, params<U>(), of_distance, slopes);
      to_corners(fields, slopes, eps, poison, out);
    });
  }

 private:
  template <typename U>
  PairBox<U> pair_box(const T* box) const {
    const U x1 = box[0], y1 = box[1], x2 = box[2], y2 = box[3], w = x2 - x1, h = y2 - y1;
    return {x1, y1, x2, y2, w * h, o_.angle() ? atan_ratio(w, h + static_cast<U>(o_.eps)) : U(0)};
  }
  template <typename U>
  RegressionParams<U> params() const {
    return {o_.beta, 1, 1};
  }

  // f(fields of the boxes, functions, eps), in float or in double.
  template <typename F>
  void with_fields(const T* boxes, const Pairs<T>& pairs, const T* busy, T* poison,
                   const F& f) const {
    alignas(64) T corners[4 * kTile];
    split_lanes(boxes, busy, corners, poison);
    bool finite = true, tame = true, proper = true;
    for (int64_t k = 0; k < pairs.count; ++k) {
      const Target<T>& target = pairs.target(k);
      finite &= target.finite, tame &= target.tame, proper &= target.proper;
    }
    for (int64_t k = 0; !finite && k < pairs.count; ++k)
      for (int64_t l = 0; !pairs.target(k).finite && l < kTile; ++l)
        if (pairs.of(k)[l] != T(0) && busy[l] != T(0)) poison[l] = T(NAN);
    if constexpr (std::is_same_v<T, float>) {
      if (tame && are_tame(corners, 4 * kTile)) {
        if (o_.eps >= kNegligibleEps && o_.eps <= 1 / kNegligibleEps)
          return with_angles(corners, narrow_, static_cast<float>(o_.eps), f);
        if (o_.eps == 0 && proper && are_proper(corners))
          return with_angles(corners, narrow_, static_cast<float>(kNegligibleEps), f);
      }
    }
    with_angles(corners, wide_, o_.eps, f);
  }
  template <typename U, typename F>
  void with_angles(const T* corners, const BoxFunctions<U, T>& run, U eps, const F& f) const {
    alignas(64) U fields[kFields * kTile] = {};
    fields_of(corners, fields);
    if (o_.angle()) angles_of(fields, eps);
    f(fields, run, eps);
  }
  static bool are_proper(const T* corners) {
    bool all = true;
    for (int64_t l = 0; l < kTile; ++l)
      all &=
          is_proper(corners[l], corners[kTile + l], corners[2 * kTile + l], corners[3 * kTile + l]);
    return all;
  }

  const BoxOptions o_;
  const BoxFunctions<T, T> narrow_;  // of tame boxes
  const BoxFunctions<double, T> wide_;
};

}  // namespace fastloss::cpu
