// CPU kernel of the stem `iou_match`; its rules: fastloss/reference/iou_match.py.
//
// Boxes come in chunks, which are cut into tiles with a bounding box each: a target that does not
// intersect that has IoU 0 with the whole tile, and is skipped. The first pass leaves the best
// target of each box, and the maximum of each target in each chunk. The second looks again only
// into chunks that hold a target's maximum, and compares bits. Neither depends on the number of
// threads.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "cpu/elementwise.h"
#include "cpu/workspace.h"

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
namespace {

// Two vectors of 16 floats in a tile: the bounding box of more boxes of a raster meets more
// targets, and that of fewer is not worth its test. A chunk has a maximum for each target, which is
// 1/1024 of a matrix of IoUs.
constexpr int64_t kTile = 32, kTiles = 32, kChunk = kTile * kTiles;
constexpr int64_t kPairsPerThread = 1 << 20;  // most are skipped; fewer are not worth a thread

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

// Takes the target for the boxes to which it is better than what they have; returns its maximum.
template <bool kTame, typename T>
FASTLOSS_SIMD FASTLOSS_EXACT T iou_match_best(const Chunk<T>& chunk, const Target<T>& target, T eps,
                                              T* __restrict best, Number<T>* __restrict own) {
  alignas(64) Number<T> hit[kTiles];
  const Box<T> box = target.box;
  const Number<T> number = static_cast<Number<T>>(target.number);
  find_tiles(chunk, box, hit);
  alignas(64) T tops[kTile] = {};  // reduced once, not in every tile
  for (int64_t t = 0; t < kTiles; ++t) {
    if (!hit[t]) continue;
    const int64_t start = t * kTile;
#pragma GCC ivdep
    for (int64_t i = 0; i < kTile; ++i) {
      const T iou = iou_of_any<kTame>(chunk.at(start + i), box, eps);
      tops[i] = iou > tops[i] ? iou : tops[i];
      own[start + i] = iou > best[start + i] ? number : own[start + i];
      best[start + i] = iou > best[start + i] ? iou : best[start + i];
    }
  }
  return greatest(tops);
}

// Gives the target to the boxes whose IoU is `top`.
template <bool kTame, typename T>
FASTLOSS_SIMD FASTLOSS_EXACT void iou_match_equal(const Chunk<T>& chunk, const Target<T>& target,
                                                  T eps, T top, Number<T>* __restrict match) {
  alignas(64) Number<T> hit[kTiles];
  const Box<T> box = target.box;
  const Number<T> number = static_cast<Number<T>>(target.number);
  find_tiles(chunk, box, hit);
  for (int64_t t = 0; t < kTiles; ++t) {
    if (!hit[t]) continue;
#pragma GCC ivdep
    for (int64_t i = t * kTile; i < (t + 1) * kTile; ++i)
      match[i] = iou_of_any<kTame>(chunk.at(i), box, eps) == top ? number : match[i];
  }
}

template <typename T>
FASTLOSS_SIMD void decide(const T* __restrict best, const Number<T>* __restrict own, int64_t count,
                          T positive, T negative, int64_t* __restrict index) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const Number<T> other = best[i] < negative ? -1 : -2;
    index[i] = best[i] >= positive ? own[i] : other;
  }
}

struct Rules {
  double positive, negative, min_positive;
  bool low_quality, own_target;
  double eps;
};

template <typename T>
class Matcher {
 public:
  Matcher(const Tensor& boxes, const Tensor& targets, const std::optional<Tensor>& mask,
          const Rules& rules, const Tensor& index, const Tensor& iou)
      : boxes_(boxes),
        rules_(rules),
        index_(static_cast<int64_t*>(index.mutable_data_ptr())),
        iou_(iou),
        images_(targets.size(0)),
        count_(boxes.size(boxes.dim() - 2)),
        most_(targets.size(1)),
        chunks_((count_ + kChunk - 1) / kChunk),
        shared_(boxes.dim() == 2),
        eps_(static_cast<T>(rules.eps)),
        targets_(images_ * most_),
        real_(images_) {
    prepare(Source<T>(targets), mask);
  }

