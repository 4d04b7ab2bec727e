// The boxes of `matching_cost`: those of a set of targets, field by field, and what one prediction
// costs with each of them.
#pragma once

#include "common/matching_cost.h"
#include "cpu/box_tiles.h"

namespace fastloss::cpu {

struct MatchingOptions {
  std::string iou_kind;
  bool focal, softmax, centred, angle;  // centred: boxes are cxcywh
  double cls_weight, l1_weight, iou_weight, alpha, gamma, eps, constant;

  bool needs_boxes() const { return l1_weight != 0 || iou_weight != 0; }
  // Terms of tame boxes with these weights are below 2^127; inverted boxes reach 2^108 unweighted.
  // For eps see box_pairs.h; 0 has functions of its own, `unfloored_boxes`.
  bool is_tame() const {
    return std::abs(l1_weight) <= 0x1p16 && std::abs(iou_weight) <= 0x1p16 &&
           (eps == 0 || (eps >= 0x1p-60 && eps <= 0x1p60));
  }
};

// Instead of an IoU whose weight is 0.
struct NoIoU {
  static constexpr bool floors = false;

  template <bool kTame, typename T>
  static FASTLOSS_FN T value(const PairBox<T>&, const PairBox<T>&, T) {
    return T(0);
  }
};

// A kind whose denominators may be 0 or negative although the boxes are tame.
template <typename Kind>
struct Unfloored {
  static constexpr bool floors = false;

  template <bool kTame, typename T>
  static FASTLOSS_FN T value(const PairBox<T>& a, const PairBox<T>& b, T) {
    return Kind::template value<false>(a, b, eps_for<Kind>(T(0)));
  }
};

// A box as corners and as it was given, and 0 or NaN if a coordinate is not finite.
template <typename T>
struct GivenBox {
  PairBox<T> corners;
  T given[4], poison;

  template <typename U>
  GivenBox(const U* box, const MatchingOptions& o) : poison(0) {
    for (int k = 0; k < 4; ++k) {
      given[k] = static_cast<T>(box[k]);
      poison += T(0) * given[k];
    }
    T x1 = given[0], y1 = given[1], x2 = given[2], y2 = given[3];
    if (o.centred) {
      const T half_w = x2 * T(0.5), half_h = y2 * T(0.5);
      x2 = x1 + half_w, y2 = y1 + half_h, x1 -= half_w, y1 -= half_h;
    }
    const T w = x2 - x1, h = y2 - y1;
    const T angle = o.angle ? atan_ratio(w, h + static_cast<T>(o.eps)) : T(0);
    corners = {x1, y1, x2, y2, w * h, angle};
  }
  // See box_pairs.h.
  bool is_tame() const {
    return std::all_of(given, given + 4, [](T x) { return std::abs(x) <= T(0x1p30); });
  }
};

// The targets of an image that are no padding, field by field.
template <typename T>
struct Targets {
  static constexpr int64_t kGiven = 6, kPoison = 10, kFields = 11;
  int64_t width;
  bool tame = true;
  std::vector<T> fields;  // (kFields, width)

  template <typename U>
  Targets(const U* boxes, const std::vector<int64_t>& columns, const MatchingOptions& o)
      : width(padded(columns.size())), fields(kFields * width) {
    for (size_t j = 0; j < columns.size(); ++j) {
      const GivenBox<T> box(boxes + 4 * columns[j], o);
      const PairBox<T>& c = box.corners;
      const T values[kFields] = {c.x1,         c.y1,         c.x2,         c.y2,
                                 c.area,       c.angle,      box.given[0], box.given[1],
                                 box.given[2], box.given[3], box.poison};
      for (int64_t k = 0; k < kFields; ++k) fields[k * width + j] = values[k];
      tame = tame && box.is_tame();
    }
  }
};

// out[j] = l1 * distance - iou * similarity of a box and target j, for j < width. `given` are the
// fields that the distance is between. `largest` bounds the terms where they are not tame.
template <typename Kind, bool kTame, typename T>
FASTLOSS_FN void box_costs(const GivenBox<T>& box, const T* __restrict fields,
                           const T* __restrict given, int64_t width, T l1, T iou, T eps, T largest,
                           T* __restrict out) {
  const T pair_eps = eps_for<Kind>(eps);
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) {
    const PairBox<T> target{fields[j],
                            fields[width + j],
                            fields[2 * width + j],
                            fields[3 * width + j],
                            fields[4 * width + j],
                            fields[5 * width + j]};
    const T distance =
        (abs_(box.given[0] - given[j]) + abs_(box.given[1] - given[width + j])) +
        (abs_(box.given[2] - given[2 * width + j]) + abs_(box.given[3] - given[3 * width + j]));
    const T similarity = Kind::template value<kTame>(box.corners, target, pair_eps);
    if constexpr (kTame) {
      out[j] = l1 * distance - iou * similarity;
    } else {
      const T poison = box.poison + fields[Targets<T>::kPoison * width + j];
      const T cost =
          bounded(l1 * bounded(distance, largest), largest) - bounded(iou * similarity, largest);
      out[j] = bounded(cost, largest) + poison;
    }
  }
}

template <typename Kind>
FASTLOSS_SIMD FASTLOSS_FINITE void matching_boxes(const GivenBox<float>& box, const float* fields,
                                                  const float* given, int64_t width, float l1,
                                                  float iou, float eps, float largest, float* out) {
  box_costs<Kind, true>(box, fields, given, width, l1, iou, eps, largest, out);
}
template <typename Kind>
FASTLOSS_SIMD void matching_boxes(const GivenBox<double>& box, const double* fields,
                                  const double* given, int64_t width, double l1, double iou,
                                  double eps, double largest, double* out) {
  box_costs<Kind, false>(box, fields, given, width, l1, iou, eps, largest, out);
}

template <typename Kind>
FASTLOSS_SIMD void unfloored_boxes(const GivenBox<float>& box, const float* fields,
                                   const float* given, int64_t width, float l1, float iou,
                                   float eps, float largest, float* out) {
  box_costs<Unfloored<Kind>, true>(box, fields, given, width, l1, iou, eps, largest, out);
}

template <typename T>
using BoxFunction = void (*)(const GivenBox<T>&, const T*, const T*, int64_t, T, T, T, T, T*);

template <typename Kind, typename T>
BoxFunction<T> box_function_of(double eps) {
  if constexpr (std::is_same_v<T, float>)
    if (eps == 0) return &unfloored_boxes<Kind>;
  return &matching_boxes<Kind>;
}

template <typename T>
BoxFunction<T> box_function(const MatchingOptions& o) {
  if (o.iou_weight == 0) return &matching_boxes<NoIoU>;
  if (o.iou_kind == "iou") return box_function_of<PairIoU, T>(o.eps);
  if (o.iou_kind == "giou") return box_function_of<PairGIoU, T>(o.eps);
  if (o.iou_kind == "diou") return box_function_of<PairDIoU, T>(o.eps);
  return box_function_of<PairCIoU, T>(o.eps);
}

}  // namespace fastloss::cpu
