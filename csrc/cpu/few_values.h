// The reduction of a few losses, such as one of each image and class, that a kernel made in double.
#pragma once

#include "cpu/elementwise.h"

namespace fastloss::cpu {

inline double divisor_of(const std::string& reduction, int64_t count) {
  return reduction == "mean" ? static_cast<double>(std::max<int64_t>(count, 1)) : 1.0;
}

// A tensor of `sizes` for "none", else a scalar.
inline Tensor reduced(const std::vector<double>& values, const std::vector<int64_t>& sizes,
                      const std::string& reduction, const Tensor& like, bool widen) {
  const ScalarType type = result_type(like, widen);
  const int64_t count = static_cast<int64_t>(values.size());
  if (reduction == "none") {
    Tensor result = torch::stable::new_empty(like, sizes, type);
    Sink(result).store<double>(0, count, values.data());
    return result;
  }
  double total = 0;
  for (double value : values) total += value;
  total /= divisor_of(reduction, count);
  Tensor result = torch::stable::new_empty(like, std::vector<int64_t>{}, type);
  Sink(result).store<double>(0, 1, &total);
  return result;
}

// The gradient of each of `count` values from that of the result, which is 1 if none is given.
inline std::vector<double> spread(const std::optional<Tensor>& grad, const std::string& reduction,
                                  int64_t count) {
  std::vector<double> result(count, 1);
  if (grad && count) {
    const bool none = reduction == "none";
    const Broadcast<double> source(*grad);  // keeps the copy of a strided tensor
    std::vector<double> buffer(none ? count : 1);
    const double* from = source.load(0, none ? count : 1, buffer.data());
    for (int64_t i = 0; i < count; ++i) result[i] = from[none ? i : 0];
  }
  for (double& value : result) value /= divisor_of(reduction, count);
  return result;
}

}  // namespace fastloss::cpu
