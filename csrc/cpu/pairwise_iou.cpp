// CPU kernels of the stem `pairwise_iou`. Gradients are summed per tile and tiles are added in
// order, so results do not depend on the number of threads.
#include <torch/csrc/stable/library.h>

#include <array>

#include "cpu/box_tiles.h"

namespace fastloss::cpu {
namespace {

// Below so many columns the lanes are boxes1: what the transposition costs, full vectors gain.
constexpr int64_t kFewColumnsForward = 8, kFewColumnsBackward = 48;

// out[r * stride + j] = similarity of boxes others[r] and lanes[j], for j < width, a multiple of 8.
template <typename Kind, bool kTame, typename T>
FASTLOSS_FN void values(const T* __restrict others, int64_t count, const T* __restrict lanes,
                        int64_t width, T eps, T* __restrict out, int64_t stride) {
  const int64_t whole = width / kVector * kVector;
  const T pair_eps = eps_for<Kind>(eps);
  for (int64_t r = 0; r < count; ++r) {
    const PairBox<T> other = box_at(others, r);
    T* row = out + r * stride;
#pragma GCC ivdep
    for (int64_t j = 0; j < whole; ++j)
      row[j] = Kind::template value<kTame>(other, box_at(lanes, j), pair_eps);
    if (whole == width) continue;
#pragma GCC ivdep
    for (int64_t j = 0; j < kVector / 2; ++j)
      row[whole + j] = Kind::template value<kTame>(other, box_at(lanes, whole + j), pair_eps);
  }
}

// Which of the two sets of a tile gradients are wanted for.
enum class Want { kBoth, kLanes, kOthers };

// Adds the gradient of lane j to g_lanes and returns that of the other box.
template <typename Kind, bool kTame, Want kWant, typename T>
FASTLOSS_FN PairBox<T> pair_gradient(const PairBox<T>& other, const T* lanes, int64_t j, T g, T eps,
                                     T* g_lanes) {
  const PairBox<T> lane = box_at(lanes, j);
  PairBox<T> g_other, g_lane;
  spread<Kind>(other, lane, Kind::template slopes<kTame>(other, lane, g, eps), g_other, g_lane);
  if (kWant != Want::kOthers) add_to(g_lanes, j, g_lane, Kind::angle);
  return g_other;
}

// Adds the wanted gradients for the incoming gradient g[r * stride + j].
template <typename Kind, bool kTame, Want kWant, typename T>
FASTLOSS_FN void gradients(const T* __restrict others, int64_t count, const T* __restrict lanes,
                           int64_t width, T eps, const T* __restrict g, int64_t stride,
                           T* __restrict g_others, T* __restrict g_lanes) {
  const T pair_eps = eps_for<Kind>(eps);
  for (int64_t r = 0; r < count; ++r) {
    const PairBox<T> other = box_at(others, r);
    const T* row = g + r * stride;
    T x1 = 0, y1 = 0, x2 = 0, y2 = 0, area = 0, angle = 0;
    if constexpr (kWant == Want::kLanes) {
#pragma GCC ivdep
      for (int64_t j = 0; j < width / kVector * kVector; ++j)
        pair_gradient<Kind, kTame, kWant>(other, lanes, j, row[j], pair_eps, g_lanes);
      continue;
    } else if constexpr (Kind::angle) {  // a sum that nothing is added to would not vectorise
#pragma omp simd reduction(+ : x1, y1, x2, y2, area, angle)
      for (int64_t j = 0; j < width / kVector * kVector; ++j) {
        const PairBox<T> d =
            pair_gradient<Kind, kTame, kWant>(other, lanes, j, row[j], pair_eps, g_lanes);
        x1 += d.x1, y1 += d.y1, x2 += d.x2, y2 += d.y2, area += d.area, angle += d.angle;
      }
    } else {
#pragma omp simd reduction(+ : x1, y1, x2, y2, area)
      for (int64_t j = 0; j < width / kVector * kVector; ++j) {
        const PairBox<T> d =
            pair_gradient<Kind, kTame, kWant>(other, lanes, j, row[j], pair_eps, g_lanes);
        x1 += d.x1, y1 += d.y1, x2 += d.x2, y2 += d.y2, area += d.area;
      }
    }
    add_to(g_others, r, {x1, y1, x2, y2, area, angle}, Kind::angle);
  }
}

template <typename Kind>
FASTLOSS_SIMD FASTLOSS_FINITE void pairwise_iou_fwd(const float* others, int64_t count,
                                                    const float* lanes, int64_t width, float eps,
                                                    float* out, int64_t stride) {
  values<Kind, true>(others, count, lanes, width, eps, out, stride);
}
template <typename Kind>
FASTLOSS_SIMD void pairwise_iou_fwd(const double* others, int64_t count, const double* lanes,
                                    int64_t width, double eps, double* out, int64_t stride) {
  values<Kind, false>(others, count, lanes, width, eps, out, stride);
}
template <typename Kind, Want kWant>
FASTLOSS_SIMD FASTLOSS_FINITE void pairwise_iou_bwd(const float* others, int64_t count,
                                                    const float* lanes, int64_t width, float eps,
                                                    const float* g, int64_t stride, float* g_others,
                                                    float* g_lanes) {
  gradients<Kind, true, kWant>(others, count, lanes, width, eps, g, stride, g_others, g_lanes);
}
template <typename Kind, Want>  // boxes that are not tame are rare: one version serves all wants
FASTLOSS_SIMD void pairwise_iou_bwd(const double* others, int64_t count, const double* lanes,
                                    int64_t width, double eps, const double* g, int64_t stride,
                                    double* g_others, double* g_lanes) {
  gradients<Kind, false, Want::kBoth>(others, count, lanes, width, eps, g, stride, g_others,
                                      g_lanes);
}

template <typename T>
struct Functions {
  void (*forward)(const T*, int64_t, const T*, int64_t, T, T*, int64_t);
  void (*backward)(const T*, int64_t, const T*, int64_t, T, const T*, int64_t, T*, T*);

