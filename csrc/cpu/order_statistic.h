// The r-th smallest of many numbers by radix histograms of their bits: a pass over the numbers for
// every 11 bits, no copy and no sort. Counts are integers, so that the result is the same for any
// number of threads.
#pragma once

#include "cpu/elementwise.h"

namespace fastloss::cpu {

constexpr int kRadixBits = 11;
constexpr int64_t kNumbers = 1 << 16;  // of a chunk, which has histograms of its own

// An integer whose order is that of numbers in [0, 1]; the leading two bits are 0.
template <typename T>
using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

// A counter is ready for the next number a few cycles after the last one, and most numbers share
// few counters: neighbours have a histogram each. The last bin is for numbers that do not count.
struct Histograms {
  static constexpr int64_t kBins = 1 << kRadixBits, kLanes = 4;
  uint32_t bins[kLanes][kBins + 1];

  int64_t operator[](int64_t bin) const {
    int64_t total = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) total += bins[lane][bin];
    return total;
  }
};

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
void add_to(Histograms& h, const T* x, T above, Key<T> prefix, int shift, int width,
            int64_t count) {
  Key<T> bins[kBlock];
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

// The r-th smallest of the numbers in (above, 1]; there are so many, and above >= 0.
template <typename T>
T kth_smallest(const T* x, int64_t count, int64_t rank, T above) {
  std::vector<Histograms> histograms((count + kNumbers - 1) / kNumbers);
  Key<T> prefix = 0;  // the bits found
  for (int bits = 8 * sizeof(T) - 2, shift; bits > 0; bits = shift) {
    const int width = std::min(bits, kRadixBits);
    shift = bits - width;
    torch::stable::parallel_for(
        0, static_cast<int64_t>(histograms.size()), 1, [&](int64_t first, int64_t last) {
          for (int64_t c = first; c < last; ++c) {
            histograms[c] = {};
            const int64_t size = std::min(kNumbers, count - c * kNumbers);
            add_to(histograms[c], x + c * kNumbers, above, prefix, shift, width, size);
          }
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

}  // namespace fastloss::cpu
