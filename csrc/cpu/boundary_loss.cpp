// CPU kernels of `boundary_loss`; formulas and edge rules: fastloss/reference/boundary_loss.py.
//
// Some images at a time: softmax of their pixels, the boundaries of their labels as one bit per
// class, then each image and class by itself, at last the softmax's derivative. All in between
// stays in a workspace of those images, mostly in the cache.
#include "cpu/boundary_truth.h"
#include "cpu/few_values.h"

namespace fastloss::cpu {
namespace {

constexpr int64_t kPlanesAtOnce = 16;  // images are taken together until they have so many planes
constexpr int64_t kStreams = 4;        // see `scatter`
constexpr double kEps = 1e-7;

// p = exponentials / sum; returns how many of them are NaN.
template <typename T>
FASTLOSS_SIMD int64_t normalise(const T* __restrict exponentials, const T* __restrict inverse,
                                int64_t count, T* __restrict p) {
  int64_t unordered = 0;
#pragma omp simd reduction(+ : unordered)
  for (int64_t j = 0; j < count; ++j) {
    const T value = exponentials[j] * inverse[j];
    p[j] = value;
    unordered += value != value;
  }
  return unordered;
}

template <typename T>
FASTLOSS_SIMD void inverse_row(const T* __restrict p, Place<T> first, int64_t count,
                               T* __restrict out, Place<T>* __restrict place) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = T(1) - p[i];
    place[i] = first + static_cast<Place<T>>(i);
  }
}

// b = outside - (1 - p), in the place of `outside`. Adds to sums[] the sum of b and that of b where
// `sets` has the bit.
template <typename T>
FASTLOSS_SIMD void boundary_row(const T* __restrict p, const uint32_t* __restrict sets,
                                uint32_t bit, int64_t count, T* __restrict outside,
                                double* __restrict sums) {
  T every = 0, hits = 0;
#pragma omp simd reduction(+ : every, hits)
  for (int64_t i = 0; i < count; ++i) {
    const T b = outside[i] - (T(1) - p[i]);
    outside[i] = b;
    every += b;
    hits += (sets[i] & bit) != 0 ? b : T(0);
  }
  sums[0] += every, sums[1] += hits;
}

// The gradient of b, from how often a pixel is the maximum for a true boundary.
template <typename T>
FASTLOSS_SIMD void weigh_row(const uint32_t* __restrict sets, uint32_t bit, T by_predicted,
                             T by_hits, T by_found, int64_t count, T* __restrict times) {
  for (int64_t i = 0; i < count; ++i)
    times[i] = by_predicted + ((sets[i] & bit) != 0 ? by_hits : T(0)) + by_found * times[i];
}

template <typename T>
FASTLOSS_SIMD void subtract_row(const T* __restrict a, const double* __restrict b, int64_t count,
                                T* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(a[i] - b[i]);
}

template <typename T>
FASTLOSS_SIMD void add_product(const T* __restrict a, const T* __restrict b, int64_t count,
                               T* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] += a[i] * b[i];
}

template <typename T>
FASTLOSS_SIMD void softmax_slope(const T* __restrict p, const T* __restrict g,
                                 const T* __restrict mean, int64_t count, T* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = p[i] * (g[i] - mean[i]);
}

// sums[place[i]] += values[i]. Neighbours often have the same maximum, and each addition would wait
// for the one before; distant parts of the plane, in turn, do not.
template <typename T>
void scatter(const T* values, const Place<T>* place, int64_t count, double* sums) {
  const int64_t part = count / kStreams;
  for (int64_t i = 0; i < part; ++i)
    for (int64_t s = 0; s < kStreams; ++s)
      sums[place[i + s * part]] += static_cast<double>(values[i + s * part]);
  for (int64_t i = kStreams * part; i < count; ++i)
    sums[place[i]] += static_cast<double>(values[i]);
}

