// What every element-wise loss on the CPU shares: reading tensors of any float dtype block by
// block, broadcast weights, reduction in a fixed order, and the loop over blocks.
//
// A kernel class gives the mathematics:
//   void values(int64_t start, int64_t count, T* out)                 unweighted losses
//   void gradients(int64_t start, int64_t count, const T* m)          writes m[i] * derivative
//   void both(int64_t start, int64_t count, const T* m, T* out)       the two in one pass, for the
//                                                                     gradient of the first input
// T is float for half and single precision tensors, double for double. Blocks depend on the number
// of elements only, and their sums are added in order, so results are the same for any thread
// count.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "common/math.h"

// One copy of the function per instruction set, chosen when the library is loaded. The loops inside
// are written to vectorise: inlined branch-free formulas, no aliasing.
#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
#define FASTLOSS_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FASTLOSS_SIMD
#endif

namespace fastloss::cpu {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// 512 elements keep the five buffers of a block in the first-level cache.
constexpr int64_t kBlock = 512;
// Fewer blocks than this per thread are not worth waking one.
constexpr int64_t kGrain = 16;

template <typename F>
void dispatch_float(ScalarType type, const F& f) {
  switch (type) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Half:
      return f(Half{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    default:
      STD_TORCH_CHECK(false, "expected a floating-point tensor");
  }
}

template <typename T>
constexpr ScalarType scalar_type_of() {
  return std::is_same_v<T, float> ? ScalarType::Float : ScalarType::Double;
}

// Reads a contiguous tensor as T; float and double tensors are read in place.
template <typename T>
class Source {
 public:
  explicit Source(const Tensor& tensor)
      : tensor_(torch::stable::contiguous(tensor)), type_(tensor.scalar_type()) {
    data_ = tensor_.const_data_ptr();
  }
  const T* load(int64_t start, int64_t count, T* buffer) const {
    if (type_ == scalar_type_of<T>()) return static_cast<const T*>(data_) + start;
    dispatch_float(type_, [&](auto sample) {
      const auto* data = static_cast<const decltype(sample)*>(data_) + start;
      for (int64_t i = 0; i < count; ++i) buffer[i] = static_cast<T>(data[i]);
    });
    return buffer;
  }

 private:
  Tensor tensor_;
  ScalarType type_;
  const void* data_;
};

// Reads a tensor with any strides, typically one expanded over rows or columns, as T in row-major
// order. Dimensions that lie evenly in memory are merged; up to two remain in the usual cases
// (per element, per row, per column, scalar), anything else is copied once.
template <typename T>
class Broadcast {
 public:
  explicit Broadcast(const Tensor& tensor) : tensor_(tensor), type_(tensor.scalar_type()) {
    if (!merge()) {
      tensor_ = torch::stable::contiguous(tensor);
      merge();
    }
    data_ = tensor_.const_data_ptr();
  }
  const T* load(int64_t start, int64_t count, T* buffer) const {
    if (contiguous_ && type_ == scalar_type_of<T>()) return static_cast<const T*>(data_) + start;
    dispatch_float(type_, [&](auto sample) {
      const auto* data = static_cast<const decltype(sample)*>(data_);
      int64_t row = start / columns_, column = start % columns_;
      for (int64_t done = 0, stop; done < count; ++row, column = 0) {
        stop = std::min(count, done + columns_ - column);
        const auto* source = data + row * row_stride_ + column * column_stride_;
        if (column_stride_ == 0) {  // one weight for the row: the usual case, worth a fast path
          std::fill(buffer + done, buffer + stop, static_cast<T>(*source));
        } else {
          for (int64_t i = 0; i < stop - done; ++i)
            buffer[done + i] = static_cast<T>(source[i * column_stride_]);
        }
        done = stop;
      }
    });
    return buffer;
  }

 private:
  bool merge() {
    std::vector<int64_t> sizes, strides;  // innermost first
    for (int64_t d = tensor_.dim() - 1; d >= 0; --d) {
      const int64_t size = tensor_.size(d), stride = tensor_.stride(d);
      if (size == 1) continue;
      if (!sizes.empty() && stride == strides.back() * sizes.back()) {
        sizes.back() *= size;
      } else {
        sizes.push_back(size);
        strides.push_back(stride);
      }
    }
    if (sizes.size() > 2) return false;
    columns_ = sizes.empty() ? 1 : std::max<int64_t>(sizes[0], 1);
    column_stride_ = sizes.empty() ? 0 : strides[0];
    row_stride_ = sizes.size() < 2 ? 0 : strides[1];
    contiguous_ = sizes.empty() || (sizes.size() == 1 && column_stride_ == 1);
    return true;
  }

  Tensor tensor_;
  ScalarType type_;
  const void* data_;
  int64_t columns_ = 1, column_stride_ = 0, row_stride_ = 0;
  bool contiguous_ = true;
};

// Writes T into a tensor of any float dtype. `target` gives where to write: the tensor itself if it
// holds T, else the buffer, which `store` then converts.
class Sink {
 public:
  Sink() = default;
  explicit Sink(const Tensor& tensor)
      : type_(tensor.scalar_type()), data_(tensor.mutable_data_ptr()) {}
  explicit operator bool() const { return data_ != nullptr; }

  template <typename T>
  T* target(int64_t start, T* buffer) const {
    return type_ == scalar_type_of<T>() ? static_cast<T*>(data_) + start : buffer;
  }
  template <typename T>
  void store(int64_t start, int64_t count, const T* values) const {
    dispatch_float(type_, [&](auto sample) {
      using U = decltype(sample);
      U* data = static_cast<U*>(data_) + start;
      if (static_cast<const void*>(data) == values) return;
      for (int64_t i = 0; i < count; ++i) data[i] = static_cast<U>(values[i]);
    });
  }

 private:
  ScalarType type_ = ScalarType::Float;
  void* data_ = nullptr;
};

template <typename T>
FASTLOSS_SIMD void multiply(const T* __restrict a, T* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] *= a[i];
}

template <typename T>
FASTLOSS_SIMD double sum(const T* values, int64_t count) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += values[i];
  return total;
}

