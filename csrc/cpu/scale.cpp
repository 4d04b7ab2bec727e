// fastloss::scale_, the in-place product of a gradient with a scalar. A factor of 1, which is what
// loss.backward() passes, costs nothing.
#include <torch/csrc/stable/library.h>

#include "cpu/elementwise.h"

namespace fastloss::cpu {
namespace {

template <typename T>
FASTLOSS_SIMD void scale_block(T* values, T factor, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] *= factor;
}

void scale_(Tensor gradient, Tensor factor) {
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    T value;
    value = *Source<T>(factor).load(0, 1, &value);
    if (value == T(1)) return;
    T* data = static_cast<T*>(gradient.mutable_data_ptr());
    for_each_block(gradient.numel(), [&](int64_t, int64_t start, int64_t count) {
      scale_block(data + start, value, count);
    });
  };
  gradient.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) { m.impl("scale_", TORCH_BOX(&scale_)); }

}  // namespace
}  // namespace fastloss::cpu
