// CPU kernels of the stem `equalization`: a row at a time, added to the sums of its chunk. Every
// entry is summed as a negative, but for the one of the label, which splits the row in two.
#include <torch/csrc/stable/library.h>

#include <sstream>
#include <stdexcept>

#include "common/focal.h"
#include "cpu/elementwise.h"
#include "cpu/workspace.h"

namespace fastloss::cpu {
namespace {

constexpr int64_t kRows = 64;    // whose sums are kept in T
constexpr int64_t kChunks = 64;  // at most, each with a table of its own

template <typename T>
FASTLOSS_SIMD void add_negatives(const T* __restrict x, int64_t count, T* __restrict loss,
                                 T* __restrict size) {
#pragma GCC ivdep
  for (int64_t c = 0; c < count; ++c) {
    const Logit<T> in(x[c]);
    loss[c] += max_(x[c], T(0)) + in.softplus_tail;
    size[c] += in.p;
  }
}

template <typename T>
FASTLOSS_SIMD void negative_gradients(const T* __restrict x, const T* __restrict factor,
                                      int64_t count, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t c = 0; c < count; ++c) out[c] = factor[c] * Logit<T>(x[c]).p;
}

// sum += part, part = 0.
template <typename T>
FASTLOSS_SIMD void flush(T* __restrict part, int64_t count, double* __restrict sum) {
  for (int64_t c = 0; c < count; ++c) {
    sum[c] += static_cast<double>(part[c]);
    part[c] = T(0);
  }
}

// Labels (N) in [0, C), checked.
class Labels {
 public:
  Labels(const Tensor& labels, int64_t classes)
      : labels_(torch::stable::contiguous(labels)),
        data_(static_cast<const int64_t*>(labels_.const_data_ptr())) {
    for (int64_t i = 0; i < labels_.numel(); ++i) {
      if (data_[i] >= 0 && data_[i] < classes) continue;
      std::ostringstream text;  // std::out_of_range reaches Python as IndexError
      text << "labels must hold class indices in [0, " << classes - 1 << "]; got " << data_[i]
           << " at index " << i;
      throw std::out_of_range(text.str());
    }
  }
  int64_t operator[](int64_t row) const { return data_[row]; }

 private:
  Tensor labels_;
  const int64_t* data_;
};

Tensor equalization(Tensor logits, Tensor labels) {
  const int64_t rows = logits.size(0), classes = logits.size(1);
  const Labels label(labels, classes);
  Tensor table = torch::stable::new_empty(logits, {4, classes}, ScalarType::Double);
  double* out = static_cast<double*>(table.mutable_data_ptr());
  std::fill(out, out + 4 * classes, 0.0);
  const int64_t groups = (rows + kRows - 1) / kRows;
  const int64_t each = (groups + kChunks - 1) / kChunks * kRows;  // rows of a chunk
  const int64_t chunks = rows ? (rows + each - 1) / each : 0;
  const Workspace<double> partial(chunks * 4 * classes);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    const Broadcast<T> source(logits);
    torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
      const Workspace<T> buffers(3 * classes);
      T *buffer = buffers.get(), *loss = buffer + classes, *size = loss + classes;
      std::fill(loss, loss + 2 * classes, T(0));
      for (int64_t chunk = first; chunk < last; ++chunk) {
        double* sums = partial.get() + chunk * 4 * classes;
        std::fill(sums, sums + 4 * classes, 0.0);
        const int64_t end = std::min(rows, (chunk + 1) * each);
        for (int64_t row = chunk * each; row < end; ++row) {
          const T* x = source.load(row * classes, classes, buffer);
          const int64_t y = label[row];
          add_negatives(x, y, loss, size);
          add_negatives(x + y + 1, classes - y - 1, loss + y + 1, size + y + 1);
          const Logit<T> own(x[y]);
          sums[y] += static_cast<double>(max_(-x[y], T(0)) + own.softplus_tail);
          sums[2 * classes + y] += static_cast<double>(own.q);
          if ((row + 1) % kRows == 0 || row + 1 == end) {
            flush(loss, classes, sums + classes);
            flush(size, classes, sums + 3 * classes);
          }
        }
      }
    });
  };
  logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int64_t i = 0; i < 4 * classes; ++i) out[i] += partial[chunk * 4 * classes + i];
  return table;
}

Tensor equalization_backward(Tensor grad, Tensor logits, Tensor labels, int64_t needs) {
  const int64_t rows = logits.size(0), classes = logits.size(1);
  const Labels label(labels, classes);
  Tensor result = gradient_like(logits, logits, needs, 0);
  if (!(needs & 1)) return result;
  const Sink sink(result);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    const Broadcast<T> source(logits);
    std::vector<T> factors(2 * classes);
    const T* positive = Broadcast<T>(grad).load(0, 2 * classes, factors.data());
    const T* negative = positive + classes;
    const int64_t grain = std::max<int64_t>(kBlock * kGrain / std::max<int64_t>(classes, 1), 1);
    torch::stable::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
      const Workspace<T> buffers(2 * classes);
      for (int64_t row = first; row < last; ++row) {
        const T* x = source.load(row * classes, classes, buffers.get());
        T* to = sink.target<T>(row * classes, buffers.get() + classes);
        negative_gradients(x, negative, classes, to);
        const int64_t y = label[row];
        to[y] = -positive[y] * Logit<T>(x[y]).q;
        sink.store<T>(row * classes, classes, to);
      }
    });
  };
  logits.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("equalization", TORCH_BOX(&equalization));
  m.impl("equalization_backward", TORCH_BOX(&equalization_backward));
}

}  // namespace
}  // namespace fastloss::cpu
