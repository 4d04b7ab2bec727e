// Tiles of the pairs of two sets of boxes.
//
// A tile is one set along the vector lanes against one box after the other of the second set.
// Usually the lanes are boxes2, the columns of the result; where it has few columns they are
// boxes1, and the tile is transposed on its way to or from memory. The cut depends on the shape
// only.
#pragma once

#include "common/box_pairs.h"
#include "cpu/elementwise.h"

// The loops marked so see finite coordinates, so that min and max are one instruction each.
#if defined(__GNUC__) && !defined(__clang__)
#define FASTLOSS_FINITE __attribute__((optimize("finite-math-only", "no-signed-zeros")))
#else
#define FASTLOSS_FINITE
#endif

namespace fastloss::cpu {

constexpr int64_t kLanes = 512;             // boxes along the lanes of a tile
constexpr int64_t kChunk = 256;             // boxes of the other set in a tile
constexpr int64_t kRows = 8;                // of which the kernels take that many at a time
constexpr int64_t kVector = 16;             // lanes are padded to a multiple of this or its half
constexpr int64_t kFields = 6;              // of PairBox
constexpr int64_t kPairsPerThread = 32768;  // fewer are not worth waking a thread

inline int64_t padded(int64_t count, int64_t multiple = kVector) {
  return (count + multiple - 1) / multiple * multiple;
}

template <typename T>
FASTLOSS_SIMD void split_boxes(const T* __restrict boxes, int64_t count, T* __restrict fields) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T x1 = boxes[4 * i], y1 = boxes[4 * i + 1], x2 = boxes[4 * i + 2], y2 = boxes[4 * i + 3];
    fields[i] = x1;
    fields[kLanes + i] = y1;
    fields[2 * kLanes + i] = x2;
    fields[3 * kLanes + i] = y2;
    fields[4 * kLanes + i] = (x2 - x1) * (y2 - y1);
  }
}

// Whether all magnitudes are at most 2^30. As integers, floats of one sign are in the same order,
// with infinity and NaN above all others.
FASTLOSS_SIMD inline bool are_tame(const float* values, int64_t count) {
  int32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i)
    largest = std::max(largest, bit_cast<int32_t>(values[i]) & 0x7fffffff);
  return largest <= bit_cast<int32_t>(0x1p30f);
}
inline bool are_tame(const double*, int64_t) { return false; }

// At most 256 boxes, field by field, with the angle only for CIoU.
template <typename T>
struct Boxes {
  alignas(64) T fields[kFields * kLanes];
  T poison[kLanes];  // 0, or NaN where a coordinate is not finite
  T poisoned = 0;    // its sum
  int64_t count;
  bool tame;

  // The first `count` of the boxes (*, 4) at `data`; with `angle`, eps is added to the heights.
  template <typename U>
  Boxes(const U* data, int64_t count, bool angle, double eps) : count(count) {
    T converted[4 * kLanes];
    const T* boxes = converted;
    if constexpr (std::is_same_v<T, U>) {
      boxes = data;
    } else {
      for (int64_t i = 0; i < 4 * count; ++i) converted[i] = static_cast<T>(data[i]);
    }
    tame = are_tame(boxes, 4 * count);
    split_boxes(boxes, count, fields);
    std::fill(poison, poison + count, T(0));
    for (int64_t i = 0; !tame && i < 4 * count; ++i) poison[i / 4] += T(0) * boxes[i];
    for (int64_t i = 0; !tame && i < count; ++i) poisoned += poison[i];
    for (int64_t i = 0; angle && i < count; ++i)
      fields[5 * kLanes + i] =
          atan_ratio(boxes[4 * i + 2] - boxes[4 * i],
                     boxes[4 * i + 3] - boxes[4 * i + 1] + static_cast<T>(eps));
    for (int64_t k = 0; k < kFields; ++k)
      std::fill(fields + k * kLanes + count, fields + k * kLanes + padded(count), T(0));
  }
};

template <typename T>
FASTLOSS_FN PairBox<T> box_at(const T* fields, int64_t i) {
  return {fields[i],
          fields[kLanes + i],
          fields[2 * kLanes + i],
          fields[3 * kLanes + i],
          fields[4 * kLanes + i],
          fields[5 * kLanes + i]};
}

