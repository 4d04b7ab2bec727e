// Tiles of pixels of (N, C, P) tensors: all classes of 256 (or 32) neighbours, so that one read of
// the logits serves every loss. The cut into chunks depends on the shape only, and sums of
// chunks are added in order, so results are the same for any number of threads.
#pragma once

#include <torch/csrc/stable/library.h>

#include <atomic>
#include <memory>
#include <sstream>
#include <stdexcept>

#include "common/segmentation.h"
#include "cpu/elementwise.h"

namespace fastloss::cpu {

constexpr int64_t kWide = 256, kNarrow = 32;  // pixels of a tile
constexpr int64_t kPixels = 8192;             // pixels of a chunk
constexpr int64_t kSumLanes = 16;             // a sum over pixels is kept in so many parts
constexpr int64_t kManyClasses = 512;         // beyond it tiles are narrow

// An integer as wide as T: a class in [0, C), C for the background of every class, -1 for ignored.
template <typename T>
using Label = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// Bytes of logits read and of gradients written by the segmentation kernels since `traffic` was
// last asked.
struct Traffic {
  std::atomic<int64_t> read{0}, written{0};
};
inline Traffic traffic;

// Loops over bool do not vectorise; its bytes are 0 and 1.
template <typename F>
void dispatch_any(ScalarType type, const F& f) {
  switch (type) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      return f(uint8_t{});
    case ScalarType::Char:
      return f(int8_t{});
    case ScalarType::Short:
      return f(int16_t{});
    case ScalarType::Int:
      return f(int32_t{});
    case ScalarType::Long:
      return f(int64_t{});
    default:
      return dispatch_float(type, f);
  }
}

template <typename V, typename T>
FASTLOSS_SIMD void convert_row(const V* __restrict data, int64_t count, T* __restrict out) {
  for (int64_t j = 0; j < count; ++j) out[j] = static_cast<T>(data[j]);
}

// A tensor (N, C, P), or (N, P) with one plane an image, of any float dtype and strides.
class Planes {
 public:
  explicit Planes(const Tensor& tensor)
      : images(tensor.size(0)),
        classes(tensor.dim() == 3 ? tensor.size(1) : 1),
        pixels(tensor.size(tensor.dim() - 1)),
        type_(tensor.scalar_type()),
        strides_{tensor.stride(0), tensor.dim() == 3 ? tensor.stride(1) : 0,
                 tensor.stride(tensor.dim() - 1)},
        data_(const_cast<void*>(tensor.const_data_ptr())) {}

  const int64_t images, classes, pixels;

  // Where rows of T, `stride` apart, hold `count` pixels of image n from p on: in the tensor itself
  // if its pixels are neighbours, else nullptr.
  template <typename T>
  T* rows(int64_t n, int64_t p, int64_t count, int64_t width) const {
    const bool direct = type_ == scalar_type_of<T>() && strides_[2] == 1 && count == width;
    return direct ? static_cast<T*>(data_) + n * strides_[0] + p : nullptr;
  }
  int64_t row_stride() const { return strides_[1]; }
  int64_t pixel_stride() const { return strides_[2]; }
  int64_t image_stride() const { return strides_[0]; }

  // Calls f with the address of class 0 of pixel p of image n, in the type of the tensor.
  template <typename F>
  void at(int64_t n, int64_t p, const F& f) const {
    dispatch_float(type_, [&](auto sample) {
      f(static_cast<decltype(sample)*>(data_) + n * strides_[0] + p * strides_[2]);
    });
  }

  // Class c of image n of a contiguous tensor of T.
  template <typename T>
  T* plane(int64_t n, int64_t c) const {
    return static_cast<T*>(data_) + n * strides_[0] + c * strides_[1];
  }