template <typename T>
FASTLOSS_SIMD double dot(const T* __restrict a, const T* __restrict b, int64_t count) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += a[i] * b[i];
  return total;
}

template <typename T>
FASTLOSS_SIMD void scaled(const T* __restrict a, T factor, T* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = factor * a[i];
}

// How the unreduced losses become the result; see fastloss/reference/_reduce.py.
struct Reduction {
  std::optional<Tensor> weight;
  bool none;
  double divisor;
  int64_t count;           // unreduced losses
  int64_t grain = kGrain;  // blocks of them worth waking a thread

  Reduction(const std::optional<Tensor>& weight, const std::optional<Tensor>& avg_factor,
            std::optional<double> number, const std::string& reduction, int64_t count,
            int64_t mean_count)
      : weight(weight), none(reduction == "none"), divisor(1), count(count) {
    if (reduction != "mean") return;
    divisor = number ? *number : static_cast<double>(std::max<int64_t>(mean_count, 1));
    if (!avg_factor) return;
    dispatch_float(avg_factor->scalar_type(), [&](auto sample) {
      divisor =
          static_cast<double>(*static_cast<const decltype(sample)*>(avg_factor->const_data_ptr()));
    });
  }
};

inline ScalarType result_type(const Tensor& like, bool widen) {
  const bool half =
      like.scalar_type() == ScalarType::Half || like.scalar_type() == ScalarType::BFloat16;
  return widen && half ? ScalarType::Float : like.scalar_type();
}

// The gradient tensor for input `like` if bit `bit` of needs is set, else an empty one of the
// loss's first input.
inline Tensor gradient_like(const Tensor& first, const Tensor& like, int64_t needs, int bit) {
  if (needs >> bit & 1) return torch::stable::new_empty(like, like.sizes());
  return torch::stable::new_empty(first, std::vector<int64_t>{0});
}
inline Sink sink_for(const Tensor& gradient, int64_t needs, int bit) {
  return needs >> bit & 1 ? Sink(gradient) : Sink();
}

template <typename Body>
void for_each_block(int64_t count, int64_t grain, const Body& body) {
  torch::stable::parallel_for(0, (count + kBlock - 1) / kBlock, grain,
                              [&](int64_t first, int64_t last) {
                                for (int64_t b = first; b < last; ++b)
                                  body(b, b * kBlock, std::min(kBlock, count - b * kBlock));
                              });
}
template <typename Body>
void for_each_block(int64_t count, const Body& body) {
  for_each_block(count, kGrain, body);
}

