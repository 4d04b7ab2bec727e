// CPU kernels of the stem `embedding_distance`.
#include "common/embedding_distance.h"

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "cpu/pixel_tiles.h"

namespace fastloss::cpu {
namespace {

// Of some pairs; exact in float for a block.
template <typename T>
struct Counts {
  T positives = 0, negatives = 0, weighted = 0;
};

// `negative` is 1 for the negatives, else 0.
template <typename T>
FASTLOSS_SIMD void find_negatives(const T* __restrict pred, const T* __restrict target,
                                  const T* __restrict weight, int64_t count, T neg_margin,
                                  T* __restrict hardness, T* __restrict negative,
                                  Counts<T>* counts) {
  T positives = 0, negatives = 0, weighted = 0;
#pragma omp simd reduction(+ : positives, negatives, weighted)
  for (int64_t i = 0; i < count; ++i) {
    const EmbeddingPair<T> pair(pred[i], target[i], weight[i], T(0), neg_margin);
    negative[i] = is_pair(target[i], weight[i], T(0));
    hardness[i] = negative[i] == T(0) ? T(0) : pair.prediction;
    positives += is_pair(target[i], weight[i], T(1));
    negatives += negative[i];
    weighted += weight[i] > T(0) ? T(1) : T(0);
  }
  *counts = {positives, negatives, weighted};
}

template <typename T>
FASTLOSS_SIMD void flags_of(const T* __restrict x, int64_t count, bool* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = x[i] != T(0);
}

// Losses, and m times their derivatives by the prediction; `kept` is 0 for a negative that is not.
template <typename T>
FASTLOSS_SIMD void embedding_distance_both(const T* __restrict pred, const T* __restrict target,
                                           const T* __restrict weight, const T* __restrict kept,
                                           const T* __restrict m, int64_t count, T pos_margin,
                                           T neg_margin, T* __restrict loss,
                                           T* __restrict gradient) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const EmbeddingPair<T> pair(pred[i], target[i], weight[i], pos_margin, neg_margin);
    const T dropped = kept[i] == T(0) ? is_pair(target[i], weight[i], T(0)) : T(0);
    const T d = dropped == T(0) ? pair.difference : T(0);
    loss[i] = d * d;
    gradient[i] = pair.slope * (T(1) - dropped) == T(0) ? T(0) : m[i] * (T(2) * d);
  }
}

template <typename T>
struct EmbeddingKernel {
  Source<T> pred, target;
  std::optional<Broadcast<T>> weight;
  std::optional<Tensor> kept;
  T pos_margin, neg_margin;
  Sink pred_gradient;

  EmbeddingKernel(const Tensor& pred, const Tensor& target, const std::optional<Tensor>& weights,
                  const std::optional<Tensor>& kept, double pos_margin, double neg_margin)
      : pred(pred),
        target(target),
        kept(kept),
        pos_margin(static_cast<T>(pos_margin)),
        neg_margin(static_cast<T>(neg_margin)) {
    if (weights) weight.emplace(*weights);
    if (kept) this->kept = torch::stable::contiguous(*kept);
  }
  const T* weights(int64_t start, int64_t count, T* buffer) const {
    if (weight) return weight->load(start, count, buffer);
    std::fill(buffer, buffer + count, T(1));
    return buffer;
  }
  void run(int64_t start, int64_t count, const T* m, T* loss, T* gradient) const {
    T a[kBlock], b[kBlock], c[kBlock], flags[kBlock];
    if (kept)
      convert_row(static_cast<const uint8_t*>(kept->const_data_ptr()) + start, count, flags);
    else
      std::fill(flags, flags + count, T(1));
    embedding_distance_both(pred.load(start, count, a), target.load(start, count, b),
                            weights(start, count, c), flags, m, count, pos_margin, neg_margin, loss,
                            gradient);
  }

