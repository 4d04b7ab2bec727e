// CPU kernel of `ohem_threshold`: the probability that parts hard pixels from easy ones.
//
// The r-th smallest probability is found by radix histograms of the bits: a pass for every 11 bits,
// no copy and no sort. Counts are integers, the same for any number of threads.
#include <torch/csrc/stable/library.h>

#include "cpu/elementwise.h"

namespace fastloss::cpu {
namespace {

constexpr int kDigit = 11;             // bits found in a pass
constexpr int64_t kNumbers = 1 << 16;  // of a chunk, which has histograms of its own

// An integer whose order is that of numbers in [0, 1]; the leading two bits are 0.
template <typename T>
using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

// A counter is ready for the next number a few cycles after the last one, and most numbers share
// few counters: neighbours have a histogram each. The last bin is for numbers that do not count.
struct Histograms {
  static constexpr int64_t kBins = 1 << kDigit, kLanes = 4;
  uint32_t bins[kLanes][kBins + 1];

  int64_t operator[](int64_t bin) const {
    int64_t total = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) total += bins[lane][bin];
    return total;
  }
};

// How many x are at most `bound`.
template <typename T>
FASTLOSS_SIMD int64_t count_up_to(const T* x, T bound, int64_t count) {
  int64_t total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t j = 0; j < count; ++j) total += x[j] <= bound;
  return total;
}

// The bin of each number in (above, 1] with this prefix: its next `width` bits from `shift` on.
template <typename T>
FASTLOSS_SIMD void bins_of(const T* __restrict x, T above, Key<T> prefix, int shift, int width,
                           int64_t count, Key<T>* __restrict out) {
  const Key<T> mask = (Key<T>(1) << width) - 1;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const Key<T> key = bit_cast<Key<T>>(x[i]) >> shift;
    const bool counts = (x[i] > above) & (x[i] <= T(1)) & (key >> width == prefix);
    out[i] = counts ? key & mask : Key<T>(Histograms::kBins);
  }
}

template <typename T>
void fill(Histograms& h, const T* x, T above, Key<T> prefix, int shift, int width, int64_t count) {
  Key<T> bins[kBlock];
  h = {};
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    bins_of(x + start, above, prefix, shift, width, size, bins);
    int64_t i = 0;
    for (; i + 4 <= size; i += 4) {
      ++h.bins[0][bins[i]], ++h.bins[1][bins[i + 1]];
      ++h.bins[2][bins[i + 2]], ++h.bins[3][bins[i + 3]];
    }
    for (; i < size; ++i) ++h.bins[0][bins[i]];
  }
}

// Numbers in [0, 1], and others outside it.
template <typename T>
class Numbers {
 public:
  Numbers(const T* x, int64_t count)
      : x_(x), count_(count), chunks_((count + kNumbers - 1) / kNumbers) {}

  int64_t up_to(T bound) const {
    std::vector<int64_t> counts(chunks_);
    for_each_chunk([&](int64_t chunk, const T* x, int64_t count) {
      counts[chunk] = count_up_to(x, bound, count);
    });
    int64_t total = 0;
    for (int64_t count : counts) total += count;
    return total;
  }

  // The r-th smallest of the numbers in (above, 1]; there are so many, and above >= 0.
  T ranked(int64_t rank, T above) const {
    std::vector<Histograms> histograms(chunks_);
    Key<T> prefix = 0;  // the bits found
    for (int bits = 8 * sizeof(T) - 2, shift; bits > 0; bits = shift) {
      const int width = std::min(bits, kDigit);
      shift = bits - width;
      for_each_chunk([&](int64_t chunk, const T* x, int64_t count) {
        fill(histograms[chunk], x, above, prefix, shift, width, count);
      });
      int64_t bin = 0;
      for (int64_t here;; ++bin, rank -= here) {
        here = 0;
        for (const Histograms& h : histograms) here += h[bin];
        if (rank <= here || bin + 1 == Histograms::kBins) break;
      }
      prefix = prefix << width | static_cast<Key<T>>(bin);
    }
    return bit_cast<T>(prefix);
  }

 private:
  template <typename Body>
  void for_each_chunk(const Body& body) const {
    torch::stable::parallel_for(0, chunks_, 1, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c)
        body(c, x_ + c * kNumbers, std::min(kNumbers, count_ - c * kNumbers));
    });
  }

  const T* x_;
  const int64_t count_, chunks_;
};

// Where enough pixels are below `least` nothing is searched for.
template <typename T>
T threshold(const Numbers<T>& p, int64_t rank, T least, const std::string& rule) {
  // A probability of -1 counts as 0 here, which makes no difference: t is at least 0.
  const int64_t valid = p.up_to(1), below = p.up_to(least);
  if (rule == "mmseg") {
    rank = std::min(rank, valid - 1) + 1;
  } else if (rank >= valid) {
    return 1;
  }
  return rank <= below ? least : p.ranked(rank - below, least);
}

Tensor ohem_threshold(Tensor pixels, int64_t rank, double thresh, std::string rule) {
  const Tensor p = torch::stable::contiguous(torch::stable::select(pixels, 0, 0));
  Tensor result = torch::stable::new_empty(pixels, std::vector<int64_t>{});
  const auto with = [&](auto sample) {
    using T = decltype(sample);
    const Numbers<T> numbers(static_cast<const T*>(p.const_data_ptr()), p.numel());
    *static_cast<T*>(result.mutable_data_ptr()) =
        threshold(numbers, rank, static_cast<T>(thresh), rule);
  };
  pixels.scalar_type() == ScalarType::Double ? with(double{}) : with(float{});
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("ohem_threshold", TORCH_BOX(&ohem_threshold));
}

}  // namespace
}  // namespace fastloss::cpu
