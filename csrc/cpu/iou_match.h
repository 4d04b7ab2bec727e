// Chunks of boxes and their IoU with a target, for `iou_match`.
//
// Boxes come in chunks, which are cut into tiles with a bounding box each: a target that does not
// intersect that has IoU 0 with the whole tile.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/elementwise.h"

// Both passes, and PyTorch's own operations, have to give the same bits. A fused multiply-add, to
// which GCC contracts by itself, would round the union once instead of twice.
#if defined(__clang__)
#pragma clang fp contract(off)
#define FASTLOSS_EXACT
#elif defined(__GNUC__)
#define FASTLOSS_EXACT __attribute__((optimize("fp-contract=off")))
#else
#define FASTLOSS_EXACT
#endif

namespace fastloss::cpu {
namespace {  // one file includes this

// Two vectors of 16 floats in a tile: the bounding box of more boxes of a raster meets more
// targets, and that of fewer is not worth its test. A chunk has a maximum for each target, which is
// 1/1024 of a matrix of IoUs.
constexpr int64_t kTile = 32, kTiles = 32, kChunk = kTile * kTiles;

// Numbers of targets, as wide as the IoU beside them.
template <typename T>
using Number = std::conditional_t<std::is_same_v<T, float>, int32_t, int64_t>;

// Coordinates up to `kLimit` need no scale; pairs with a larger one are multiplied by `kFactor`.
template <typename T>
constexpr T kLimit = std::is_same_v<T, float> ? T(0x1p60) : T(0x1p500);
template <typename T>
constexpr T kFactor = std::is_same_v<T, float> ? T(0x1p-70) : T(0x1p-1000);

template <typename T>
struct Box {
  T x1, y1, x2, y2, area;
};

template <typename T>
struct Target {
  Box<T> box;
  int64_t number;
  bool tame;
};

template <typename T>
FASTLOSS_FN T largest_of(const Box<T>& b) {
  return max_(max_(abs_(b.x1), abs_(b.y1)), max_(abs_(b.x2), abs_(b.y2)));
}

template <typename T>
FASTLOSS_FN Box<T> scaled(const Box<T>& b, T s) {
  const T x1 = b.x1 * s, y1 = b.y1 * s, x2 = b.x2 * s, y2 = b.y2 * s;
  return {x1, y1, x2, y2, (x2 - x1) * (y2 - y1)};
}

// I / max(U, eps); an inverted box has I = 0. Without eps it may be 0 / 0, which compares as 0
// does: it is not greater than anything.
template <typename T>
FASTLOSS_FN T iou_of(const Box<T>& a, const Box<T>& b, T eps) {
  const T width = max_(min_(a.x2, b.x2) - max_(a.x1, b.x1), T(0));
  const T height = max_(min_(a.y2, b.y2) - max_(a.y1, b.y1), T(0));
  const T inter = width * height;
  const T both = a.area + b.area;
  return inter / max_(both - inter, eps);
}

// kTame: no coordinate of either is beyond the limit.
template <bool kTame, typename T>
FASTLOSS_FN T iou_of_any(const Box<T>& a, const Box<T>& b, T eps) {
  if constexpr (kTame) return iou_of(a, b, eps);
  const T s = max_(largest_of(a), largest_of(b)) > kLimit<T> ? kFactor<T> : T(1);
  return iou_of(scaled(a, s), scaled(b, s), eps * s * s);
}

// Boxes field by field; those that are not finite, and the padding, are 0, and so their IoUs.
template <typename T>
struct Chunk {
  alignas(64) T x1[kChunk], y1[kChunk], x2[kChunk], y2[kChunk], area[kChunk], poison[kChunk];
  alignas(64) T left[kTiles], top[kTiles], right[kTiles], bottom[kTiles];  // around the tiles
  Box<T> around;                                                           // all of them
  int64_t count, tiles;
  bool tame, poisoned;

