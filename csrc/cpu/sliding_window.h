// Maxima and unions over sliding square windows of planes (H, W), rows first, then columns. Windows
// of a length that is a power of two come from two of half the length, and those of any other from
// two that overlap, so the work grows with the logarithm of the window.
//
// Of equal values the first in row-major order is the maximum, and the last NaN is larger than any
// number, as in torch's max_pool2d: of two windows the later one wins only if it is greater, also
// where they overlap.
#pragma once

#include <cstring>

#include "cpu/elementwise.h"
#include "cpu/workspace.h"

namespace fastloss::cpu {

// The place of an element in its plane, row * W + column; as wide as T, for vectors of both.
template <typename T>
using Place = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <typename T>
FASTLOSS_SIMD void merge_maxima(const T* a, const T* b, int64_t count, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = (b[i] > a[i]) | (b[i] != b[i]) ? b[i] : a[i];
}

template <typename T>
FASTLOSS_SIMD void merge_places(const T* a, const Place<T>* at_a, const T* b, const Place<T>* at_b,
                                int64_t count, T* out, Place<T>* at_out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T first = a[i], second = b[i];
    const Place<T> at_first = at_a[i], at_second = at_b[i];
    const bool later = (second > first) | (second != second);
    out[i] = later ? second : first;
    at_out[i] = later ? at_second : at_first;
  }
}

FASTLOSS_SIMD inline void merge_sets(const uint32_t* a, const uint32_t* b, int64_t count,
                                     uint32_t* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = a[i] | b[i];
}

// What slides: rows of cells in memory that is not theirs. `merge` takes the cells of windows a and
// b, of which b neither begins nor ends earlier; out may be a.

template <typename T>
struct Maxima {
  T* value;

  Maxima operator+(int64_t i) const { return {value + i}; }
  void fill(int64_t count, Maxima) const {
    std::fill(value, value + count, -std::numeric_limits<T>::infinity());
  }
  void copy(int64_t count, Maxima from) const {
    memcpy(value, from.value, static_cast<size_t>(count) * sizeof(T));
  }
  static void merge(Maxima a, Maxima b, int64_t count, Maxima out) {
    merge_maxima(a.value, b.value, count, out.value);
  }
};

template <typename T>
struct PlacedMaxima {
  T* value;
  Place<T>* place;

  PlacedMaxima operator+(int64_t i) const { return {value + i, place + i}; }
  // Beyond the border is -inf at the places of `inside`: where all is -inf the first pixel counts.
  void fill(int64_t count, PlacedMaxima inside) const {
    std::fill(value, value + count, -std::numeric_limits<T>::infinity());
    memcpy(place, inside.place, static_cast<size_t>(count) * sizeof(Place<T>));
  }
  void copy(int64_t count, PlacedMaxima from) const {
    memcpy(value, from.value, static_cast<size_t>(count) * sizeof(T));
    memcpy(place, from.place, static_cast<size_t>(count) * sizeof(Place<T>));
  }
  static void merge(PlacedMaxima a, PlacedMaxima b, int64_t count, PlacedMaxima out) {
    merge_places(a.value, a.place, b.value, b.place, count, out.value, out.place);
  }
};

struct Sets {
  uint32_t* bits;

  Sets operator+(int64_t i) const { return {bits + i}; }
  void fill(int64_t count, Sets) const { std::fill(bits, bits + count, 0u); }
  void copy(int64_t count, Sets from) const {
    memcpy(bits, from.bits, static_cast<size_t>(count) * sizeof(uint32_t));
  }
  static void merge(Sets a, Sets b, int64_t count, Sets out) {
    merge_sets(a.bits, b.bits, count, out.bits);
  }
};

// Memory for cells, not initialised.
template <typename Cells>
class Buffer;
template <typename T>
class Buffer<Maxima<T>> {
 public:
  explicit Buffer(int64_t count) : value_(count) {}
  Maxima<T> cells() const { return {value_.get()}; }

 private:
  Workspace<T> value_;
};
template <typename T>
class Buffer<PlacedMaxima<T>> {
 public:
  explicit Buffer(int64_t count) : value_(count), place_(count) {}
  PlacedMaxima<T> cells() const { return {value_.get(), place_.get()}; }

 private:
  Workspace<T> value_;
  Workspace<Place<T>> place_;
};
template <>
class Buffer<Sets> {
 public:
  explicit Buffer(int64_t count) : bits_(count) {}
  Sets cells() const { return {bits_.get()}; }

 private:
  Workspace<uint32_t> bits_;
};

template <typename Cells>
class SlidingWindow {
 public:
  SlidingWindow(int64_t height, int64_t width, int64_t window)
      : height_(height),
        width_(width),
        side_(std::min(window / 2, width - 1)),
        above_(std::min(window / 2, height - 1)),
        line_(width + 2 * side_),
        other_(width + 2 * side_),
        strip_((height + 2 * above_) * kStrip) {}

  // row(y, cells) writes the cells of row y; the result, (H, W), is written to `plane`.
  template <typename Row>
  void run(const Row& row, Cells plane) {
    for (int64_t y = 0; y < height_; ++y) {
      const Cells line = line_.cells() + side_;
      row(y, line);
      along(line, plane + y * width_);
    }
    for (int64_t x = 0; above_ && x < width_; x += kStrip)
      down(plane + x, std::min(kStrip, width_ - x));
  }

 private:
  // Columns that are done together: their cells stay in the second-level cache.
  static constexpr int64_t kStrip = 64;

  // The windows of a line with room for what is beyond its ends.
  void along(Cells line, Cells out) {
    for (int64_t i = 1; i <= side_; ++i) {
      (line + -i).fill(1, line);
      (line + (width_ - 1 + i)).fill(1, line);
    }
    const int64_t window = 2 * side_ + 1, cells = width_ + 2 * side_;
    Cells from = line_.cells(), to = other_.cells();
    int64_t length = 1;
    for (; 2 * length <= window; length *= 2) {
      Cells::merge(from, from + length, cells - 2 * length + 1, to);
      std::swap(from, to);
    }
    Cells::merge(from, from + (window - length), width_, out);
  }

  // The windows of some columns, in place.
  void down(Cells plane, int64_t count) {
    const Cells strip = strip_.cells();
    const int64_t window = 2 * above_ + 1, lines = height_ + 2 * above_;
    for (int64_t y = 0; y < lines; ++y) {
      const Cells line = strip + y * count;
      const bool inside = y >= above_ && y < above_ + height_;
      inside ? line.copy(count, plane + (y - above_) * width_) : line.fill(count, plane);
    }
    int64_t length = 1;
    // In place: every cell is read before it is written, as the later window lies ahead.
    for (; 2 * length <= window; length *= 2)
      Cells::merge(strip, strip + length * count, (lines - 2 * length + 1) * count, strip);
    for (int64_t y = 0; y < height_; ++y)
      Cells::merge(strip + y * count, strip + (y + window - length) * count, count,
                   plane + y * width_);
  }

  int64_t height_, width_, side_, above_;
  Buffer<Cells> line_, other_, strip_;
};

}  // namespace fastloss::cpu
