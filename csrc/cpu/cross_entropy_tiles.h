// Tiles of logits (N, C, P) and of their gradient, as cross entropy reads and writes them: of
// pixels that are neighbours in memory (`PixelTiles`), or of pixels whose classes are
// (`ClassTiles`): rows (N, C), or channels-last images. Both have the same members.
#pragma once

#include "cpu/pixel_tiles.h"
#include "cpu/workspace.h"

namespace fastloss::cpu {

constexpr int64_t kFewClasses = 16;    // below it tiles of pixels are faster for rows too
constexpr int64_t kRowLanes = 16;      // rows are filled up to a multiple of it
constexpr int64_t kRowRoom = 1 << 14;  // logits of a tile of rows, about

// Rows of memory that will be needed soon. Asking for them between computations, a row at a time,
// takes a quarter of the time off 32768 rows of 81 classes and half where other cores use the
// memory; and a quarter off two images of 150 classes.
struct Ahead {
  const char* data = nullptr;
  int64_t stride = 0, size = 0;  // bytes

  template <bool kWrite>
  FASTLOSS_FN void fetch(int64_t row) const {
    for (int64_t i = 0; i < size; i += 64) __builtin_prefetch(data + row * stride + i, kWrite);
  }
};

// The gradient of the tile: factor e - shift w in class c of pixel j, e = exp(x - peak), less
// `at_label` in the class of its label; 0 where the pixel is not alive.
template <int64_t kWidth, typename T>
struct TileGradient {
  alignas(64) T factor[kWidth], shift[kWidth], at_label[kWidth];
  alignas(64) Label<T> alive[kWidth];
};

// out += w (ln sum exp(x) - x), over all classes
template <int64_t kWidth, typename T>
FASTLOSS_SIMD void add_smoothing(const T* __restrict x, int64_t stride, int64_t classes,
                                 const T* __restrict peak, const T* __restrict log_sum,
                                 const T* __restrict w, T* __restrict out) {
  for (int64_t c = 0; c < classes; ++c)
    for (int64_t j = 0; j < kWidth; ++j)
      out[j] += w[c] * ((peak[j] - x[c * stride + j]) + log_sum[j]);
}

template <bool kSmooth, int64_t kWidth, typename T>
FASTLOSS_SIMD void write_pixels(const T* __restrict e, int64_t classes, const T* __restrict w,
                                const TileGradient<kWidth, T>& g, T* __restrict out, int64_t stride,
                                Ahead next, Ahead next_out) {
  const T* __restrict factor = g.factor, * __restrict shift = g.shift;
  const Label<T>* __restrict alive = g.alive;
  for (int64_t c = 0; c < classes; ++c) {
    next.fetch<false>(c);
    next_out.fetch<true>(c);
#pragma GCC ivdep
    for (int64_t j = 0; j < kWidth; ++j) {
      T value = factor[j] * e[c * kWidth + j];
      if constexpr (kSmooth) value -= shift[j] * w[c];
      out[c * stride + j] = alive[j] != 0 ? value : T(0);
    }
  }
}

template <typename T>
class PixelTiles {
 public:
  PixelTiles(const Planes& x, const std::optional<Planes>& gradient)
      : x_(x),
        gradient_(gradient),
        exponentials_(x.classes * (x.classes <= kManyClasses ? kWide : kNarrow)) {}

  static int64_t chunk(const Planes&) { return kPixels; }
  template <typename Body>
  void for_each(int64_t p, int64_t count, const Body& body) const {
    for_each_tile(x_.classes, p, count, body);
  }

  // Reads a tile; the other members are about it.
  template <int64_t kWidth>
  void softmax(int64_t n, int64_t p, int64_t count, Softmax<kWidth, T>* out) {
    const Rows<T> x(x_, n, p, count, kWidth, logits_);
    at_ = x.of(0), stride_ = x.stride();
    softmax_of<kWidth>(at_, stride_, x_.classes, exponentials_.data(), out);
  }
  T logit(int64_t c, int64_t j) const { return at_[c * stride_ + j]; }
  template <int64_t kWidth>
  void add_smoothed(int64_t, const Softmax<kWidth, T>& softmax, const T* w, T* out) const {
    add_smoothing<kWidth, T>(at_, stride_, x_.classes, softmax.peak, softmax.log_sum, w, out);
  }

  template <int64_t kWidth>
  void write(int64_t n, int64_t p, int64_t count, const Label<T>* label, const T* w,
             const TileGradient<kWidth, T>& g) {
    to_gradient<kWidth>(n, p, count, [&](T* out, int64_t stride) {
      const auto run = w ? &write_pixels<true, kWidth, T> : &write_pixels<false, kWidth, T>;
      run(exponentials_.data(), x_.classes, w, g, out, stride, next<kWidth>(x_, n, p + count),
          next<kWidth>(*gradient_, n, p + count));
      for (int64_t j = 0; j < kWidth; ++j)
        if (g.alive[j] && label[j] < x_.classes) out[label[j] * stride + j] -= g.at_label[j];
    });
  }
  template <int64_t kWidth>
  void clear(int64_t n, int64_t p, int64_t count) {
    to_gradient<kWidth>(n, p, count, [&](T* out, int64_t stride) {
      for (int64_t c = 0; c < x_.classes; ++c) std::fill_n(out + c * stride, kWidth, T(0));
    });
  }

