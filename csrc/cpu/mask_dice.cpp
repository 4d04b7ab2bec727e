// CPU kernels of the stem `mask_dice`: a mask at a time, which the second-level cache holds between
// the sums and the gradients, with one exponential an element for both. Definition and edge rules:
// fastloss/reference/mask_dice.py.
#include <vector>

#include "cpu/pixel_tiles.h"
#include "cpu/row_losses.h"
#include "cpu/workspace.h"

namespace fastloss::cpu {
namespace {

// The threads share a mask of more elements, which outgrows their caches.
constexpr int64_t kShared = 1 << 17;

// p and q = 1 - p from the smaller of the two, so that neither loses digits.
template <typename T>
struct Element {
  T p, q;

  FASTLOSS_FN Element(T smaller, bool is_q)
      : p(is_q ? T(1) - smaller : smaller), q(is_q ? smaller : T(1) - smaller) {}
};

// The element again, from a logit's smaller number, negative where it is q, or from a probability.
template <bool kSigmoid, typename T>
FASTLOSS_FN Element<T> element_of(T kept) {
  return kSigmoid ? Element<T>(abs_(kept), kept < T(0)) : Element<T>(kept, false);
}

// A and B.
struct Sums {
  double product, rest;
};

// The sums over a block; writes what is to be kept of its logits.
template <bool kSigmoid, bool kSquared, typename T>
FASTLOSS_SIMD void sums_of(const T* __restrict x, const T* __restrict t, int64_t count,
                           T* __restrict kept, Sums* sums) {
  T product = 0, rest = 0;
#pragma omp simd reduction(+ : product, rest)
  for (int64_t j = 0; j < count; ++j) {
    T number = x[j];
    const bool is_q = kSigmoid && !(number < T(0));
    if constexpr (kSigmoid) {
      // 0 would have no sign; a NaN is kept.
      const T e = max_(tiny<T>(), exp_nonpositive(is_q ? -number : number));
      number = e * inverse_1p(e);
      kept[j] = is_q ? -number : number;
    }
    const Element<T> in(number, is_q);
    const T only_p = in.p * (T(1) - t[j]), only_t = in.q * t[j], d = only_p - only_t;
    product += in.p * t[j];
    rest += kSquared ? d * d : only_p + only_t;
  }
  *sums = {product, rest};
}

// s, l = 1 - s and 2 / D times the gradient of the loss.
template <typename T>
struct Slope {
  T s, l, factor;
};

// The gradient of the logits, which may take the place of what was kept of them.
template <bool kSigmoid, bool kSquared, typename T>
FASTLOSS_SIMD void logit_slopes(const T* kept, const T* t, int64_t count, Slope<T> o, T* out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) {
    const Element<T> in = element_of<kSigmoid>(kept[j]);
    const T of_p =
        kSquared ? o.s * in.p * (T(1) - t[j]) - t[j] * (o.l * in.p + in.q) : T(0.5) * o.s - t[j];
    out[j] = o.factor * of_p * (kSigmoid ? in.p * in.q : T(1));
  }
}

template <bool kSigmoid, bool kSquared, typename T>
FASTLOSS_SIMD void target_slopes(const T* __restrict kept, const T* __restrict t, int64_t count,
                                 Slope<T> o, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) {
    const Element<T> in = element_of<kSigmoid>(kept[j]);
    const T of_t =
        kSquared ? o.s * in.q * t[j] - in.p * ((T(1) - t[j]) + o.l * t[j]) : T(0.5) * o.s - in.p;
    out[j] = o.factor * of_t;
  }
}

template <bool kSigmoid, bool kSquared, typename T>
class Masks {
 public:
  Masks(const Tensor& logits, const Tensor& target, double eps)
      : logits_(logits),
        target_(target),
        count_(logits.size(0)),
        size_(logits.size(1)),
        blocks_((size_ + kBlock - 1) / kBlock),
        of_rest_(kSquared ? 2 * eps : 0),
        of_product_(kSquared ? 0 : eps) {}

  // The losses of all masks; from their gradients, those of logits and target where they are given.
  std::vector<T> run(const T* grads, const Sink& g_logits, const Sink& g_target) const {
    std::vector<T> losses(count_);
    const auto body = [&](int64_t first, int64_t last) {
      const Workspace<Sums> partial(blocks_);
      const bool keeps = kSigmoid && (g_logits || g_target);
      const bool in_place = g_logits && g_logits.target<T>(0, nullptr);
      const Workspace<T> buffer(keeps && !in_place ? size_ : 0);
      for (int64_t mask = first; mask < last; ++mask) {
        T* kept = !keeps     ? nullptr
                  : in_place ? g_logits.target<T>(mask * size_, nullptr)
                             : buffer.get();
        const Sums sums = total(mask, kept, partial.get());
        const double divisor = (sums.rest + of_rest_) + (2 * sums.product + of_product_);
        losses[mask] = static_cast<T>((sums.rest + of_rest_) / divisor);
        if (!g_logits && !g_target) continue;
        const T similarity = static_cast<T>((2 * sums.product + of_product_) / divisor);
        const T factor = static_cast<T>(2 * grads[mask] / divisor);
        gradients(mask, kept, {similarity, losses[mask], factor}, g_logits, g_target);
      }
    };
    if (is_shared()) {
      body(0, count_);
    } else {
      const int64_t grain = std::max<int64_t>(kBlock * kGrain / std::max<int64_t>(size_, 1), 1);
      torch::stable::parallel_for(0, count_, grain, body);
    }
    return losses;
  }