template <typename T>
void finish_sum(const std::vector<double>& partial, const Reduction& r, const Sink& result) {
  double total = 0;
  for (double p : partial) total += p;
  const T value = static_cast<T>(total / r.divisor);
  result.store<T>(0, 1, &value);
}

// Result of shape `sizes` ("none") or a scalar.
template <typename T, typename Kernel, typename Sizes>
Tensor reduce(const Kernel& kernel, const Reduction& r, const Tensor& like, ScalarType type,
              const Sizes& sizes) {
  Tensor result = r.none ? torch::stable::new_empty(like, sizes, type)
                         : torch::stable::new_empty(like, std::vector<int64_t>{}, type);
  const Sink sink(result);
  std::optional<Broadcast<T>> weight;
  if (r.weight) weight.emplace(*r.weight);
  std::vector<double> partial(r.none ? 0 : (r.count + kBlock - 1) / kBlock);
  for_each_block(r.count, r.grain, [&](int64_t block, int64_t start, int64_t count) {
    T losses[kBlock], buffer[kBlock];
    T* out = r.none ? sink.target<T>(start, losses) : losses;
    kernel.values(start, count, out);
    const T* w = weight ? weight->load(start, count, buffer) : nullptr;
    if (r.none) {
      if (w) multiply(w, out, count);
      sink.store<T>(start, count, out);
    } else {
      partial[block] = w ? dot(w, out, count) : sum(out, count);
    }
  });
  if (!r.none) finish_sum<T>(partial, r, sink);
  return result;
}

// Loss and, in the same pass, what kernel.both writes: the gradient for an incoming gradient of 1.
template <typename T, typename Kernel>
Tensor reduce_with_gradient(const Kernel& kernel, const Reduction& r, const Tensor& like,
                            ScalarType type) {
  Tensor result = torch::stable::new_empty(like, std::vector<int64_t>{}, type);
  std::optional<Broadcast<T>> weight;
  if (r.weight) weight.emplace(*r.weight);
  const T scale = static_cast<T>(1 / r.divisor);
  std::vector<double> partial((r.count + kBlock - 1) / kBlock);
  for_each_block(r.count, r.grain, [&](int64_t block, int64_t start, int64_t count) {
    T m[kBlock], losses[kBlock], buffer[kBlock];
    const T* w = weight ? weight->load(start, count, buffer) : nullptr;
    if (w) {
      scaled(w, scale, m, count);
    } else {
      std::fill(m, m + count, scale);
    }
    kernel.both(start, count, m, losses);
    partial[block] = w ? dot(w, losses, count) : sum(losses, count);
  });
  finish_sum<T>(partial, r, Sink(result));
  return result;
}

// Calls kernel.gradients with m = d result / d weighted loss * weight; writes the gradient of the
// weight itself, d result / d weighted loss * loss, into `weight_gradient` if that is wanted.
template <typename T, typename Kernel>
void propagate(const Kernel& kernel, const Reduction& r, const Tensor& grad,
               const Sink& weight_gradient) {
  const Broadcast<T> incoming(grad);
  T scalar = 0, scratch;
  if (!r.none) scalar = static_cast<T>(*incoming.load(0, 1, &scratch) / r.divisor);
  std::optional<Broadcast<T>> weight;
  if (r.weight) weight.emplace(*r.weight);
  for_each_block(r.count, r.grain, [&](int64_t, int64_t start, int64_t count) {
    T m[kBlock], buffer[kBlock], losses[kBlock];
    if (r.none) {
      const T* g = incoming.load(start, count, m);
      if (g != m) std::copy(g, g + count, m);
    } else {
      std::fill(m, m + count, scalar);
    }
    if (weight_gradient) {
      T* out = weight_gradient.target<T>(start, losses);
      kernel.values(start, count, out);
      multiply(m, out, count);
      weight_gradient.store<T>(start, count, out);
    }
    if (weight) multiply(weight->load(start, count, buffer), m, count);
    kernel.gradients(start, count, m);
  });
}

}  // namespace fastloss::cpu