  // Copies the pixels to rows of `width`, filled up with zeros.
  template <typename T>
  void load(int64_t n, int64_t p, int64_t count, int64_t width, T* buffer) const {
    copy<T>(n, p, count, [&](auto* data, int64_t c, int64_t j) {
      buffer[c * width + j] = static_cast<T>(*data);
    });
    for (int64_t c = 0; count < width && c < classes; ++c)
      std::fill(buffer + c * width + count, buffer + (c + 1) * width, T(0));
  }
  // Pixels of class c of image n, of any dtype: where they lie, or copied to the buffer.
  template <typename T>
  const T* row(int64_t n, int64_t c, int64_t p, int64_t count, T* buffer) const {
    if (const T* rows = this->rows<T>(n, p, count, count)) return rows + c * strides_[1];
    dispatch_any(type_, [&](auto sample) {
      const auto* data = static_cast<const decltype(sample)*>(data_) + n * strides_[0] +
                         c * strides_[1] + p * strides_[2];
      if (strides_[2] == 1) return convert_row(data, count, buffer);
      for (int64_t j = 0; j < count; ++j) buffer[j] = static_cast<T>(data[j * strides_[2]]);
    });
    return buffer;
  }
  template <typename T>
  void store(int64_t n, int64_t p, int64_t count, int64_t width, const T* buffer) const {
    copy<T>(n, p, count, [&](auto* data, int64_t c, int64_t j) {
      *data = static_cast<std::decay_t<decltype(*data)>>(buffer[c * width + j]);
    });
  }
  int64_t bytes(int64_t count) const {
    return count * classes * (type_ == ScalarType::Double ? 8 : type_ == ScalarType::Float ? 4 : 2);
  }

 private:
  template <typename T, typename F>
  void copy(int64_t n, int64_t p, int64_t count, const F& f) const {
    dispatch_float(type_, [&](auto sample) {
      auto* data = static_cast<decltype(sample)*>(data_) + n * strides_[0] + p * strides_[2];
      if (classes > 1 &&
          strides_[1] < strides_[2]) {  // channels last, by blocks that fit the cache
        for (int64_t block = 0; block < classes; block += 64)
          for (int64_t j = 0; j < count; ++j)
            for (int64_t c = block; c < std::min(block + 64, classes); ++c)
              f(data + j * strides_[2] + c * strides_[1], c, j);
      } else {
        for (int64_t c = 0; c < classes; ++c)
          for (int64_t j = 0; j < count; ++j) f(data + j * strides_[2] + c * strides_[1], c, j);
      }
    });
  }

  ScalarType type_;
  int64_t strides_[3];
  void* data_;
};

// The rows of a tile, all classes: where they lie, or copied to the buffer.
template <typename T>
class Rows {
 public:
  Rows(const Planes& from, int64_t n, int64_t p, int64_t count, int64_t width,
       std::vector<T>& buffer)
      : data_(from.rows<T>(n, p, count, width)), stride_(from.row_stride()) {
    if (data_) return;
    buffer.resize(from.classes * width);
    from.load(n, p, count, width, buffer.data());
    data_ = buffer.data(), stride_ = width;
  }
  const T* of(int64_t c) const { return data_ + c * stride_; }
  int64_t stride() const { return stride_; }

 private:
  const T* data_;
  int64_t stride_;
};