 private:
  bool is_shared() const { return size_ > kShared; }

  template <typename Body>
  void each_block(const Body& body) const {
    if (is_shared()) return for_each_block(size_, body);
    for (int64_t b = 0; b < blocks_; ++b) body(b, b * kBlock, std::min(kBlock, size_ - b * kBlock));
  }

  Sums total(int64_t mask, T* kept, Sums* partial) const {
    each_block([&](int64_t block, int64_t start, int64_t count) {
      T x[kBlock], t[kBlock], scratch[kBlock];
      sums_of<kSigmoid, kSquared, T>(logits_.row(mask, 0, start, count, x),
                                     target_.row(mask, 0, start, count, t), count,
                                     kept ? kept + start : scratch, partial + block);
    });
    Sums sums{0, 0};
    for (int64_t block = 0; block < blocks_; ++block)
      sums.product += partial[block].product, sums.rest += partial[block].rest;
    return sums;
  }

  void gradients(int64_t mask, const T* kept, const Slope<T>& slope, const Sink& g_logits,
                 const Sink& g_target) const {
    each_block([&](int64_t, int64_t start, int64_t count) {
      T x[kBlock], t[kBlock], out[kBlock];
      const T* from = kSigmoid ? kept + start : logits_.row(mask, 0, start, count, x);
      const T* of_target = target_.row(mask, 0, start, count, t);
      const auto write = [&](const Sink& sink, const auto& slopes) {
        if (!sink) return;
        const int64_t at = mask * size_ + start;
        T* to = sink.target<T>(at, out);
        slopes(from, of_target, count, slope, to);
        sink.store<T>(at, count, to);
      };
      write(g_target, target_slopes<kSigmoid, kSquared, T>);
      write(g_logits, logit_slopes<kSigmoid, kSquared, T>);
    });
  }

  const Planes logits_, target_;
  const int64_t count_, size_, blocks_;
  const double of_rest_, of_product_;  // C and c
};

// The losses of all masks, as the functions of `row_losses.h` ask for them.
auto masks_of(const Tensor& logits, const Tensor& target, bool squared, double eps, bool activated,
              const Sink& g_target = Sink()) {
  return [=]<typename T>(const T* grads, const Sink& g_logits) {
    const auto run = [&](auto sigmoid, auto squares) {
      return Masks<sigmoid, squares, T>(logits, target, eps).run(grads, g_logits, g_target);
    };
    const std::true_type yes;
    const std::false_type no;
    if (activated) return squared ? run(no, yes) : run(no, no);
    return squared ? run(yes, yes) : run(yes, no);
  };
}

Tensor mask_dice(Tensor logits, Tensor target, std::optional<Tensor> weight,
                 std::optional<Tensor> avg_factor, bool squared, double eps, bool activated,
                 std::optional<double> divisor, std::string reduction, bool widen) {
  const int64_t n = logits.size(0);
  const Reduction r(weight, avg_factor, divisor, reduction, n, n);
  return row_losses(logits, r, widen, masks_of(logits, target, squared, eps, activated));
}

std::tuple<Tensor, Tensor, Tensor> mask_dice_backward(Tensor grad, Tensor logits, Tensor target,
                                                      std::optional<Tensor> weight,
                                                      std::optional<Tensor> avg_factor,
                                                      bool squared, double eps, bool activated,
                                                      std::optional<double> divisor,
                                                      std::string reduction, bool, int64_t needs) {
  const int64_t n = logits.size(0);
  const Reduction r(weight, avg_factor, divisor, reduction, n, n);
  std::tuple<Tensor, Tensor, Tensor> result{
      gradient_like(logits, logits, needs, 0), gradient_like(logits, target, needs, 1),
      gradient_like(logits, weight.value_or(logits), needs, 2)};
  const auto& [g_logits, g_target, g_weight] = result;
  row_gradients(grad, logits, r, sink_for(g_logits, needs, 0), sink_for(g_weight, needs, 2),
                masks_of(logits, target, squared, eps, activated, sink_for(g_target, needs, 1)));
  return result;
}

std::tuple<Tensor, Tensor> mask_dice_with_gradient(Tensor logits, Tensor target,
                                                   std::optional<Tensor> weight,
                                                   std::optional<Tensor> avg_factor, bool squared,
                                                   double eps, bool activated,
                                                   std::optional<double> divisor,
                                                   std::string reduction, bool widen) {
  const int64_t n = logits.size(0);
  const Reduction r(weight, avg_factor, divisor, reduction, n, n);
  return row_losses_with_gradient(logits, r, widen,
                                  masks_of(logits, target, squared, eps, activated));
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("mask_dice", TORCH_BOX(&mask_dice));
  m.impl("mask_dice_backward", TORCH_BOX(&mask_dice_backward));
  m.impl("mask_dice_with_gradient", TORCH_BOX(&mask_dice_with_gradient));
}

}  // namespace
}  // namespace fastloss::cpu