  explicit Functions(const std::string& kind, Want want = Want::kBoth) {
    if (kind == "iou")
      set<PairIoU>(want);
    else if (kind == "giou")
      set<PairGIoU>(want);
    else if (kind == "diou")
      set<PairDIoU>(want);
    else
      set<PairCIoU>(want);
  }
  template <typename Kind>
  void set(Want want) {
    forward = &pairwise_iou_fwd<Kind>;
    if (want == Want::kBoth)
      backward = &pairwise_iou_bwd<Kind, Want::kBoth>;
    else if (want == Want::kLanes)
      backward = &pairwise_iou_bwd<Kind, Want::kLanes>;
    else
      backward = &pairwise_iou_bwd<Kind, Want::kOthers>;
  }
};

Tensor pairwise_iou(Tensor boxes1, Tensor boxes2, std::string kind, double eps, bool widen) {
  const Tiling tiling(boxes1, boxes2, kFewColumnsForward);
  const ScalarType type = result_type(boxes1, widen);
  std::vector<int64_t> sizes = tiling.batch;
  sizes.push_back(boxes1.size(boxes1.dim() - 2));
  sizes.push_back(boxes2.size(boxes2.dim() - 2));
  Tensor result = torch::stable::new_empty(boxes1, sizes, type);
  const Matrices matrices(result, tiling.lanes_are_rows);

  tiling.for_each_tile(kind == "ciou", eps, [&](Tile t, const auto& lanes, const auto& others) {
    using T = std::decay_t<decltype(lanes.poisoned)>;
    const auto forward = Functions<T>(kind).forward;
    const bool poisoned = !(lanes.poisoned + others.poisoned == T(0));
    const int64_t width = padded(t.lanes, kVector / 2);
    // In place: the padding of a row is overwritten by the rows after it, so the last rows of the
    // tile, whose padding would fall behind it, go through the buffer.
    int64_t r = 0;
    if (matrices.holds_lines_of<T>() && !poisoned && tiling.lane_tiles == 1) {
      r = std::max<int64_t>(t.others - (width - 1) / t.lanes, 0);
      forward(others.fields, r, lanes.fields, width, static_cast<T>(eps),
              matrices.at<T>(t.batch, t.other, 0), matrices.other_stride);
    }
    alignas(64) T buffer[kRows * kLanes];
    for (; r < t.others; r += kRows) {
      const int64_t count = std::min(kRows, t.others - r);
      forward(others.fields + r, count, lanes.fields, width, static_cast<T>(eps), buffer, width);
      for (int64_t i = 0; poisoned && i < count; ++i)
        for (int64_t l = 0; l < t.lanes; ++l)
          buffer[i * width + l] += others.poison[r + i] + lanes.poison[l];
      matrices.store(t.batch, t.other + r, count, t.lane, t.lanes, buffer, width);
    }
  });
  return result;
}

// Derivatives with respect to coordinates, from those to all fields. `poison` is that of the boxes
// on the other side.
template <typename T, typename P>
FASTLOSS_SIMD void to_coordinates(const Boxes<T>& boxes, const T* __restrict g, T poison, T eps,
                                  P* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < boxes.count; ++i) {
    const PairBox<T> box = box_at(boxes.fields, i), d = box_at(g, i);
    const T width = box.x2 - box.x1, height = box.y2 - box.y1;
    // angle = atan(w / h): (h dw - w dh) / (w^2 + h^2), with h = height + eps
    const T h = height + eps;
    const T angle = d.angle / max_(width * width + h * h, tiny<T>());
    const T g_width = d.area * height + angle * h, g_height = d.area * width - angle * width;
    const T nan = poison + boxes.poison[i];
    out[4 * i] = static_cast<P>(d.x1 - g_width + nan);
    out[4 * i + 1] = static_cast<P>(d.y1 - g_height + nan);
    out[4 * i + 2] = static_cast<P>(d.x2 + g_width + nan);
    out[4 * i + 3] = static_cast<P>(d.y2 + g_height + nan);
  }
}

// The gradient of one side, if it is wanted, collected from the contributions (batches, parts,
// boxes, 4) of the tiles. Where each box has one contribution it is the gradient itself.
template <typename P>
struct Collected {
  const Side& side;
  int64_t parts;
  Tensor gradient;
  bool wanted;
  std::vector<P> contributions;
  P* data;