// One image and class: F1, and the gradient of the probabilities.
template <typename T>
class PlaneKernel {
 public:
  PlaneKernel(int64_t height, int64_t width, int64_t theta0, int64_t theta)
      : width_(width),
        pixels_(height * width),
        outer_(height, width, theta0),
        wider_(height, width, theta),
        boundary_(pixels_),
        extended_(pixels_),
        times_(pixels_),
        sums_(pixels_) {}

  // F1; and, if `gradient` is given, there the derivative of F1 by p times `factor`.
  double run(const T* p, const Truth& truth, int64_t c, double factor, T* gradient) {
    const auto boundary = boundary_.cells(), extended = extended_.cells();
    const auto inverse = [&](int64_t y, PlacedMaxima<T> row) {
      inverse_row(p + y * width_, static_cast<Place<T>>(y * width_), width_, row.value, row.place);
    };
    outer_.run(inverse, boundary);
    const uint32_t *near = truth.near(c), bit = Truth::bit(c);
    double sums[2] = {0, 0};
    for (int64_t i = 0; i < pixels_; i += kBlock)
      boundary_row(p + i, near + i, bit, std::min(kBlock, pixels_ - i), boundary.value + i, sums);
    const auto widened = [&](int64_t y, PlacedMaxima<T> row) {
      row.copy(width_, boundary + y * width_);
      for (int64_t i = 0; i < width_; ++i) row.place[i] = static_cast<Place<T>>(y * width_ + i);
    };
    wider_.run(widened, extended);
    double found = 0;
    for (const int32_t* i = truth.begin(c); i < truth.end(c); ++i) found += extended.value[*i];
    const double true_ = static_cast<double>(truth.end(c) - truth.begin(c));

    const double precision = sums[1] / (sums[0] + kEps), recall = found / (true_ + kEps);
    const double total = precision + recall + kEps, scale = 2 * factor / (total * total);
    if (gradient) {
      const double by_hits = scale * recall * (recall + kEps) / (sums[0] + kEps);
      const double by_found = scale * precision * (precision + kEps) / (true_ + kEps);
      propagate(truth, c, by_hits, -precision * by_hits, by_found, gradient);
    }
    return 2 * precision * recall / total;
  }

 private:
  // From the derivatives by sum(b e*), sum(b) and sum(e b*) to that by p, back through both pools.
  void propagate(const Truth& truth, int64_t c, double by_hits, double by_predicted,
                 double by_found, T* gradient) {
    T* times = times_.get();
    std::fill(times, times + pixels_, T(0));
    for (const int32_t* i = truth.begin(c); i < truth.end(c); ++i)
      times[extended_.cells().place[*i]] += T(1);
    weigh_row(truth.near(c), Truth::bit(c), static_cast<T>(by_predicted), static_cast<T>(by_hits),
              static_cast<T>(by_found), pixels_, times);
    std::fill(sums_.get(), sums_.get() + pixels_, 0.0);
    scatter(times, boundary_.cells().place, pixels_, sums_.get());
    subtract_row(times, sums_.get(), pixels_, gradient);
  }

  int64_t width_, pixels_;
  SlidingWindow<PlacedMaxima<T>> outer_, wider_;
  Buffer<PlacedMaxima<T>> boundary_, extended_;
  Workspace<T> times_;
  Workspace<double> sums_;
};

template <typename T>
class BoundaryKernel {
 public:
  // grad: of the loss of image and class, (N, C); without a gradient nullptr. loss: (N, C).
  BoundaryKernel(const Planes& x, const PixelTarget& target, int64_t width, int64_t theta0,
                 int64_t theta, const std::optional<Planes>& gradient, const double* grad,
                 double* loss)
      : x_(x),
        target_(target),
        width_(width),
        theta0_(theta0),
        theta_(theta),
        gradient_(gradient),
        grad_(grad),
        loss_(loss),
        chunks_(chunks_of(x)) {}