inline bool is_float(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

// Class indices as labels; returns how many are out of range.
template <typename V, typename L>
FASTLOSS_SIMD int64_t label_row(const V* __restrict data, int64_t stride, int64_t count,
                                int64_t classes, bool ignores, int64_t ignored, L* __restrict out) {
  int64_t unknown = 0;
#pragma omp simd reduction(+ : unknown)
  for (int64_t j = 0; j < count; ++j) {
    const int64_t label = static_cast<int64_t>(data[j * stride]);
    const bool skipped = ignores & (label == ignored), known = (label >= 0) & (label < classes);
    out[j] = static_cast<L>(skipped ? -1 : known ? label : classes);
    unknown += !skipped & !known;
  }
  return unknown;
}

// The target: class indices (N, P) or dense values (N, C, P).
class PixelTarget {
 public:
  PixelTarget(const Tensor& logits, const Tensor& target, std::optional<int64_t> ignore_index,
              bool strict)
      : PixelTarget(logits.size(1), target, ignore_index, strict) {}
  PixelTarget(int64_t classes, const Tensor& target, std::optional<int64_t> ignore_index,
              bool strict)
      : is_index(target.dim() == 2),
        type_(target.scalar_type()),
        classes_(classes),
        pixels_(target.size(target.dim() - 1)),
        strides_{target.stride(0), is_index ? 0 : target.stride(1),
                 target.stride(is_index ? 1 : 2)},
        data_(target.const_data_ptr()),
        ignore_index_(ignore_index),
        strict_(strict) {}

  const bool is_index;
  bool ignores() const { return ignore_index_.has_value(); }

  // Labels of `count` pixels, filled up with -1. One that is out of range is noted, and background.
  template <typename L>
  void labels(int64_t n, int64_t p, int64_t count, int64_t width, L* out) const {
    dispatch_any(type_, [&](auto sample) {
      const auto* data =
          static_cast<const decltype(sample)*>(data_) + n * strides_[0] + p * strides_[2];
      const int64_t stride = strides_[2], ignored = ignore_index_.value_or(0);
      const bool ignores = ignore_index_.has_value();
      const int64_t unknown = label_row(data, stride, count, classes_, ignores, ignored, out);
      for (int64_t j = 0; unknown && strict_ && j < count; ++j)
        if (out[j] == classes_) return note(n * pixels_ + p + j);
    });
    std::fill(out + count, out + width, L(-1));
  }

  // Values of class c, and 0 or -1 as label where they are valid or ignored.
  template <typename T>
  void values(int64_t n, int64_t c, int64_t p, int64_t count, int64_t width, T* out,
              Label<T>* label) const {
    dispatch_any(type_, [&](auto sample) {
      const auto* data = static_cast<const decltype(sample)*>(data_) + n * strides_[0] +
                         c * strides_[1] + p * strides_[2];
      const int64_t stride = strides_[2];
      if (stride == 1)
        convert_row(data, count, out);
      else
        for (int64_t j = 0; j < count; ++j) out[j] = static_cast<T>(data[j * stride]);
      std::fill(label, label + count, Label<T>(0));
      for (int64_t j = 0; ignore_index_ && j < count; ++j)
        if (is_ignored(data[j * stride])) label[j] = -1;
    });
    std::fill(out + count, out + width, T(0));
    std::fill(label + count, label + width, Label<T>(-1));
  }

  // Raises for the first label out of range that was noted; reaches Python as IndexError.
  void check() const {
    const int64_t i = first_bad_;
    if (i == kNone) return;
    int64_t label = 0;
    dispatch_any(type_, [&](auto sample) {
      label = static_cast<int64_t>(static_cast<const decltype(sample)*>(
          data_)[i / pixels_ * strides_[0] + i % pixels_ * strides_[2]]);
    });
    std::ostringstream text;
    text << "target must hold class indices in [0, " << classes_ - 1 << "]; got " << label
         << " at index " << i;
    throw std::out_of_range(text.str());
  }

 private:
  template <typename V>
  bool is_ignored(V value) const {
    if constexpr (std::is_integral_v<V>)
      return static_cast<int64_t>(value) == *ignore_index_;
    else
      return static_cast<double>(value) == static_cast<double>(*ignore_index_);
  }
  void note(int64_t index) const {
    int64_t seen = first_bad_;
    while (index < seen && !first_bad_.compare_exchange_weak(seen, index)) {
    }
  }

  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  ScalarType type_;
  int64_t classes_, pixels_;
  int64_t strides_[3];
  const void* data_;
  std::optional<int64_t> ignore_index_;
  bool strict_;
  mutable std::atomic<int64_t> first_bad_{kNone};
};

// Calls body(chunk, n, first pixel, pixels) for every chunk, in parallel.
inline int64_t chunks_of(const Planes& x, int64_t size = kPixels) {
  return (x.pixels + size - 1) / size;
}
template <typename Body>
void for_each_chunk(const Planes& x, const Body& body, int64_t size = kPixels) {
  const int64_t chunks = chunks_of(x, size);
  torch::stable::parallel_for(0, x.images * chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t p = i % chunks * size;
      body(i, i / chunks, p, std::min(size, x.pixels - p));
    }
  });
}

// Cuts a chunk into tiles: body(width as std::integral_constant, first pixel, pixels).
template <typename Body>
void for_each_tile(int64_t classes, int64_t p, int64_t count, const Body& body) {
  const int64_t end = p + count;
  for (; classes <= kManyClasses && p + kWide <= end; p += kWide)
    body(std::integral_constant<int64_t, kWide>{}, p, kWide);
  for (; p < end; p += kNarrow)
    body(std::integral_constant<int64_t, kNarrow>{}, p, std::min(kNarrow, end - p));
}

