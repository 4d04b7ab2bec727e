// The ops of losses that have one value a row and are reduced over the rows. A kernel is a call
//   run(const T* grads, const Sink& gradient) -> std::vector<T>
// which returns the losses of all rows and, where there is a gradient to write, writes that of the
// logits from the gradients of the losses.
#pragma once

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/elementwise.h"

namespace fastloss::cpu {

// The numbers of a tensor (N,), 1 if there is none.
template <typename T>
std::vector<T> numbers(const std::optional<Tensor>& tensor, int64_t count) {
  std::vector<T> result(count, T(1));
  if (!tensor) return result;
  const Broadcast<T> source(*tensor);  // keeps the copy of a strided tensor
  const T* from = source.load(0, count, result.data());
  if (from != result.data()) std::copy(from, from + count, result.data());
  return result;
}

template <typename T>
Tensor reduced_rows(std::vector<T> losses, const std::vector<T>& weight, const Reduction& r,
                    const Tensor& like, bool widen) {
  for (int64_t i = 0; i < r.count; ++i) losses[i] *= weight[i];
  const ScalarType type = result_type(like, widen);
  if (r.none) {
    Tensor result = torch::stable::new_empty(like, {r.count}, type);
    Sink(result).store<T>(0, r.count, losses.data());
    return result;
  }
  Tensor result = torch::stable::new_empty(like, std::vector<int64_t>{}, type);
  finish_sum<T>({losses.begin(), losses.end()}, r, Sink(result));
  return result;
}

template <typename Run>
auto with_compute_type(const Tensor& logits, const Run& run) {
  return logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

template <typename Run>
Tensor row_losses(const Tensor& logits, const Reduction& r, bool widen, const Run& run) {
  return with_compute_type(logits, [&](auto sample) {
    using T = decltype(sample);
    const T* no_grads = nullptr;
    return reduced_rows(run(no_grads, Sink()), numbers<T>(r.weight, r.count), r, logits, widen);
  });
}

// Writes the gradients of the logits and of the weight where they are wanted.
template <typename Run>
void row_gradients(const Tensor& grad, const Tensor& logits, const Reduction& r,
                   const Sink& g_logits, const Sink& g_weight, const Run& run) {
  with_compute_type(logits, [&](auto sample) {
    using T = decltype(sample);
    std::vector<T> incoming =
        r.none ? numbers<T>(grad, r.count) : std::vector<T>(r.count, numbers<T>(grad, 1)[0]);
    const std::vector<T> weights = numbers<T>(r.weight, r.count);
    std::vector<T> grads(r.count);
    for (int64_t i = 0; i < r.count; ++i) {
      incoming[i] /= static_cast<T>(r.divisor);
      grads[i] = incoming[i] * weights[i];
    }
    const T* of_losses = grads.data();
    std::vector<T> losses = run(of_losses, g_logits);
    for (int64_t i = 0; i < r.count; ++i) losses[i] *= incoming[i];
    if (g_weight) g_weight.store<T>(0, r.count, losses.data());
  });
}

template <typename Run>
std::tuple<Tensor, Tensor> row_losses_backward(const Tensor& grad, const Tensor& logits,
                                               const Reduction& r, int64_t needs, const Run& run) {
  std::tuple<Tensor, Tensor> result{gradient_like(logits, logits, needs, 0),
                                    gradient_like(logits, r.weight.value_or(logits), needs, 1)};
  const auto& [g_logits, g_weight] = result;
  row_gradients(grad, logits, r, sink_for(g_logits, needs, 0), sink_for(g_weight, needs, 1), run);
  return result;
}

// The loss, and the gradient of the logits for an incoming gradient of 1.
template <typename Run>
std::tuple<Tensor, Tensor> row_losses_with_gradient(const Tensor& logits, const Reduction& r,
                                                    bool widen, const Run& run) {
  Tensor gradient = gradient_like(logits, logits, 1, 0);
  const Tensor loss = with_compute_type(logits, [&](auto sample) {
    using T = decltype(sample);
    const std::vector<T> weights = numbers<T>(r.weight, r.count);
    std::vector<T> grads(weights);
    for (T& grad : grads) grad /= static_cast<T>(r.divisor);
    const T* of_losses = grads.data();
    return reduced_rows(run(of_losses, Sink(gradient)), weights, r, logits, widen);
  });
  return {loss, gradient};
}

}  // namespace fastloss::cpu
