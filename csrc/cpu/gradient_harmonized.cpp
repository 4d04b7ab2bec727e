// CPU kernels of the stem `gradient_harmonized`. A block is computed in vectors and then dealt out
// to the bins one element after the other.
#include "common/gradient_harmonized.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/elementwise.h"
#include "cpu/workspace.h"

namespace fastloss::cpu {
namespace {

// Blocks that share a table: it is then small beside what is read.
constexpr int64_t kBlocks = 16;
// Tables that take turns, so that an addition need not wait for the one before.
constexpr int64_t kTurns = 4;

template <typename F, typename T>
FASTLOSS_SIMD void harmonized_fwd(const T* __restrict x, const T* __restrict t, int64_t count, T mu,
                                  T* __restrict length, T* __restrict loss) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const typename F::template Element<T> e(x[i], t[i], mu);
    length[i] = e.length();
    loss[i] = e.loss();
  }
}

template <typename F, typename T>
FASTLOSS_SIMD void harmonized_slopes(const T* __restrict x, const T* __restrict t, int64_t count,
                                     T mu, T* __restrict length, T* __restrict dx,
                                     T* __restrict dt) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const typename F::template Element<T> e(x[i], t[i], mu);
    length[i] = e.length();
    dx[i] = e.dx(), dt[i] = e.dt();
  }
}

// Column of the table: the number of edges that are not above the length, less 1; `bins` for what
// is in no bin, bins + 1 for what is invalid.
template <typename T>
FASTLOSS_SIMD void columns_of(const T* __restrict length, const T* __restrict weight, int64_t count,
                              const T* __restrict edges, int32_t bins, int32_t* __restrict column) {
  std::fill(column, column + count, -1);
  for (int32_t b = 0; b <= bins; b += 4) {  // a quarter of the loads and stores
    const T e0 = edges[b], e1 = edges[b + 1], e2 = edges[b + 2], e3 = edges[b + 3];
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i)
      column[i] += ((length[i] >= e0 ? 1 : 0) + (length[i] >= e1 ? 1 : 0)) +
                   ((length[i] >= e2 ? 1 : 0) + (length[i] >= e3 ? 1 : 0));
  }
  for (int64_t i = 0; i < count; ++i) {
    const int32_t k = column[i] < 0 ? bins : column[i];
    column[i] = weight[i] > T(0) ? k : bins + 1;
  }
}

// slope *= the factor of its column; 0 where the element is invalid, whatever it is.
template <typename T>
FASTLOSS_SIMD void apply_factors(const int32_t* __restrict column, const T* __restrict factors,
                                 int32_t bins, int64_t count, T* __restrict slope) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T product = factors[column[i]] * slope[i];
    slope[i] = column[i] > bins ? T(0) : product;
  }
}

template <typename T>
struct Functions {
  decltype(&harmonized_fwd<HarmonizedRegression, T>) forward;
  decltype(&harmonized_slopes<HarmonizedRegression, T>) slopes;

  explicit Functions(const std::string& kind) {
    kind == "classification" ? set<HarmonizedClassification>() : set<HarmonizedRegression>();
  }

 private:
  template <typename F>
  void set() {
    forward = &harmonized_fwd<F, T>;
    slopes = &harmonized_slopes<F, T>;
  }
};

// Predictions, targets and weights of a block.
template <typename T>
class Elements {
 public:
  Elements(const Tensor& pred, const Tensor& target, const std::optional<Tensor>& weight)
      : pred_(pred), classes_(pred.dim() ? pred.size(pred.dim() - 1) : 1) {
    if (weight) weight_.emplace(*weight);
    if (target.dim() == pred.dim()) {
      dense_.emplace(target);
    } else {
      index_ = torch::stable::contiguous(target);
      labels_ = static_cast<const int64_t*>(index_->const_data_ptr());
    }
  }
  const T* pred(int64_t start, int64_t count, T* buffer) const {
    return pred_.load(start, count, buffer);
  }
  const T* target(int64_t start, int64_t count, T* buffer) const {
    if (dense_) return dense_->load(start, count, buffer);
    std::fill(buffer, buffer + count, T(0));
    for (int64_t row = start / classes_; row * classes_ < start + count; ++row) {
      const int64_t label = labels_[row], at = row * classes_ + label - start;
      if (label >= 0 && label < classes_ && at >= 0 && at < count) buffer[at] = T(1);
    }
    return buffer;
  }
  const T* weight(int64_t start, int64_t count, T* buffer) const {
    if (weight_) return weight_->load(start, count, buffer);
    std::fill(buffer, buffer + count, T(1));
    return buffer;
  }

 private:
  Broadcast<T> pred_;
  std::optional<Broadcast<T>> dense_, weight_;
  std::optional<Tensor> index_;
  const int64_t* labels_ = nullptr;
  int64_t classes_;
};

