// CPU kernels of the stem `regression_terms`.
#include <torch/csrc/stable/library.h>

#include "cpu/regression_loss.h"

namespace fastloss::cpu {
namespace {

constexpr const char* kKinds[] = {"l1", "smooth_l1", "mse"};

template <typename T>
struct Term {
  RegressionFunctions<T> functions;
  RegressionParams<T> params;
  double divisor;
};

template <typename T>
std::vector<Term<T>> terms_of(const std::vector<int64_t>& kinds, const std::vector<double>& betas,
                              const std::vector<int64_t>& means, int64_t count) {
  const double n = static_cast<double>(std::max<int64_t>(count, 1));
  std::vector<Term<T>> terms;
  for (size_t k = 0; k < kinds.size(); ++k) {
    STD_TORCH_CHECK(kinds[k] >= 0 && kinds[k] < 3, "unknown kind");
    terms.push_back(
        {RegressionFunctions<T>(kKinds[kinds[k]]), {betas[k], 0.5, 1.5}, means[k] ? n : 1.0});
  }
  return terms;
}

// A block is read from memory for the first term, and from the cache for the others.
template <typename T>
void regression_terms_fwd(const Tensor& pred, const Tensor& target,
                          const std::vector<Term<T>>& terms, const Sink& result) {
  const Source<T> x(pred), y(target);
  const int64_t count = pred.numel(), blocks = (count + kBlock - 1) / kBlock;
  const int64_t size = static_cast<int64_t>(terms.size());
  std::vector<double> partial(blocks * size);  // of each block: those of its terms
  for_each_block(count, [&](int64_t block, int64_t start, int64_t length) {
    T a[kBlock], b[kBlock], losses[kBlock];
    const T* p = x.load(start, length, a);
    const T* t = y.load(start, length, b);
    for (int64_t k = 0; k < size; ++k) {
      terms[k].functions.forward(p, t, length, terms[k].params, losses);
      partial[block * size + k] = sum(losses, length);
    }
  });
  for (int64_t k = 0; k < size; ++k) {
    double total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += partial[block * size + k];
    const T value = static_cast<T>(total / terms[k].divisor);
    result.store<T>(k, 1, &value);
  }
}

template <typename T>
void regression_terms_bwd(const Tensor& grad, const Tensor& pred, const Tensor& target,
                          const std::vector<Term<T>>& terms, const Sink& pred_gradient,
                          const Sink& target_gradient) {
  const Source<T> incoming(grad), x(pred), y(target);
  const int64_t size = static_cast<int64_t>(terms.size());
  std::vector<T> buffer(size), factors(size);
  const T* g = incoming.load(0, size, buffer.data());
  for (int64_t k = 0; k < size; ++k) factors[k] = static_cast<T>(g[k] / terms[k].divisor);
  for_each_block(pred.numel(), [&](int64_t, int64_t start, int64_t length) {
    T a[kBlock], b[kBlock], m[kBlock], slopes[kBlock], total[kBlock];
    const T* p = x.load(start, length, a);
    const T* t = y.load(start, length, b);
    for (int64_t k = 0; k < size; ++k) {
      T* out = k == 0 ? total : slopes;
      std::fill(m, m + length, factors[k]);
      terms[k].functions.backward(p, t, m, length, terms[k].params, out);
      if (k > 0)
        for (int64_t i = 0; i < length; ++i) total[i] += slopes[i];
    }
    if (pred_gradient) {
      T* out = pred_gradient.target<T>(start, total);
      if (out != total) std::copy(total, total + length, out);
      pred_gradient.store<T>(start, length, out);
    }
    if (!target_gradient) return;
    T* negative = target_gradient.target<T>(start, slopes);
    for (int64_t i = 0; i < length; ++i) negative[i] = -total[i];
    target_gradient.store<T>(start, length, negative);
  });
}

Tensor regression_terms(Tensor pred, Tensor target, std::vector<int64_t> kinds,
                        std::vector<double> betas, std::vector<int64_t> means, bool widen) {
  Tensor result = torch::stable::new_empty(
      pred, std::vector<int64_t>{static_cast<int64_t>(kinds.size())}, result_type(pred, widen));
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    regression_terms_fwd<T>(pred, target, terms_of<T>(kinds, betas, means, pred.numel()),
                            Sink(result));
  };
  pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

std::tuple<Tensor, Tensor> regression_terms_backward(Tensor grad, Tensor pred, Tensor target,
                                                     std::vector<int64_t> kinds,
                                                     std::vector<double> betas,
                                                     std::vector<int64_t> means, bool,
                                                     int64_t needs) {
  std::tuple<Tensor, Tensor> result{gradient_like(pred, pred, needs, 0),
                                    gradient_like(pred, target, needs, 1)};
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    regression_terms_bwd<T>(grad, pred, target, terms_of<T>(kinds, betas, means, pred.numel()),
                            sink_for(std::get<0>(result), needs, 0),
                            sink_for(std::get<1>(result), needs, 1));
  };
  pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("regression_terms", TORCH_BOX(&regression_terms));
  m.impl("regression_terms_backward", TORCH_BOX(&regression_terms_backward));
}

}  // namespace
}  // namespace fastloss::cpu