  FASTLOSS_FN Box<T> at(int64_t i) const { return {x1[i], y1[i], x2[i], y2[i], area[i]}; }
  void load(const Source<T>& source, int64_t first, int64_t boxes);

  // Whether a box may have an IoU other than 0 with the target.
  bool meets(const Box<T>& b) const {
    return min_(around.x2, b.x2) > max_(around.x1, b.x1) &&
           min_(around.y2, b.y2) > max_(around.y1, b.y1);
  }
};

// Returns the largest coordinate. poison: 0, or NaN for a box that is not finite.
template <typename T>
FASTLOSS_SIMD FASTLOSS_EXACT T split_and_clear(const T* __restrict boxes, int64_t count,
                                               Chunk<T>& chunk) {
  T largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) {
    const T x1 = boxes[4 * i], y1 = boxes[4 * i + 1], x2 = boxes[4 * i + 2], y2 = boxes[4 * i + 3];
    const T poison = ((x1 - x1) + (y1 - y1)) + ((x2 - x2) + (y2 - y2));
    const bool finite = poison == T(0);
    const T a = finite ? x1 : T(0), b = finite ? y1 : T(0), c = finite ? x2 : T(0),
            d = finite ? y2 : T(0);
    const T size = max_(max_(abs_(a), abs_(b)), max_(abs_(c), abs_(d)));
    largest = size > largest ? size : largest;
    chunk.poison[i] = poison;
    chunk.x1[i] = a;
    chunk.y1[i] = b;
    chunk.x2[i] = c;
    chunk.y2[i] = d;
    chunk.area[i] = (c - a) * (d - b);
  }
  return largest;
}

template <typename T>
FASTLOSS_SIMD T smallest(const T* values) {
  T found = values[0];
#pragma omp simd reduction(min : found)
  for (int64_t i = 0; i < kTile; ++i) found = values[i] < found ? values[i] : found;
  return found;
}
template <typename T>
FASTLOSS_SIMD T greatest(const T* values) {
  T found = values[0];
#pragma omp simd reduction(max : found)
  for (int64_t i = 0; i < kTile; ++i) found = values[i] > found ? values[i] : found;
  return found;
}

template <typename T>
void Chunk<T>::load(const Source<T>& source, int64_t first, int64_t boxes) {
  count = boxes, tiles = (boxes + kTile - 1) / kTile;
  T buffer[4 * kChunk];
  tame = split_and_clear(source.load(4 * first, 4 * count, buffer), count, *this) <= kLimit<T>;
  T sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += poison[i];
  poisoned = !(sum == T(0));
  for (T* field : {x1, y1, x2, y2, area}) std::fill(field + count, field + tiles * kTile, T(0));
  for (T* edge : {left, top, right, bottom}) std::fill(edge, edge + kTiles, T(0));
  for (int64_t t = 0; t < tiles; ++t) {
    left[t] = smallest(x1 + t * kTile), top[t] = smallest(y1 + t * kTile);
    right[t] = greatest(x2 + t * kTile), bottom[t] = greatest(y2 + t * kTile);
  }
  around = {*std::min_element(left, left + tiles), *std::min_element(top, top + tiles),
            *std::max_element(right, right + tiles), *std::max_element(bottom, bottom + tiles), 0};
}

// Which tiles have a bounding box that intersects the target.
template <typename T>
FASTLOSS_FN void find_tiles(const Chunk<T>& chunk, const Box<T>& b, Number<T>* hit) {
#pragma GCC ivdep
  for (int64_t t = 0; t < kTiles; ++t) {
    const T width = min_(chunk.right[t], b.x2) - max_(chunk.left[t], b.x1);
    const T height = min_(chunk.bottom[t], b.y2) - max_(chunk.top[t], b.y1);
    hit[t] = (width > T(0)) & (height > T(0));
  }
}

}  // namespace
}  // namespace fastloss::cpu