// Filled up to a multiple of 4 with what nothing is above.
template <typename T>
std::vector<T> edges_of(const Tensor& edges) {
  const int64_t count = edges.numel();
  std::vector<T> result(count), buffer(count);
  const Source<T> source(edges);  // keeps the copy of a strided tensor
  const T* from = source.load(0, count, buffer.data());
  std::copy(from, from + count, result.data());
  result.resize((count + 3) / 4 * 4, T(NAN));
  return result;
}

struct Entry {
  double count = 0, sum = 0;
};

Tensor gradient_harmonized(Tensor pred, Tensor target, std::optional<Tensor> weight, Tensor edges,
                           std::string kind, double mu) {
  const int64_t total = pred.numel(), bins = edges.numel() - 1, columns = bins + 1;
  Tensor table = torch::stable::new_empty(pred, {2, columns}, ScalarType::Double);
  double* out = static_cast<double*>(table.mutable_data_ptr());
  const int64_t blocks = (total + kBlock - 1) / kBlock, chunks = (blocks + kBlocks - 1) / kBlocks;
  const Workspace<Entry> partial(chunks * columns);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    const Elements<T> elements(pred, target, weight);
    const std::vector<T> bounds = edges_of<T>(edges);
    const Functions<T> functions(kind);
    torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
      std::vector<Entry> turns(kTurns * (columns + 1));  // the last entry: what is invalid
      T a[kBlock], b[kBlock], c[kBlock], length[kBlock], loss[kBlock];
      int32_t column[kBlock];
      for (int64_t chunk = first; chunk < last; ++chunk) {
        std::fill(turns.begin(), turns.end(), Entry());
        const int64_t end = std::min(total, (chunk + 1) * kBlocks * kBlock);
        for (int64_t start = chunk * kBlocks * kBlock; start < end; start += kBlock) {
          const int64_t count = std::min(kBlock, end - start);
          functions.forward(elements.pred(start, count, a), elements.target(start, count, b), count,
                            static_cast<T>(mu), length, loss);
          columns_of(length, elements.weight(start, count, c), count, bounds.data(),
                     static_cast<int32_t>(bins), column);
          for (int64_t i = 0; i < count; ++i) {
            Entry& entry = turns[i % kTurns * (columns + 1) + column[i]];
            entry.count += 1;
            entry.sum += static_cast<double>(loss[i]);
          }
        }
        for (int64_t k = 0; k < columns; ++k) {
          Entry entry;
          for (int64_t turn = 0; turn < kTurns; ++turn) {
            entry.count += turns[turn * (columns + 1) + k].count;
            entry.sum += turns[turn * (columns + 1) + k].sum;
          }
          partial[chunk * columns + k] = entry;
        }
      }
    });
  };
  pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  std::fill(out, out + 2 * columns, 0.0);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int64_t k = 0; k < columns; ++k) {
      out[k] += partial[chunk * columns + k].count;
      out[columns + k] += partial[chunk * columns + k].sum;
    }
  }
  return table;
}

std::tuple<Tensor, Tensor> gradient_harmonized_backward(Tensor grad, Tensor pred, Tensor target,
                                                        std::optional<Tensor> weight, Tensor edges,
                                                        std::string kind, double mu,
                                                        int64_t needs) {
  if (target.dim() < pred.dim()) needs &= 1;
  std::tuple<Tensor, Tensor> result{gradient_like(pred, pred, needs, 0),
                                    gradient_like(pred, target, needs, 1)};
  const Sink to_pred = sink_for(std::get<0>(result), needs, 0);
  const Sink to_target = sink_for(std::get<1>(result), needs, 1);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    const Elements<T> elements(pred, target, weight);
    const std::vector<T> bounds = edges_of<T>(edges);
    const Functions<T> functions(kind);
    const int64_t columns = edges.numel();
    std::vector<T> buffer(2 * columns), factors(columns + 1);
    const T* table = Broadcast<T>(grad).load(0, 2 * columns, buffer.data());
    std::copy(table + columns, table + 2 * columns, factors.data());
    for_each_block(pred.numel(), [&](int64_t, int64_t start, int64_t count) {
      T a[kBlock], b[kBlock], c[kBlock], length[kBlock], x[kBlock], t[kBlock];
      int32_t column[kBlock];
      T* dx = to_pred ? to_pred.target<T>(start, x) : x;
      T* dt = to_target ? to_target.target<T>(start, t) : t;
      functions.slopes(elements.pred(start, count, a), elements.target(start, count, b), count,
                       static_cast<T>(mu), length, dx, dt);
      const int32_t bins = static_cast<int32_t>(columns - 1);
      columns_of(length, elements.weight(start, count, c), count, bounds.data(), bins, column);
      for (const auto& [sink, slope] : {std::pair(to_pred, dx), std::pair(to_target, dt)}) {
        if (!sink) continue;
        apply_factors(column, factors.data(), bins, count, slope);
        sink.template store<T>(start, count, slope);
      }
    });
  };
  pred.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("gradient_harmonized", TORCH_BOX(&gradient_harmonized));
  m.impl("gradient_harmonized_backward", TORCH_BOX(&gradient_harmonized_backward));
}

}  // namespace
}  // namespace fastloss::cpu
