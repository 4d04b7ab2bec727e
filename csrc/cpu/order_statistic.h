// The r-th smallest of many keys by radix histograms: a pass over the keys for every 11 bits, no
// copy and no sort. Counts are integers, so the result is the same for any number of threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fastloss::cpu {

constexpr int kRadixBits = 11;
constexpr int64_t kKeys = 1 << 16;  // keys of a chunk, which has a histogram of its own

// key_of(i, &key) gives key i < `count` of `bits` bits and returns whether it takes part; `rank` is
// between 1 and the number of keys that do.
template <typename Key, typename KeyOf>
Key kth_smallest(int64_t count, int64_t rank, int bits, const KeyOf& key_of) {
  const int64_t chunks = (count + kKeys - 1) / kKeys;
  constexpr int64_t kBins = 1 << kRadixBits;
  std::vector<uint32_t> histograms(chunks * kBins);
  Key prefix = 0;  // the bits found
  for (int above = bits; above > 0;) {
    const int width = std::min(above, kRadixBits), shift = above - width;
    const Key mask = (Key(1) << width) - 1;
    torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) {
        uint32_t* histogram = histograms.data() + c * kBins;
        std::fill_n(histogram, kBins, 0);
        for (int64_t i = c * kKeys; i < std::min(count, (c + 1) * kKeys); ++i) {
          Key key;
          if (key_of(i, &key) && key >> shift >> (width - 1) >> 1 == prefix)
            ++histogram[key >> shift & mask];
        }
      }
    });
    int64_t bin = 0;
    for (;; ++bin) {
      int64_t here = 0;
      for (int64_t c = 0; c < chunks; ++c) here += histograms[c * kBins + bin];
      if (rank <= here || bin == kBins - 1) break;
      rank -= here;
    }
    prefix = prefix << (width - 1) << 1 | static_cast<Key>(bin);
    above = shift;
  }
  return prefix;
}

}  // namespace fastloss::cpu