  void run() {
    const int64_t group = std::max<int64_t>(1, kPlanesAtOnce / x_.classes);
    const int64_t size = std::min(group, x_.images) * x_.classes * x_.pixels;
    p_ = Workspace<T>(size);
    if (gradient_) slopes_ = Workspace<T>(size);
    for (int64_t n = 0; n < x_.images; n += group) images(n, std::min(group, x_.images - n));
  }

 private:
  void images(int64_t n, int64_t count) {
    std::vector<char> poisoned(count * chunks_);
    for_each_chunk(count, [&](int64_t i, int64_t k, int64_t p, int64_t pixels) {
      poisoned[i] = probabilities(n, k, p, pixels);
    });
    std::vector<std::unique_ptr<Truth>> truth(count);
    torch::stable::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
      for (int64_t k = first; k < last; ++k)
        truth[k] = std::make_unique<Truth>(target_, n + k, x_.classes, x_.pixels / width_, width_,
                                           theta0_, theta_);
    });
    torch::stable::parallel_for(0, count * x_.classes, 1, [&](int64_t first, int64_t last) {
      PlaneKernel<T> kernel(x_.pixels / width_, width_, theta0_, theta_);
      for (int64_t i = first; i < last; ++i) {
        const int64_t k = i / x_.classes, c = i % x_.classes, at = n * x_.classes + i;
        T* slopes = gradient_ ? slopes_.get() + i * x_.pixels : nullptr;
        const bool is_nan = std::any_of(&poisoned[k * chunks_], &poisoned[k * chunks_] + chunks_,
                                        [](char any) { return any != 0; });
        const double factor = grad_ ? -grad_[at] : 0;
        const bool is_empty = truth[k]->begin(c) == truth[k]->end(c);
        if (is_empty && !is_nan && std::isfinite(factor)) {  // its F1 is 0, whatever p is
          if (slopes) std::fill(slopes, slopes + x_.pixels, T(0));
          loss_[at] = 1;
          continue;
        }
        loss_[at] = 1 - kernel.run(p_.get() + i * x_.pixels, *truth[k], c, factor, slopes);
      }
    });
    if (!gradient_) return;
    for_each_chunk(count, [&](int64_t, int64_t k, int64_t p, int64_t pixels) {
      logit_gradients(n, k, p, pixels);
    });
  }

  // Calls body(chunk, image of the group, first pixel, pixels), in parallel.
  template <typename Body>
  void for_each_chunk(int64_t count, const Body& body) const {
    torch::stable::parallel_for(0, count * chunks_, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t p = i % chunks_ * kPixels;
        body(i, i / chunks_, p, std::min(kPixels, x_.pixels - p));
      }
    });
  }

  // The softmax of a chunk; whether one is NaN.
  bool probabilities(int64_t n, int64_t k, int64_t p, int64_t count) const {
    const int64_t size = x_.classes * (x_.classes <= kManyClasses ? kWide : kNarrow);
    std::vector<T> logits, exponentials(size);
    int64_t unordered = 0;
    for_each_tile(x_.classes, p, count, [&](auto width, int64_t first, int64_t pixels) {
      constexpr int64_t kWidth = width;
      const Rows<T> x(x_, n + k, first, pixels, kWidth, logits);
      Softmax<kWidth, T> softmax;
      softmax_of<kWidth>(x.of(0), x.stride(), x_.classes, exponentials.data(), &softmax);
      for (int64_t c = 0; c < x_.classes; ++c)
        unordered += normalise(exponentials.data() + c * kWidth, softmax.inverse, pixels,
                               p_.get() + (k * x_.classes + c) * x_.pixels + first);
    });
    traffic.read += x_.bytes(count);
    return unordered > 0;
  }

  void logit_gradients(int64_t n, int64_t k, int64_t p, int64_t count) const {
    std::vector<T> out;
    for_each_tile(x_.classes, p, count, [&](auto width, int64_t first, int64_t pixels) {
      constexpr int64_t kWidth = width;
      T* to = gradient_->rows<T>(n + k, first, pixels, kWidth);
      const bool direct = to != nullptr;
      if (!direct) {
        out.resize(x_.classes * kWidth);
        to = out.data();
      }
      const int64_t stride = direct ? gradient_->row_stride() : kWidth;
      const int64_t at = k * x_.classes * x_.pixels + first;
      alignas(64) T mean[kWidth] = {};
      for (int64_t c = 0; c < x_.classes; ++c)
        add_product(&p_[at + c * x_.pixels], &slopes_[at + c * x_.pixels], pixels, mean);
      for (int64_t c = 0; c < x_.classes; ++c)
        softmax_slope(&p_[at + c * x_.pixels], &slopes_[at + c * x_.pixels], mean, pixels,
                      to + c * stride);
      if (!direct) gradient_->store(n + k, first, pixels, kWidth, out.data());
    });
    traffic.written += gradient_->bytes(count);
  }

  const Planes& x_;
  const PixelTarget& target_;
  int64_t width_, theta0_, theta_;
  const std::optional<Planes>& gradient_;
  const double* grad_;
  double* loss_;
  int64_t chunks_;
  Workspace<T> p_, slopes_;  // (images of the group, C, P)
};

