// The order of the pixels of a Lovász problem: by error, descending, equal errors as they come.
#pragma once

#include <bit>

#include "common/lovasz.h"
#include "cpu/pixel_tiles.h"
#include "cpu/workspace.h"

namespace fastloss::cpu {

template <typename T>
using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

// What is sorted: the bits of the error, which order as non-negative numbers do (NaN above all),
// without their sign, and one for positives. 0 leaves a pixel out.
template <typename T>
FASTLOSS_FN Bits<T> error_word(T error, bool positive) {
  return bit_cast<Bits<T>>(error) << 1 | Bits<T>(positive);
}

// The words of a problem that count, without their last bit, are those from `least` to `most`.
template <typename T>
struct Range {
  Bits<T> least = std::numeric_limits<Bits<T>>::max() >> 1, most = 0;

  void include(const Range& other) {
    least = std::min(least, other.least), most = std::max(most, other.most);
  }
};

// A radix sort, least significant digit first. The pixels lie in runs that begin `stride` apart; a
// pixel's number is its distance from the first one. An Index holds such a number and one bit more.
template <typename T, typename Index>
class Order {
 public:
  using Word = Bits<T>;

  Order(int64_t count, int64_t run, int64_t stride)
      : count_(count),
        run_(run),
        stride_(stride),
        words_(count),
        pixels_(count),
        entries_(count),
        // Fewer counters than pixels: they are cleared and added up for every problem.
        digit_(std::clamp<int>(std::bit_width(static_cast<uint64_t>(count)) - 2, 4, kDigit)) {}

  // A word for every pixel, run after run.
  Word* words() { return words_.get(); }

  // The first pixel whose word is the largest.
  int64_t first_of(const Range<T>& range) const {
    int64_t i = 0;
    while (words_[i] >> 1 != range.most) ++i;
    return i / run_ * stride_ + i % run_;
  }

  // visit(i, pixel, error, positive, positives before it) for every pixel of range.least or more,
  // i its place in the order. They come sorted by all but the most significant digit: that one
  // needs no move, because counters tell the place. The words are gone afterwards.
  template <typename Visit>
  void walk(const Range<T>& range, const Visit& visit) {
    if (range.most < range.least) return;
    const int bits = std::bit_width(static_cast<uint64_t>(range.most - range.least));
    const int passes =
        std::max(2, (bits + digit_ - 1) / digit_);  // the last of which moves nothing
    const int width = (bits + passes - 1) / passes, last = (passes - 1) * width;
    const Word mask = (Word(1) << width) - 1, most = range.most;
    const size_t bins = size_t(1) << width;
    const int64_t kept = gather(range.least);
    count_digits(kept, most, passes, width);
    for (int pass = 0; pass < passes - 1; ++pass) to_places(lower_.data() + bins * pass, bins);
    to_places(upper_.data(), bins);
    for (int64_t i = 0; i < kept; ++i) {
      const Word word = words_[i], key = most - (word >> 1);
      entries_[lower_[key & mask]++] = {key, pixels_[i] << 1 | static_cast<Index>(word & 1)};
    }
    for (int pass = 1; pass < passes - 1; ++pass) {
      if (!others_) others_ = Workspace<Entry>(count_);
      Index* places = lower_.data() + bins * pass;
      for (int64_t i = 0; i < kept; ++i)
        others_[places[entries_[i].key >> pass * width & mask]++] = entries_[i];
      std::swap(entries_, others_);
    }
    for (int64_t i = 0; i < kept; ++i) {
      const Entry entry = entries_[i];
      Counter& counter = upper_[entry.key >> last];
      const Index positive = entry.tag & 1;
      visit(static_cast<int64_t>(counter.before), static_cast<int64_t>(entry.tag >> 1),
            bit_cast<T>(most - entry.key), positive != 0, static_cast<int64_t>(counter.positives));
      counter += {1, positive};
    }
  }

 private:
  // Beyond 14 bits the counters of a digit leave the first-level cache.
  static constexpr int kDigit = 14;

  struct Entry {
    Word key;
    Index tag;  // pixel << 1 | positive
  };
  struct Counter {
    Index before, positives;

    Counter& operator+=(const Counter& other) {
      before += other.before, positives += other.positives;
      return *this;
    }
  };

  // Moves the words of at least `least` to the front, beside their pixels; returns their number.
  // Without a branch, which would be taken at random.
  int64_t gather(Word least) {
    int64_t kept = 0;
    for (int64_t first = 0, base = 0; first < count_; first += run_, base += stride_) {
      for (int64_t j = 0; j < run_; ++j) {
        const Word word = words_[first + j];
        words_[kept] = word;
        pixels_[kept] = static_cast<Index>(base + j);
        kept += word >> 1 >= least;
      }
    }
    return kept;
  }

  void count_digits(int64_t kept, Word most, int passes, int width) {
    const int last = (passes - 1) * width;
    const size_t bins = size_t(1) << width;
    const Word mask = static_cast<Word>(bins - 1);
    lower_.assign(bins * (passes - 1), 0);
    upper_.assign(bins, {});
    for (int64_t i = 0; i < kept; ++i) {
      const Word word = words_[i], key = most - (word >> 1);
      ++lower_[key & mask];
      upper_[key >> last] += {1, static_cast<Index>(word & 1)};
      for (int pass = 1; pass < passes - 1; ++pass)
        ++lower_[bins * pass + (key >> pass * width & mask)];
    }
  }

  // Counts to places: the sum of those before.
  template <typename Count>
  static void to_places(Count* counts, size_t bins) {
    Count sum{};
    for (size_t i = 0; i < bins; ++i) {
      const Count here = counts[i];
      counts[i] = sum;
      sum += here;
    }
  }

  int64_t count_, run_, stride_;
  Workspace<Word> words_;
  Workspace<Index> pixels_;
  Workspace<Entry> entries_, others_;
  int digit_;
  std::vector<Index> lower_;
  std::vector<Counter> upper_;
};

// The value of a problem with `total` positives; visit(pixel, error, positive, jump) for every
// pixel that moves it.
template <typename T, typename Index, typename Visit>
double solve(Order<T, Index>& order, Range<T> range, double total, const Visit& visit) {
  if (range.most == 0) return 0;
  if (total == 0) {  // the first pixel that is wrong makes the loss 1
    const T error = bit_cast<T>(range.most);
    visit(order.first_of(range), error, false, 1.0);
    return static_cast<double>(error);
  }
  double value = 0;
  range.least = std::max<Bits<T>>(range.least, 1);
  order.walk(range, [&](int64_t i, int64_t pixel, T error, bool positive, int64_t positives) {
    const double before = static_cast<double>(positives);
    const double jump = lovasz_jump(positive, total, before, static_cast<double>(i) - before);
    value += static_cast<double>(error) * jump;
    visit(pixel, error, positive, jump);
  });
  return value;
}

}  // namespace fastloss::cpu
