// The boundaries of the labels of an image, as `boundary_loss` needs them.
//
// A pixel is on the boundary of its own class, or of none: where another class is within a window
// theta0 around it. Sets of classes are words of 32 bits, united over sliding windows.
#pragma once

#include "cpu/pixel_tiles.h"
#include "cpu/sliding_window.h"

namespace fastloss::cpu {

constexpr int64_t kBits = 32;    // classes of a word
constexpr int32_t kInside = -1;  // instead of the label of a pixel that is on no boundary

// out |= around & ~own: the other classes near a pixel.
FASTLOSS_SIMD inline void mark_others(const uint32_t* __restrict around,
                                      const uint32_t* __restrict own, int64_t count,
                                      uint32_t* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] |= around[i] & ~own[i];
}

// The bit of each label that belongs to the word, none for kInside.
FASTLOSS_SIMD inline void set_bits(const int32_t* __restrict label, int32_t word, int64_t count,
                                   uint32_t* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = label[i] >> 5 == word ? 1u << (label[i] & 31) : 0u;
}

// What the labels of an image say: boundary pixels by class, and who is near one.
class Truth {
 public:
  Truth(const PixelTarget& target, int64_t n, int64_t classes, int64_t height, int64_t width,
        int64_t theta0, int64_t theta)
      : classes_(classes), pixels_(height * width), near_(words() * pixels_) {
    std::vector<int32_t> label(pixels_);
    target.labels(n, 0, pixels_, pixels_, label.data());
    std::vector<uint32_t> own(pixels_), around(pixels_), other(pixels_);
    SlidingWindow<Sets> slide(height, width, theta0);
    for (int64_t word = 0; word < words(); ++word) {
      set_bits(label.data(), static_cast<int32_t>(word), pixels_, own.data());
      slide_over(slide, own.data(), width, around.data());
      mark_others(around.data(), own.data(), pixels_, other.data());
    }
    for (int64_t i = 0; i < pixels_; ++i)
      if (other[i] == 0 || label[i] == classes_) label[i] = kInside;  // one out of range too
    SlidingWindow<Sets> widen(height, width, theta);
    for (int64_t word = 0; word < words(); ++word) {
      set_bits(label.data(), static_cast<int32_t>(word), pixels_, own.data());
      slide_over(widen, own.data(), width, near_.get() + word * pixels_);
    }
    sort(label);
  }

  // The pixels on the boundary of a class.
  const int32_t* begin(int64_t c) const { return sorted_.get() + first_[c]; }
  const int32_t* end(int64_t c) const { return sorted_.get() + first_[c + 1]; }
  // Words in which `bit(c)` is set where the boundary of class c is near.
  const uint32_t* near(int64_t c) const { return near_.get() + c / kBits * pixels_; }
  static uint32_t bit(int64_t c) { return 1u << (c % kBits); }

 private:
  int64_t words() const { return (classes_ + kBits - 1) / kBits; }

  static void slide_over(SlidingWindow<Sets>& slide, const uint32_t* from, int64_t width,
                         uint32_t* to) {
    const auto row = [&](int64_t y, Sets cells) {
      std::copy(from + y * width, from + (y + 1) * width, cells.bits);
    };
    slide.run(row, Sets{to});
  }
  void sort(const std::vector<int32_t>& label) {
    first_.assign(classes_ + 1, 0);
    for (int32_t c : label)
      if (c != kInside) ++first_[c + 1];
    for (int64_t c = 0; c < classes_; ++c) first_[c + 1] += first_[c];
    std::vector<int32_t> next(first_.begin(), first_.end());
    sorted_ = Workspace<int32_t>(first_[classes_]);
    for (int64_t i = 0; i < pixels_; ++i)
      if (label[i] != kInside) sorted_[next[label[i]]++] = static_cast<int32_t>(i);
  }

  int64_t classes_, pixels_;
  Workspace<uint32_t> near_;
  Workspace<int32_t> sorted_;
  std::vector<int32_t> first_;
};

}  // namespace fastloss::cpu