// lanes[] += f(0), ..., f(kWidth - 1), added up pairwise.
template <int64_t kWidth, typename T, typename F>
FASTLOSS_FN void add_row(double* __restrict lanes, const F& f) {
  alignas(64) T sums[kWidth / 2];
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth / 2; ++j) sums[j] = f(j) + f(j + kWidth / 2);
  if constexpr (kWidth >= 256)
    for (int64_t j = 0; j < 64; ++j) sums[j] += sums[j + 64];
  if constexpr (kWidth >= 128)
    for (int64_t j = 0; j < 32; ++j) sums[j] += sums[j + 32];
  if constexpr (kWidth >= 64)
    for (int64_t j = 0; j < 16; ++j) sums[j] += sums[j + 16];
  for (int64_t l = 0; l < kSumLanes; ++l) lanes[l] += static_cast<double>(sums[l]);
}

// The softmax of a tile: of every pixel the largest logit, the sum of exp(x - peak), its inverse,
// and its logarithm: -ln p is (peak - x) + log_sum, without loss for logits far from 0.
template <int64_t kWidth, typename T>
struct Softmax {
  alignas(64) T peak[kWidth], sum[kWidth], inverse[kWidth], log_sum[kWidth];
};

// Also writes exp(x - peak) in rows of kWidth. Several classes at a time save loads and stores.
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void softmax_of(const T* __restrict x, int64_t stride, int64_t classes,
                              T* __restrict exponentials, Softmax<kWidth, T>* __restrict out) {
  T* __restrict peak = out->peak, * __restrict sum = out->sum;
  for (int64_t j = 0; j < kWidth; ++j) peak[j] = x[j], sum[j] = 0;
  int64_t c = 1;
  for (; c + 4 <= classes; c += 4) {
    const T *a = x + c * stride, *b = a + stride, *d = b + stride, *e = d + stride;
#pragma GCC ivdep
    for (int64_t j = 0; j < kWidth; ++j)
      peak[j] = max_(max_(max_(a[j], b[j]), max_(d[j], e[j])), peak[j]);
  }
  for (; c < classes; ++c)
    for (int64_t j = 0; j < kWidth; ++j) peak[j] = max_(x[c * stride + j], peak[j]);
  for (c = 0; c + 2 <= classes; c += 2) {
    const T *a = x + c * stride, *b = a + stride;
    T *to_a = exponentials + c * kWidth, *to_b = to_a + kWidth;
#pragma GCC ivdep
    for (int64_t j = 0; j < kWidth; ++j) {
      const T e_a = exp_nonpositive(a[j] - peak[j]), e_b = exp_nonpositive(b[j] - peak[j]);
      to_a[j] = e_a, to_b[j] = e_b;
      sum[j] += e_a + e_b;
    }
  }
  if (c < classes) {
#pragma GCC ivdep
    for (int64_t j = 0; j < kWidth; ++j) {
      const T e = exp_nonpositive(x[c * stride + j] - peak[j]);
      exponentials[c * kWidth + j] = e;
      sum[j] += e;
    }
  }
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    out->inverse[j] = T(1) / sum[j];
    out->log_sum[j] = log_(sum[j]);
  }
}

// -ln p and p of every pixel's label; 0 for pixels without one. A gather: vectors would not help.
template <int64_t kWidth, typename T>
void at_labels(const T* x, int64_t stride, int64_t classes, const T* exponentials,
               const Label<T>* label, const Softmax<kWidth, T>& softmax, T* nll, T* p) {
  for (int64_t j = 0; j < kWidth; ++j) {
    const int64_t y = label[j];
    const bool known = y >= 0 && y < classes;
    nll[j] = known ? softmax.log_sum[j] + (softmax.peak[j] - x[y * stride + j]) : T(0);
    p[j] = known ? exponentials[y * kWidth + j] * softmax.inverse[j] : T(0);
  }
}

// Of every pixel's label its entry in a table of classes; 0 for pixels without one.
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void pick(const T* __restrict table, const Label<T>* __restrict label,
                        int64_t classes, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    const bool known = (label[j] >= 0) & (label[j] < classes);
    const T entry = table[known ? label[j] : 0];
    out[j] = known ? entry : T(0);
  }
}

}  // namespace fastloss::cpu