  void run() {
    if (rules_.low_quality) maxima_ = Workspace<T>(images_ * chunks_ * most_);
    for_each_chunk([&](int64_t image, int64_t c, Chunk<T>& chunk, const auto& load) {
      load();
      first_pass(image, c, chunk);
    });
    if (!rules_.low_quality) return;
    merge();
    for_each_chunk([&](int64_t image, int64_t c, Chunk<T>& chunk, const auto& load) {
      if (is_concerned(image, c)) load(), second_pass(image, c, chunk);
    });
  }

 private:
  // The finite targets that the mask has, in order.
  void prepare(const Source<T>& source, const std::optional<Tensor>& mask) {
    std::optional<Tensor> flags;
    if (mask) flags = torch::stable::contiguous(*mask);
    const bool* is_real = flags ? static_cast<const bool*>(flags->const_data_ptr()) : nullptr;
    for (int64_t j = 0; j < images_ * most_; ++j) {
      T buffer[4];
      const T* v = source.load(4 * j, 4, buffer);
      const Box<T> box{v[0], v[1], v[2], v[3], (v[2] - v[0]) * (v[3] - v[1])};
      const T poison = T(0) * v[0] + T(0) * v[1] + T(0) * v[2] + T(0) * v[3];
      if ((is_real && !is_real[j]) || !(poison == T(0))) continue;
      const int64_t image = j / most_;
      targets_[image * most_ + real_[image]++] = {box, j % most_, largest_of(box) <= kLimit<T>};
    }
  }

  // Calls f(image, number of the chunk, chunk, function that fills it). Boxes that all images share
  // are filled in once for neighbours.
  template <typename F>
  void for_each_chunk(const F& f) const {
    const int64_t grain = kPairsPerThread / (kChunk * (most_ + 8)) + 1;
    torch::stable::parallel_for(0, images_ * chunks_, grain, [&](int64_t first, int64_t last) {
      Chunk<T> chunk;
      int64_t filled = -1;
      for (int64_t item = first; item < last; ++item) {
        const int64_t image = item % images_, c = item / images_;
        f(image, c, chunk, [&] {
          const int64_t wanted = shared_ ? c : item, start = c * kChunk;
          if (filled == wanted) return;
          filled = wanted;
          const int64_t before = shared_ ? 0 : image * count_;
          chunk.load(boxes_, before + start, std::min(kChunk, count_ - start));
        });
      }
    });
  }

  // The best IoU and target of each box; in `maxima`, unless null, the maximum of each target.
  void search(int64_t image, const Chunk<T>& chunk, T* best, Number<T>* own, T* maxima) const {
    const int64_t width = chunk.tiles * kTile;
    const Target<T>* targets = targets_.get() + image * most_;
    std::fill(best, best + width, T(0));
    std::fill(own, own + width, static_cast<Number<T>>(real_[image] ? targets->number : -1));
    for (int64_t k = 0; k < real_[image]; ++k) {
      const Target<T>& target = targets[k];
      T top = 0;
      if (chunk.meets(target.box))
        top = chunk.tame && target.tame ? iou_match_best<true>(chunk, target, eps_, best, own)
                                        : iou_match_best<false>(chunk, target, eps_, best, own);
      if (maxima) maxima[k] = top;
    }
  }

  void first_pass(int64_t image, int64_t c, const Chunk<T>& chunk) const {
    alignas(64) T best[kChunk];
    alignas(64) Number<T> own[kChunk];
    search(image, chunk, best, own, maxima_ ? maxima_of(image, c) : nullptr);
    const int64_t start = image * count_ + c * kChunk;
    int64_t* index = index_ + start;
    decide(best, own, chunk.count, static_cast<T>(rules_.positive), static_cast<T>(rules_.negative),
           index);
    if (real_[image] == 0) std::fill(index, index + chunk.count, -1);
    for (int64_t i = 0; chunk.poisoned && i < chunk.count; ++i) {
      if (chunk.poison[i] == T(0)) continue;
      index[i] = -2;
      best[i] = std::numeric_limits<T>::quiet_NaN();
    }
    iou_.store(start, chunk.count, best);
  }