 private:
  // The next tile, where its pixels are neighbours.
  template <int64_t kWidth>
  static Ahead next(const Planes& planes, int64_t n, int64_t p) {
    Ahead ahead;
    if (p + kWidth > planes.pixels || planes.pixel_stride() != 1) return ahead;
    planes.at(n, p, [&](const auto* row) {
      ahead = {reinterpret_cast<const char*>(row), planes.row_stride() * int64_t(sizeof(*row)),
               kWidth * int64_t(sizeof(*row))};
    });
    return ahead;
  }

  // Calls f(rows of kWidth, their distance): those of the gradient, or a buffer stored to it.
  template <int64_t kWidth, typename F>
  void to_gradient(int64_t n, int64_t p, int64_t count, const F& f) {
    if (T* rows = gradient_->rows<T>(n, p, count, kWidth)) return f(rows, gradient_->row_stride());
    buffer_.resize(x_.classes * kWidth);
    f(buffer_.data(), kWidth);
    gradient_->store(n, p, count, kWidth, buffer_.data());
  }

  const Planes& x_;
  const std::optional<Planes>& gradient_;
  const T* at_ = nullptr;
  int64_t stride_ = 0;
  std::vector<T> logits_, exponentials_, buffer_;
};

// Rows to rows of `size`, whose ends are left alone. Full vectors alone: the last one overlaps the
// one before it.
template <typename V, typename T>
FASTLOSS_SIMD void load_rows(const V* __restrict x, int64_t stride, int64_t classes, int64_t count,
                             T* __restrict out, int64_t size) {
  const int64_t full = classes / kRowLanes * kRowLanes, last = classes - kRowLanes;
  for (int64_t j = 0; j < count; ++j) {
    const V* __restrict row = x + j * stride;
    T* __restrict to = out + j * size;
    for (int64_t c = 0; c < full; c += kRowLanes)
      for (int64_t l = 0; l < kRowLanes; ++l) to[c + l] = static_cast<T>(row[c + l]);
    for (int64_t l = 0; l < kRowLanes; ++l) to[last + l] = static_cast<T>(row[last + l]);
  }
}

// Of every row of `vectors` full vectors the largest number, e = exp(x - peak), and its sum.
template <typename T>
FASTLOSS_SIMD void softmax_of_rows(const T* __restrict x, int64_t vectors, int64_t count,
                                   T* __restrict e, T* __restrict peaks, T* __restrict sums,
                                   Ahead next, Ahead out_rows) {
  const int64_t size = vectors * kRowLanes;
  for (int64_t j = 0; j < count; ++j) {
    next.fetch<false>(j);
    out_rows.fetch<true>(j);
    const T* __restrict row = x + j * size;
    T* __restrict out = e + j * size;
    T peak = row[0], sum = 0;
#pragma omp simd reduction(max : peak)
    for (int64_t c = 0; c < size; ++c) peak = max_(row[c], peak);
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < size; ++c) {
      const T value = exp_nonpositive(row[c] - peak);
      out[c] = value;
      sum += value;
    }
    peaks[j] = peak, sums[j] = sum;
  }
}

template <int64_t kWidth, typename T>
FASTLOSS_SIMD void finish_softmax(Softmax<kWidth, T>* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < kWidth; ++j) {
    out->inverse[j] = T(1) / out->sum[j];
    out->log_sum[j] = log_(out->sum[j]);
  }
}

template <typename T>
FASTLOSS_SIMD void add_smoothing_of_rows(const T* __restrict x, int64_t stride, int64_t classes,
                                         int64_t count, const T* __restrict peak,
                                         const T* __restrict log_sum, const T* __restrict w,
                                         T* __restrict out) {
  for (int64_t j = 0; j < count; ++j) {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < classes; ++c)
      sum += w[c] * ((peak[j] - x[j * stride + c]) + log_sum[j]);
    out[j] += sum;
  }
}

template <bool kSmooth, int64_t kWidth, typename T>
FASTLOSS_SIMD void write_rows(const T* __restrict e, int64_t size, int64_t classes, int64_t count,
                              const T* __restrict w, const TileGradient<kWidth, T>& g,
                              T* __restrict out, int64_t stride) {
  const int64_t full = classes / kRowLanes * kRowLanes, last = classes - kRowLanes;
  for (int64_t j = 0; j < count; ++j) {
    const T factor = g.factor[j], shift = g.shift[j];
    const T* __restrict from = e + j * size;
    T* __restrict to = out + j * stride;
    if (!g.alive[j]) {
      std::fill_n(to, classes, T(0));
      continue;
    }
    const auto write = [&](int64_t c) __attribute__((always_inline)) {
      T value = factor * from[c];
      if constexpr (kSmooth) value -= shift * w[c];
      to[c] = value;
    };
#pragma GCC ivdep
    for (int64_t c = 0; c < full; ++c) write(c);
#pragma GCC ivdep
    for (int64_t c = last; c < last + kRowLanes; ++c) write(c);
  }
}