// The losses (N, C), and the gradient that `grad`, of each loss, has at the logits.
std::vector<double> run(const Tensor& logits, const Tensor& target, int64_t width, int64_t theta0,
                        int64_t theta, const std::optional<Planes>& gradient,
                        const std::vector<double>& grad) {
  const Planes x(logits);
  std::vector<double> loss(x.images * x.classes);
  if (logits.numel() == 0) return loss;
  const PixelTarget t(logits, target, std::nullopt, true);
  const double* g = grad.empty() ? nullptr : grad.data();
  if (logits.scalar_type() == ScalarType::Double)
    BoundaryKernel<double>(x, t, width, theta0, theta, gradient, g, loss.data()).run();
  else
    BoundaryKernel<float>(x, t, width, theta0, theta, gradient, g, loss.data()).run();
  t.check();
  return loss;
}

int64_t values_of(const Tensor& logits) { return logits.size(0) * logits.size(1); }

Tensor result_of(const std::vector<double>& loss, const Tensor& logits,
                 const std::string& reduction, bool widen) {
  return reduced(loss, {logits.size(0), logits.size(1)}, reduction, logits, widen);
}

Tensor boundary_loss(Tensor logits, Tensor target, int64_t width, int64_t theta0, int64_t theta,
                     std::string reduction, bool widen) {
  return result_of(run(logits, target, width, theta0, theta, {}, {}), logits, reduction, widen);
}

Tensor boundary_loss_backward(Tensor grad, Tensor logits, Tensor target, int64_t width,
                              int64_t theta0, int64_t theta, std::string reduction, bool, int64_t) {
  const Tensor result = torch::stable::empty_like(logits);
  const auto incoming = spread(grad, reduction, values_of(logits));
  run(logits, target, width, theta0, theta, Planes(result), incoming);
  return result;
}

std::tuple<Tensor, Tensor> boundary_loss_with_gradient(Tensor logits, Tensor target, int64_t width,
                                                       int64_t theta0, int64_t theta,
                                                       std::string reduction, bool widen) {
  const Tensor gradient = torch::stable::empty_like(logits);
  const auto incoming = spread({}, reduction, values_of(logits));
  const auto loss = run(logits, target, width, theta0, theta, Planes(gradient), incoming);
  return {result_of(loss, logits, reduction, widen), gradient};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("boundary_loss", TORCH_BOX(&boundary_loss));
  m.impl("boundary_loss_backward", TORCH_BOX(&boundary_loss_backward));
  m.impl("boundary_loss_with_gradient", TORCH_BOX(&boundary_loss_with_gradient));
}

}  // namespace
}  // namespace fastloss::cpu