template <typename T>
FASTLOSS_FN void add_to(T* fields, int64_t i, const PairBox<T>& g, bool angle) {
  fields[i] += g.x1;
  fields[kLanes + i] += g.y1;
  fields[2 * kLanes + i] += g.x2;
  fields[3 * kLanes + i] += g.y2;
  fields[4 * kLanes + i] += g.area;
  if (angle) fields[5 * kLanes + i] += g.angle;
}

// Writes line l of 8 elements into column l of the tile.
template <typename T>
FASTLOSS_SIMD void transpose_lines(const T* __restrict lines, int64_t count, T* __restrict tile,
                                   int64_t width) {
#pragma GCC ivdep
  for (int64_t l = 0; l < count; ++l) {
    tile[l] = lines[8 * l];
    tile[width + l] = lines[8 * l + 1];
    tile[2 * width + l] = lines[8 * l + 2];
    tile[3 * width + l] = lines[8 * l + 3];
    tile[4 * width + l] = lines[8 * l + 4];
    tile[5 * width + l] = lines[8 * l + 5];
    tile[6 * width + l] = lines[8 * l + 6];
    tile[7 * width + l] = lines[8 * l + 7];
  }
}

// A matrix per batch entry with any strides, seen as (others, lanes).
struct Matrices {
  Tensor tensor;
  char* data;
  int64_t other_stride, lane_stride;

  Matrices(const Tensor& tensor, bool lanes_are_rows)
      : tensor(tensor),
        data(static_cast<char*>(const_cast<void*>(tensor.const_data_ptr()))),
        other_stride(tensor.stride(tensor.dim() - (lanes_are_rows ? 1 : 2))),
        lane_stride(tensor.stride(tensor.dim() - (lanes_are_rows ? 2 : 1))) {}

  // Whether the lanes of a tile lie together, as T.
  template <typename T>
  bool holds_lines_of() const {
    return lane_stride == 1 && tensor.scalar_type() == scalar_type_of<T>();
  }
  template <typename U>
  U* at(int64_t batch, int64_t other, int64_t lane) const {
    int64_t offset = other * other_stride + lane * lane_stride;
    for (int64_t d = tensor.dim() - 3; d >= 0; --d) {
      offset += batch % tensor.size(d) * tensor.stride(d);
      batch /= tensor.size(d);
    }
    return reinterpret_cast<U*>(data) + offset;
  }
  // Reads a tile into lines of `width`, or writes it from there.
  template <typename T>
  void load(int64_t batch, int64_t other, int64_t others, int64_t lane, int64_t lanes, T* tile,
            int64_t width) const {
    if (other_stride == 1 && others % 8 == 0 && tensor.scalar_type() == scalar_type_of<T>()) {
      for (; others > 0; others -= 8, other += 8, tile += 8 * width) {
        alignas(64) T lines[8 * kLanes];
        const T* start = at<const T>(batch, other, lane);
        for (int64_t l = 0; l < lanes; ++l) std::copy_n(start + l * lane_stride, 8, lines + 8 * l);
        transpose_lines(lines, lanes, tile, width);
      }
      return;
    }
    visit(batch, other, others, lane, lanes, tile, width,
          [](const auto& element, T& value) { value = static_cast<T>(element); });
  }
  template <typename T>
  void store(int64_t batch, int64_t other, int64_t others, int64_t lane, int64_t lanes, T* tile,
             int64_t width) const {
    visit(batch, other, others, lane, lanes, tile, width, [](auto& element, T value) {
      element = static_cast<std::decay_t<decltype(element)>>(value);
    });
  }

 private:
  // Along the lines that lie together in memory.
  template <typename T, typename F>
  void visit(int64_t batch, int64_t other, int64_t others, int64_t lane, int64_t lanes, T* tile,
             int64_t width, const F& f) const {
    dispatch_float(tensor.scalar_type(), [&](auto sample) {
      auto* start = at<decltype(sample)>(batch, other, lane);
      if (lane_stride == 1) {
        for (int64_t r = 0; r < others; ++r)
          for (int64_t l = 0; l < lanes; ++l) f(start[r * other_stride + l], tile[r * width + l]);
      } else if (other_stride == 1) {
        for (int64_t l = 0; l < lanes; ++l)
          for (int64_t r = 0; r < others; ++r) f(start[l * lane_stride + r], tile[r * width + l]);
      } else {
        for (int64_t r = 0; r < others; ++r)
          for (int64_t l = 0; l < lanes; ++l)
            f(start[r * other_stride + l * lane_stride], tile[r * width + l]);
      }
    });
  }
};

