// CPU kernels of `boundary_pool`: the maximum over a sliding square window of each plane (H, W).
#include <torch/csrc/stable/library.h>

#include "cpu/sliding_window.h"

namespace fastloss::cpu {
namespace {

// A tensor (N, C, H, W) of any float dtype and strides, read and written plane by plane.
class PlaneRows {
 public:
  explicit PlaneRows(const Tensor& tensor)
      : planes(tensor.size(0) * tensor.size(1)),
        height(tensor.size(2)),
        width(tensor.size(3)),
        channels_(tensor.size(1)),
        type_(tensor.scalar_type()),
        strides_{tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)},
        data_(const_cast<void*>(tensor.const_data_ptr())) {}

  const int64_t planes, height, width;

  template <typename T>
  void load(int64_t plane, int64_t y, T* out) const {
    visit(plane, y, [&](const auto& element, int64_t x) { out[x] = static_cast<T>(element); });
  }
  template <typename T>
  void store(int64_t plane, int64_t y, const T* values) const {
    visit(plane, y, [&](auto& element, int64_t x) {
      element = static_cast<std::decay_t<decltype(element)>>(values[x]);
    });
  }

 private:
  template <typename F>
  void visit(int64_t plane, int64_t y, const F& f) const {
    dispatch_float(type_, [&](auto sample) {
      auto* data = static_cast<decltype(sample)*>(data_) + plane / channels_ * strides_[0] +
                   plane % channels_ * strides_[1] + y * strides_[2];
      if (strides_[3] == 1)
        for (int64_t x = 0; x < width; ++x) f(data[x], x);
      else
        for (int64_t x = 0; x < width; ++x) f(data[x * strides_[3]], x);
    });
  }

  int64_t channels_;
  ScalarType type_;
  int64_t strides_[4];
  void* data_;
};

template <typename T>
void maxima(const PlaneRows& x, int64_t window, const PlaneRows& out) {
  torch::stable::parallel_for(0, x.planes, 1, [&](int64_t first, int64_t last) {
    SlidingWindow<Maxima<T>> slide(x.height, x.width, window);
    const Buffer<Maxima<T>> result(x.height * x.width);
    const auto cells = result.cells();
    for (int64_t plane = first; plane < last; ++plane) {
      slide.run([&](int64_t y, Maxima<T> row) { x.load(plane, y, row.value); }, cells);
      for (int64_t y = 0; y < x.height; ++y) out.store(plane, y, cells.value + y * x.width);
    }
  });
}

template <typename T>
void gradients(const PlaneRows& grad, const PlaneRows& x, int64_t window, const PlaneRows& out) {
  const int64_t size = x.height * x.width;
  torch::stable::parallel_for(0, x.planes, 1, [&](int64_t first, int64_t last) {
    SlidingWindow<PlacedMaxima<T>> slide(x.height, x.width, window);
    const Buffer<PlacedMaxima<T>> result(size);
    const auto cells = result.cells();
    const Workspace<double> sums(size);  // as many as a window has pixels may go to one place
    std::vector<T> line(x.width);
    for (int64_t plane = first; plane < last; ++plane) {
      const auto load = [&](int64_t y, PlacedMaxima<T> row) {
        x.load(plane, y, row.value);
        for (int64_t i = 0; i < x.width; ++i) row.place[i] = static_cast<Place<T>>(y * x.width + i);
      };
      slide.run(load, cells);
      std::fill_n(sums.get(), size, 0.0);
      for (int64_t y = 0; y < x.height; ++y) {
        grad.load(plane, y, line.data());
        const Place<T>* place = cells.place + y * x.width;
        for (int64_t i = 0; i < x.width; ++i) sums[place[i]] += line[i];
      }
      for (int64_t y = 0; y < x.height; ++y) {
        for (int64_t i = 0; i < x.width; ++i) line[i] = static_cast<T>(sums[y * x.width + i]);
        out.store(plane, y, line.data());
      }
    }
  });
}

Tensor boundary_pool(Tensor x, int64_t window) {
  Tensor result = torch::stable::new_empty(x, x.sizes());
  if (x.numel() == 0) return result;
  const PlaneRows from(x), to(result);
  x.scalar_type() == ScalarType::Double ? maxima<double>(from, window, to)
                                        : maxima<float>(from, window, to);
  return result;
}

Tensor boundary_pool_backward(Tensor grad, Tensor x, int64_t window, int64_t) {
  Tensor result = torch::stable::new_empty(x, x.sizes());
  if (x.numel() == 0) return result;
  const PlaneRows g(grad), from(x), to(result);
  x.scalar_type() == ScalarType::Double ? gradients<double>(g, from, window, to)
                                        : gradients<float>(g, from, window, to);
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("boundary_pool", TORCH_BOX(&boundary_pool));
  m.impl("boundary_pool_backward", TORCH_BOX(&boundary_pool_backward));
}

}  // namespace
}  // namespace fastloss::cpu
