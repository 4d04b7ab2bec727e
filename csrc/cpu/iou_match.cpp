// CPU kernel of the stem `iou_match`; its rules: fastloss/reference/iou_match.py.
//
// The first pass leaves the best target of each box, and the maximum of each target in each chunk
// of boxes. The second looks again only into chunks that hold a target's maximum, and compares
// bits. Both skip the tiles that a target does not meet. Nothing depends on the number of threads.
#include "cpu/iou_match.h"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>
#include <vector>

#include "cpu/workspace.h"

namespace fastloss::cpu {
namespace {

constexpr int64_t kPairsPerThread = 1 << 20;  // most are skipped; fewer are not worth a thread

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