  Collected(const Side& side, int64_t parts, const Tensor& gradient)
      : side(side), parts(parts), gradient(gradient), wanted(gradient.numel() > 0) {
    const int64_t values = side.entry.size() * parts * side.count * 4;
    const bool alone = parts == 1 && side.is_whole() && gradient.numel() == values &&
                       gradient.scalar_type() == scalar_type_of<P>();
    if (wanted && !alone) contributions.resize(values);
    data = alone ? static_cast<P*>(gradient.mutable_data_ptr()) : contributions.data();
  }
  P* at(int64_t batch, int64_t part, int64_t box) {
    return data + 4 * ((batch * parts + part) * side.count + box);
  }
  // Adds the contributions in order.
  void finish() const {
    if (!wanted || data != contributions.data()) return;
    const int64_t values = 4 * side.count;
    std::vector<double> total(gradient.numel());
    for (size_t part = 0; part < side.entry.size() * parts; ++part)
      for (int64_t i = 0; i < values; ++i)
        total[side.entry[part / parts] * values + i] += data[part * values + i];
    dispatch_float(gradient.scalar_type(), [&](auto sample) {
      using U = decltype(sample);
      U* out = static_cast<U*>(gradient.mutable_data_ptr());
      for (size_t i = 0; i < total.size(); ++i) out[i] = static_cast<U>(static_cast<P>(total[i]));
    });
  }
};

std::tuple<Tensor, Tensor> pairwise_iou_backward(Tensor grad, Tensor boxes1, Tensor boxes2,
                                                 std::string kind, double eps, bool,
                                                 int64_t needs) {
  const Tiling tiling(boxes1, boxes2, kFewColumnsBackward);
  const Matrices matrices(grad, tiling.lanes_are_rows);
  std::array<Tensor, 2> result{gradient_like(boxes1, boxes1, needs, 0),
                               gradient_like(boxes1, boxes2, needs, 1)};
  const int lanes_bit = tiling.lanes_are_rows ? 1 : 2;
  const Want want = needs == 3 ? Want::kBoth : needs == lanes_bit ? Want::kLanes : Want::kOthers;
  const auto run = [&](auto sample) {
    using P = decltype(sample);
    Collected<P> of_lanes(tiling.lanes, tiling.chunks, result[tiling.lanes_are_rows ? 0 : 1]);
    Collected<P> of_others(tiling.others, tiling.lane_tiles, result[tiling.lanes_are_rows ? 1 : 0]);
    tiling.for_each_tile(kind == "ciou", eps, [&](Tile t, const auto& lanes, const auto& others) {
      using T = std::decay_t<decltype(lanes.poisoned)>;
      const auto backward = Functions<T>(kind, want).backward;
      const int64_t width = padded(t.lanes);
      const bool direct = matrices.holds_lines_of<T>() && width == t.lanes;
      alignas(64) T g_lanes[kFields * kLanes] = {}, g_others[kFields * kLanes] = {};
      alignas(64) T buffer[kRows * kLanes];
      for (int64_t r = 0; r < kRows; ++r)
        std::fill(buffer + r * width + t.lanes, buffer + (r + 1) * width, T(0));
      for (int64_t r = 0; r < t.others; r += kRows) {
        const int64_t count = std::min(kRows, t.others - r);
        if (!direct) matrices.load(t.batch, t.other + r, count, t.lane, t.lanes, buffer, width);
        const T* g = direct ? matrices.at<const T>(t.batch, t.other + r, t.lane) : buffer;
        backward(others.fields + r, count, lanes.fields, width, static_cast<T>(eps), g,
                 direct ? matrices.other_stride : width, g_others + r, g_lanes);
      }
      if (of_lanes.wanted)
        to_coordinates(lanes, g_lanes, others.poisoned, static_cast<T>(eps),
                       of_lanes.at(t.batch, t.other / kChunk, t.lane));
      if (of_others.wanted)
        to_coordinates(others, g_others, lanes.poisoned, static_cast<T>(eps),
                       of_others.at(t.batch, t.lane / kLanes, t.other));
    });
    of_lanes.finish();
    of_others.finish();
  };
  boxes1.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return {result[0], result[1]};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("pairwise_iou", TORCH_BOX(&pairwise_iou));
  m.impl("pairwise_iou_backward", TORCH_BOX(&pairwise_iou_backward));
}

}  // namespace
}  // namespace fastloss::cpu