  void values(int64_t start, int64_t count, T* out) const {
    T unused[kBlock], m[kBlock] = {};
    run(start, count, m, out, unused);
  }
  void gradients(int64_t start, int64_t count, const T* m) const {
    T losses[kBlock];
    both(start, count, m, losses);
  }
  void both(int64_t start, int64_t count, const T* m, T* losses) const {
    T buffer[kBlock];
    T* out = pred_gradient ? pred_gradient.target<T>(start, buffer) : buffer;
    run(start, count, m, losses, out);
    if (pred_gradient) pred_gradient.store<T>(start, count, out);
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> embedding_distance_negatives(
    Tensor pred, Tensor target, std::optional<Tensor> weight, double neg_margin, double neg_pos_ub,
    double min_count, double min_positives) {
  const int64_t count = pred.numel();
  const bool wide = pred.scalar_type() == ScalarType::Double;
  const ScalarType type = wide ? ScalarType::Double : ScalarType::Float;
  Tensor hardness = torch::stable::new_empty(pred, pred.sizes(), type);
  Tensor negative = torch::stable::new_empty(pred, pred.sizes(), ScalarType::Bool);
  Tensor limit = torch::stable::new_empty(pred, {1}, ScalarType::Long);
  Tensor left = torch::stable::new_empty(pred, std::vector<int64_t>{}, ScalarType::Double);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    const EmbeddingKernel<T> pairs(pred, target, weight, {}, 0, neg_margin);
    T* values = static_cast<T*>(hardness.mutable_data_ptr());
    bool* flags = static_cast<bool*>(negative.mutable_data_ptr());
    std::vector<Counts<T>> counts((count + kBlock - 1) / kBlock);
    for_each_block(count, [&](int64_t block, int64_t start, int64_t size) {
      T a[kBlock], b[kBlock], c[kBlock], found[kBlock];
      find_negatives(pairs.pred.load(start, size, a), pairs.target.load(start, size, b),
                     pairs.weights(start, size, c), size, pairs.neg_margin, values + start, found,
                     &counts[block]);
      flags_of(found, size, flags + start);
    });
    Counts<double> total;
    for (const Counts<T>& c : counts) {
      total.positives += static_cast<double>(c.positives);
      total.negatives += static_cast<double>(c.negatives);
      total.weighted += static_cast<double>(c.weighted);
    }
    const double most = std::min(std::floor(std::max(total.positives, min_positives) * neg_pos_ub),
                                 static_cast<double>(count));
    *static_cast<int64_t*>(limit.mutable_data_ptr()) = static_cast<int64_t>(most);
    *static_cast<double*>(left.mutable_data_ptr()) =
        std::max(total.weighted - std::max(total.negatives - most, 0.0), min_count);
  };
  wide ? run(double{}) : run(float{});
  return {hardness, negative, limit, left};
}

Tensor embedding_distance(Tensor pred, Tensor target, std::optional<Tensor> weight,
                          std::optional<Tensor> kept, std::optional<Tensor> avg_factor,
                          double pos_margin, double neg_margin, std::optional<double> divisor,
                          std::string reduction, bool widen) {
  const Reduction r(weight, avg_factor, divisor, reduction, pred.numel(), pred.numel());
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    const EmbeddingKernel<T> kernel(pred, target, weight, kept, pos_margin, neg_margin);
    return reduce<T>(kernel, r, pred, result_type(pred, widen), pred.sizes());
  };
  return pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

std::tuple<Tensor, Tensor> embedding_distance_backward(
    Tensor grad, Tensor pred, Tensor target, std::optional<Tensor> weight,
    std::optional<Tensor> kept, std::optional<Tensor> avg_factor, double pos_margin,
    double neg_margin, std::optional<double> divisor, std::string reduction, bool, int64_t needs) {
  const Reduction r(weight, avg_factor, divisor, reduction, pred.numel(), pred.numel());
  std::tuple<Tensor, Tensor> result{gradient_like(pred, pred, needs, 0),
                                    gradient_like(pred, weight.value_or(pred), needs, 1)};
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    EmbeddingKernel<T> kernel(pred, target, weight, kept, pos_margin, neg_margin);
    kernel.pred_gradient = sink_for(std::get<0>(result), needs, 0);
    propagate<T>(kernel, r, grad, sink_for(std::get<1>(result), needs, 1));
  };
  pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

std::tuple<Tensor, Tensor> embedding_distance_with_gradient(
    Tensor pred, Tensor target, std::optional<Tensor> weight, std::optional<Tensor> kept,
    std::optional<Tensor> avg_factor, double pos_margin, double neg_margin,
    std::optional<double> divisor, std::string reduction, bool widen) {
  const Reduction r(weight, avg_factor, divisor, reduction, pred.numel(), pred.numel());
  Tensor gradient = gradient_like(pred, pred, 1, 0);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    EmbeddingKernel<T> kernel(pred, target, weight, kept, pos_margin, neg_margin);
    kernel.pred_gradient = Sink(gradient);
    return reduce_with_gradient<T>(kernel, r, pred, result_type(pred, widen));
  };
  return {pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{}), gradient};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("embedding_distance_negatives", TORCH_BOX(&embedding_distance_negatives));
  m.impl("embedding_distance", TORCH_BOX(&embedding_distance));
  m.impl("embedding_distance_backward", TORCH_BOX(&embedding_distance_backward));
  m.impl("embedding_distance_with_gradient", TORCH_BOX(&embedding_distance_with_gradient));
}

}  // namespace
}  // namespace fastloss::cpu