template <typename T>
class ClassTiles {
 public:
  ClassTiles(const Planes& x, const std::optional<Planes>& gradient)
      : x_(x),
        gradient_(gradient),
        size_((x.classes + kRowLanes - 1) / kRowLanes * kRowLanes),
        rows_(std::clamp<int64_t>(kRowRoom / size_, 1, kNarrow)),
        logits_(rows_ * size_),
        exponentials_(rows_ * size_) {
    // The ends of the rows stay -inf, which changes no softmax.
    std::fill_n(logits_.get(), rows_ * size_, -std::numeric_limits<T>::infinity());
  }

  static bool fit(const Planes& x) {
    return x.row_stride() == 1 && x.pixel_stride() != 1 && x.classes >= kFewClasses;
  }
  static int64_t chunk(const Planes& x) {  // as many logits as a chunk of pixels of 16 classes
    return std::max(kPixels * kRowLanes / x.classes / kNarrow, int64_t(1)) * kNarrow;
  }
  template <typename Body>
  void for_each(int64_t p, int64_t count, const Body& body) const {
    for (int64_t end = p + count; p < end; p += rows_)
      body(std::integral_constant<int64_t, kNarrow>{}, p, std::min(rows_, end - p));
  }

  template <int64_t kWidth>
  void softmax(int64_t n, int64_t p, int64_t count, Softmax<kWidth, T>* out) {
    x_.at(n, p, [&](const auto* from) {
      load_rows(from, x_.pixel_stride(), x_.classes, count, logits_.get(), size_);
    });
    std::fill_n(out->peak, kWidth, T(0));
    std::fill_n(out->sum, kWidth, T(1));
    softmax_of_rows<T>(logits_.get(), size_ / kRowLanes, count, exponentials_.get(), out->peak,
                       out->sum, rows_at(x_, n, p + count),
                       gradient_ ? rows_at(*gradient_, n, p) : Ahead{});
    finish_softmax<kWidth, T>(out);
  }
  T logit(int64_t c, int64_t j) const { return logits_[j * size_ + c]; }
  template <int64_t kWidth>
  void add_smoothed(int64_t count, const Softmax<kWidth, T>& softmax, const T* w, T* out) const {
    add_smoothing_of_rows<T>(logits_.get(), size_, x_.classes, count, softmax.peak, softmax.log_sum,
                             w, out);
  }

  template <int64_t kWidth>
  void write(int64_t n, int64_t p, int64_t count, const Label<T>* label, const T* w,
             const TileGradient<kWidth, T>& g) {
    gradient_->at(n, p, [&](auto* to) {
      constexpr bool kDirect = std::is_same_v<decltype(to), T*>;
      T* out = logits_.get();
      int64_t stride = size_;
      if constexpr (kDirect) out = to, stride = gradient_->pixel_stride();
      const auto run = w ? &write_rows<true, kWidth, T> : &write_rows<false, kWidth, T>;
      run(exponentials_.get(), size_, x_.classes, count, w, g, out, stride);
      for (int64_t j = 0; j < count; ++j)
        if (g.alive[j] && label[j] < x_.classes) out[j * stride + label[j]] -= g.at_label[j];
      for (int64_t j = 0; !kDirect && j < count; ++j)
        convert_row(out + j * size_, x_.classes, to + j * gradient_->pixel_stride());
    });
  }
  template <int64_t kWidth>
  void clear(int64_t n, int64_t p, int64_t count) {
    gradient_->at(n, p, [&](auto* to) {
      using V = std::decay_t<decltype(*to)>;
      for (int64_t j = 0; j < count; ++j)
        std::fill_n(to + j * gradient_->pixel_stride(), x_.classes, static_cast<V>(0.0f));
    });
  }

 private:
  // A whole tile from pixel p on.
  Ahead rows_at(const Planes& planes, int64_t n, int64_t p) const {
    Ahead ahead;
    if (p + rows_ > planes.pixels) return ahead;
    planes.at(n, p, [&](const auto* row) {
      ahead = {reinterpret_cast<const char*>(row), planes.pixel_stride() * int64_t(sizeof(*row)),
               planes.classes * int64_t(sizeof(*row))};
    });
    return ahead;
  }

  const Planes& x_;
  const std::optional<Planes>& gradient_;
  const int64_t size_, rows_;
  const Workspace<T> logits_, exponentials_;
};

}  // namespace fastloss::cpu