// Lanes [lane, lane + lanes) against others [other, other + others) of a batch.
struct Tile {
  int64_t batch, lane, lanes, other, others;
};

// One of the two sets: boxes (*, count, 4) whose batch dimensions broadcast to those of the result.
struct Side {
  Tensor boxes;
  int64_t count;
  std::vector<int64_t> entry;  // for each batch of the result, that of `boxes`

  Side(const Tensor& given, const std::vector<int64_t>& batch)
      : boxes(torch::stable::contiguous(given)), count(given.size(given.dim() - 2)), entry{0} {
    for (size_t d = 0; d < batch.size(); ++d) {
      const int64_t own = given.dim() - 2 - static_cast<int64_t>(batch.size() - d);
      const int64_t size = own < 0 ? 1 : given.size(own);
      std::vector<int64_t> longer;
      for (int64_t e : entry)
        for (int64_t i = 0; i < batch[d]; ++i) longer.push_back(e * size + (size == 1 ? 0 : i));
      entry = longer;
    }
  }
  // Whether every batch of the result has boxes of its own.
  bool is_whole() const { return 4 * count * static_cast<int64_t>(entry.size()) == boxes.numel(); }

  template <typename U>
  const U* at(int64_t batch, int64_t box) const {
    return static_cast<const U*>(boxes.const_data_ptr()) + 4 * (entry[batch] * count + box);
  }
};

inline std::vector<int64_t> broadcast_batches(const Tensor& a, const Tensor& b) {
  std::vector<int64_t> sizes;
  const int64_t dims = std::max(a.dim(), b.dim()) - 2;
  for (int64_t d = 0; d < dims; ++d) {
    const int64_t of_a = a.dim() - 2 - dims + d, of_b = b.dim() - 2 - dims + d;
    const int64_t size = of_a < 0 ? 1 : a.size(of_a);
    sizes.push_back(size != 1 || of_b < 0 ? size : b.size(of_b));
  }
  return sizes;
}

// All pairs of two sets, batch by batch, cut into tiles.
struct Tiling {
  std::vector<int64_t> batch;
  bool lanes_are_rows;
  Side lanes, others;
  int64_t lane_tiles, chunks;

  Tiling(const Tensor& boxes1, const Tensor& boxes2, int64_t few_columns)
      : batch(broadcast_batches(boxes1, boxes2)),
        lanes_are_rows(boxes2.size(boxes2.dim() - 2) < few_columns &&
                       boxes1.size(boxes1.dim() - 2) > boxes2.size(boxes2.dim() - 2)),
        lanes(lanes_are_rows ? boxes1 : boxes2, batch),
        others(lanes_are_rows ? boxes2 : boxes1, batch),
        lane_tiles((lanes.count + kLanes - 1) / kLanes),
        chunks((others.count + kChunk - 1) / kChunk) {}

  int64_t batches() const { return lanes.entry.size(); }

  // Calls f(tile, boxes of the lanes, boxes of the others), these in float where they are tame.
  template <typename F>
  void for_each_tile(bool angle, double eps, const F& f) const {
    const int64_t pairs = std::min(lanes.count, kLanes) * std::min(others.count, kChunk);
    const int64_t grain = kPairsPerThread / std::max<int64_t>(pairs, 1) + 1;
    const auto run = [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) {
        const int64_t lane = t / chunks % lane_tiles * kLanes, other = t % chunks * kChunk;
        with_boxes({t / chunks / lane_tiles, lane, std::min(kLanes, lanes.count - lane), other,
                    std::min(kChunk, others.count - other)},
                   angle, eps, f);
      }
    };
    torch::stable::parallel_for(0, batches() * lane_tiles * chunks, grain, run);
  }

 private:
  template <typename F>
  void with_boxes(const Tile& t, bool angle, double eps, const F& f) const {
    const ScalarType type = lanes.boxes.scalar_type();
    dispatch_float(type, [&](auto sample) {
      using U = decltype(sample);
      const U* lane = lanes.at<U>(t.batch, t.lane);
      const U* other = others.at<U>(t.batch, t.other);
      if (type != ScalarType::Double && eps >= 0x1p-60 && eps <= 0x1p60) {
        const Boxes<float> a(lane, t.lanes, angle, eps), b(other, t.others, angle, eps);
        if (a.tame && b.tame) return f(t, a, b);
      }
      f(t, Boxes<double>(lane, t.lanes, angle, eps), Boxes<double>(other, t.others, angle, eps));
    });
  }
};

}  // namespace fastloss::cpu