  T* maxima_of(int64_t image, int64_t c) const {
    return maxima_.get() + (image * chunks_ + c) * most_;
  }

  // Maxima over all chunks; those that count for nothing become infinite. A maximum of 0 is the IoU
  // of all boxes, so that of such targets the last alone matters.
  void merge() {
    tops_.assign(images_ * most_, T(0));
    zero_.assign(images_, -1);
    for (int64_t image = 0; image < images_; ++image) {
      T* tops = tops_.data() + image * most_;
      for (int64_t c = 0; c < chunks_; ++c)
        for (int64_t k = 0; k < real_[image]; ++k) tops[k] = max_(tops[k], maxima_of(image, c)[k]);
      for (int64_t k = 0; k < real_[image]; ++k) {
        const bool accepted = tops[k] >= static_cast<T>(rules_.min_positive);
        if (accepted && tops[k] == T(0)) zero_[image] = k;
        if (!accepted || tops[k] == T(0)) tops[k] = std::numeric_limits<T>::infinity();
      }
    }
  }

  bool is_concerned(int64_t image, int64_t c) const {
    const T *tops = tops_.data() + image * most_, *maxima = maxima_of(image, c);
    return zero_[image] >= 0 || !std::equal(tops, tops + real_[image], maxima, std::not_equal_to());
  }

  void second_pass(int64_t image, int64_t c, const Chunk<T>& chunk) const {
    const Target<T>* targets = targets_.get() + image * most_;
    const T *tops = tops_.data() + image * most_, *maxima = maxima_of(image, c);
    alignas(64) Number<T> match[kChunk], own[kChunk];
    const int64_t zero = zero_[image];
    std::fill(match, match + chunk.tiles * kTile,
              static_cast<Number<T>>(zero < 0 ? -1 : targets[zero].number));
    for (int64_t k = zero + 1; k < real_[image]; ++k) {
      if (maxima[k] != tops[k]) continue;
      const auto equal =
          chunk.tame && targets[k].tame ? iou_match_equal<true, T> : iou_match_equal<false, T>;
      equal(chunk, targets[k], eps_, tops[k], match);
    }
    alignas(64) T best[kChunk];
    if (rules_.own_target) search(image, chunk, best, own, nullptr);
    int64_t* index = index_ + image * count_ + c * kChunk;
    for (int64_t i = 0; i < chunk.count; ++i)
      if (match[i] >= 0 && chunk.poison[i] == T(0))
        index[i] = rules_.own_target ? own[i] : match[i];
  }

  Source<T> boxes_;  // (images, count, 4), or (count, 4) shared by all images
  Rules rules_;
  int64_t* index_;  // (images, count)
  Sink iou_;        // (images, count)
  int64_t images_, count_, most_, chunks_;
  bool shared_;
  T eps_;
  Workspace<Target<T>> targets_;  // (images, most)
  std::vector<int64_t> real_;     // (images): how many there are
  Workspace<T> maxima_;           // (images, chunks, most)
  std::vector<T> tops_;           // (images, most)
  std::vector<int64_t> zero_;     // (images): the last target with a maximum of 0, or -1
};

std::tuple<Tensor, Tensor> iou_match(Tensor boxes, Tensor target_boxes, std::optional<Tensor> mask,
                                     double positive, double negative, double min_positive,
                                     bool low_quality, std::string low_quality_index, double eps,
                                     bool widen) {
  const std::vector<int64_t> sizes{target_boxes.size(0), boxes.size(boxes.dim() - 2)};
  Tensor index = torch::stable::new_empty(boxes, sizes, ScalarType::Long);
  Tensor iou = torch::stable::new_empty(boxes, sizes, result_type(boxes, widen));
  const Rules rules{positive, negative, min_positive, low_quality, low_quality_index == "box", eps};
  if (boxes.scalar_type() == ScalarType::Double)
    Matcher<double>(boxes, target_boxes, mask, rules, index, iou).run();
  else
    Matcher<float>(boxes, target_boxes, mask, rules, index, iou).run();
  return {index, iou};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) { m.impl("iou_match", TORCH_BOX(&iou_match)); }

}  // namespace
}  // namespace fastloss::cpu
