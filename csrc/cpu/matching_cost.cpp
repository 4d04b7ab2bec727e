// CPU kernel of `matching_cost`. The targets of an image that are no padding are laid out once,
// field by field; then each row of logits and each box is read once. Of the logits, "softmax" and
// "nll" reduce all classes, "sigmoid_focal" looks at those that are in the image, once each.
#include "cpu/matching_boxes.h"
#include "cpu/pixel_tiles.h"

namespace fastloss::cpu {
namespace {

constexpr int64_t kRowsOfTask = 64;

// Rows of logits are read in whole vectors: the last one overlaps the one before it if the classes
// are no multiple of its width, but they are at least as many. What is left in the lanes of a row
// is reduced for a group of rows at once: in a vector of its own that takes longer than all the
// rest.
constexpr int64_t kGroup = 16;

// The largest logits of each row, lane by lane; NaN among them may be lost.
template <typename T>
FASTLOSS_SIMD FASTLOSS_FINITE void largest_logits(const T* __restrict x, int64_t rows,
                                                  int64_t count, T* __restrict lanes) {
  for (int64_t r = 0; r < rows; ++r, x += count, lanes += kVector) {
    for (int64_t k = 0; k < kVector; ++k) lanes[k] = x[count - kVector + k];
    for (int64_t c = 0; c + kVector <= count; c += kVector)
      for (int64_t k = 0; k < kVector; ++k) lanes[k] = max_(lanes[k], x[c + k]);
  }
}
// out = exp(x - top) and the sums of each row, lane by lane.
template <typename T>
FASTLOSS_SIMD void exponentials(const T* __restrict x, int64_t rows, int64_t count,
                                const T* __restrict top, T* __restrict out, T* __restrict lanes) {
  const int64_t whole = count / kVector * kVector, last = count - kVector;
  for (int64_t r = 0; r < rows; ++r, x += count, out += count, lanes += kVector) {
    for (int64_t k = 0; k < kVector; ++k) {
      out[last + k] = exp_nonpositive(x[last + k] - top[r]);
      lanes[k] = last + k < whole ? T(0) : out[last + k];
    }
    for (int64_t c = 0; c < whole; c += kVector)
      for (int64_t k = 0; k < kVector; ++k) {
        out[c + k] = exp_nonpositive(x[c + k] - top[r]);
        lanes[k] += out[c + k];
      }
  }
}
template <typename T>
FASTLOSS_SIMD FASTLOSS_FINITE void fold_largest(const T* __restrict lanes, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t r = 0; r < kGroup; ++r) {
    T top = lanes[r * kVector];
    for (int64_t k = 1; k < kVector; ++k) top = max_(top, lanes[r * kVector + k]);
    out[r] = top;
  }
}
template <typename T>
FASTLOSS_SIMD void fold_sums(const T* __restrict lanes, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t r = 0; r < kGroup; ++r) {
    T sum = lanes[r * kVector];
    for (int64_t k = 1; k < kVector; ++k) sum += lanes[r * kVector + k];
    out[r] = sum;
  }
}
template <typename Power, typename T>
FASTLOSS_SIMD void focal_costs(T* __restrict x, int64_t count, T alpha, T gamma, T weight) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) x[i] = focal_cost<Power>(x[i], alpha, gamma, weight);
}
template <typename T>
FASTLOSS_SIMD void look_up(const T* __restrict table, const Label<T>* __restrict at, int64_t count,
                           T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) out[j] = table[at[j]];
}
// Adds the class costs, which follow from what `at` looks up in the table, to those of the boxes,
// and the constant.
template <typename Class, typename T>
FASTLOSS_SIMD void total_costs(const T* __restrict table, const Label<T>* __restrict at,
                               int64_t count, Class cost, T constant, CostRange<T> range,
                               const T* __restrict boxes, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j)
    out[j] = range.settle(boxes[j] + cost(table[at[j]]) + constant);
}

// The targets of an image that are no padding. Labels and slots are padded with zeros.
template <typename T>
struct Image {
  std::vector<int64_t> columns;  // of the result
  std::vector<Label<T>> labels;  // the classes of the targets, once each
  int64_t classes = 0;           // how many these are
  std::vector<Label<T>> slots;   // for each of `columns`, where its class cost is looked up
  std::optional<Targets<T>> targets;

  int64_t count() const { return columns.size(); }
};

// Rows of an image that are computed in one task.
struct RowRange {
  int64_t image, first, count;
};

// Room for what is computed of them.
template <typename T>
struct Room {
  std::vector<T> logits, table, boxes, cost;
  const T* x = nullptr;  // logits of a group of rows, whose exponentials are in `table`
  int64_t classes = 0;   // of a row of either, with padding
  alignas(64) T lanes[kGroup * kVector] = {}, top[kGroup], sum[kGroup];
  std::optional<Targets<double>> wide_targets;  // made for the first row that needs them
  std::vector<double> wide;
};

template <typename T>
class Kernel {
 public:
  Kernel(const Tensor& boxes, const Tensor& target_boxes, const std::optional<Tensor>& logits,
         const std::optional<Tensor>& labels, const std::optional<Tensor>& mask,
         const MatchingOptions& options)
      : o_(options),
        rows_(boxes.size(1)),
        columns_(target_boxes.size(1)),
        classes_(logits ? logits->size(2) : 0),
        boxes_(boxes),
        target_boxes_(target_boxes),
        box_costs_(box_function<T>(options)),
        wide_box_costs_(box_function<double>(options)),
        images_(boxes.size(0)) {
    choose_columns(mask);
    if (logits) {
      logits_.emplace(*logits);
      read_labels(*labels);
    } else {
      for (Image<T>& image : images_) image.slots.resize(padded(image.count()));
    }
    for (size_t b = 0; b < images_.size() && o_.needs_boxes(); ++b)
      images_[b].targets.emplace(targets<T>(b));
  }

  void run(const Tensor& result, ScalarType type, std::optional<double> background) const {
    CostRange<T> range{};
    dispatch_float(type, [&](auto sample) {
      range.largest = static_cast<T>(std::numeric_limits<decltype(sample)>::max());
      range.unmatchable = std::min(T(1e9), range.largest);
    });
    const int64_t tasks = (rows_ + kRowsOfTask - 1) / kRowsOfTask;
    const bool reduces = logits_ && !o_.focal;
    const int64_t width = std::max<int64_t>(columns_ + (reduces ? classes_ : 0), 1);
    const int64_t grain = kPairsPerThread / (kRowsOfTask * width) + 1;
    const auto body = [&](int64_t first, int64_t last) {
      Room<T> room;
      for (int64_t task = first; task < last; ++task) {
        const int64_t b = task / tasks, begin = task % tasks * kRowsOfTask;
        const RowRange rows{b, b * rows_ + begin, std::min(kRowsOfTask, rows_ - begin)};
        room.wide_targets.reset();
        if (o_.focal && logits_) look_up_focal_costs(rows, room);
        for (int64_t r = 0; r < rows.count; ++r) {
          if (reduces && images_[b].count() > 0 && r % kGroup == 0)
            reduce_logits(rows.first + r, std::min(kGroup, rows.count - r), room);
          write(rows, r, range, background, room, result, type);
        }
      }
    };
    torch::stable::parallel_for(0, static_cast<int64_t>(images_.size()) * tasks, grain, body);
  }

 private:
  void choose_columns(const std::optional<Tensor>& mask) {
    std::optional<Tensor> flags;
    if (mask) flags = torch::stable::contiguous(*mask);
    const bool* real = flags ? static_cast<const bool*>(flags->const_data_ptr()) : nullptr;
    for (size_t b = 0; b < images_.size(); ++b)
      for (int64_t j = 0; j < columns_; ++j)
        if (!real || real[b * columns_ + j]) images_[b].columns.push_back(j);
  }

  void read_labels(const Tensor& given) {
    const Tensor labels = torch::stable::contiguous(given);
    std::vector<Label<T>> slot_of(classes_);
    dispatch_any(labels.scalar_type(), [&](auto sample) {
      const auto* data = static_cast<const decltype(sample)*>(labels.const_data_ptr());
      for (size_t b = 0; b < images_.size(); ++b) {
        Image<T>& image = images_[b];
        std::fill(slot_of.begin(), slot_of.end(), Label<T>(-1));
        for (int64_t j : image.columns) {
          const int64_t at = b * columns_ + j, label = static_cast<int64_t>(data[at]);
          if (label < 0 || label >= classes_) refuse(label, at);
          if (slot_of[label] < 0) {
            slot_of[label] = image.labels.size();
            image.labels.push_back(label);
          }
          image.slots.push_back(o_.focal ? slot_of[label] : label);
        }
        image.classes = image.labels.size();
        image.labels.resize(padded(image.labels.size()));
        image.slots.resize(padded(image.slots.size()));
      }
    });
  }
  // std::out_of_range reaches Python as IndexError.
  [[noreturn]] void refuse(int64_t label, int64_t at) const {
    std::ostringstream text;
    text << "labels must hold class indices in [0, " << classes_ - 1 << "] where mask is True; got "
         << label << " at index " << at;
    throw std::out_of_range(text.str());
  }

  template <typename U>
  Targets<U> targets(int64_t b) const {
    std::vector<T> buffer(4 * columns_);
    const T* boxes = target_boxes_.load(4 * b * columns_, 4 * columns_, buffer.data());
    return {boxes, images_[b].columns, o_};
  }

  // Of each row the focal costs of all classes in the image, in `room.table`: (rows, labels).
  void look_up_focal_costs(const RowRange& rows, Room<T>& room) const {
    const Image<T>& image = images_[rows.image];
    if (image.classes == 0) return;
    const int64_t padding = image.labels.size() - image.classes, count = rows.count * image.classes;
    room.table.resize(padded(count) + padding);
    room.logits.resize(classes_);
    for (int64_t r = 0; r < rows.count; ++r) {  // the padding is overwritten by the next row
      const T* x = logits_->load((rows.first + r) * classes_, classes_, room.logits.data());
      look_up(x, image.labels.data(), image.labels.size(), room.table.data() + r * image.classes);
    }
    const auto costs = o_.gamma == 2 ? &focal_costs<Square, T> : &focal_costs<General, T>;
    costs(room.table.data(), padded(count), static_cast<T>(o_.alpha), static_cast<T>(o_.gamma),
          static_cast<T>(o_.cls_weight));
  }

  // Writes the costs of row r to `out`, of a padded length.
  void compute(const RowRange& rows, int64_t r, CostRange<T> range, Room<T>& room, T* out) const {
    const Image<T>& image = images_[rows.image];
    const int64_t width = padded(image.count());
    room.boxes.resize(width);  // zeros, if nothing is written there
    if (o_.needs_boxes()) box_row(rows.image, rows.first + r, room);
    const auto total = [&](const T* table, auto cost) {
      total_costs(table, image.slots.data(), width, cost, static_cast<T>(o_.constant), range,
                  room.boxes.data(), out);
    };
    if (!logits_) {
      const T none = 0;
      total(&none, GivenCost<T>{});
    } else if (o_.focal) {
      total(room.table.data() + r * image.classes, GivenCost<T>{});
    } else {
      const int64_t k = r % kGroup;
      const T weight = static_cast<T>(o_.cls_weight);
      if (o_.softmax)
        total(room.table.data() + k * room.classes, SoftmaxCost<T>{-weight / room.sum[k]});
      else
        total(room.x + k * room.classes, NllCost<T>{room.top[k], log_(room.sum[k]), weight});
    }
  }

  // The exponentials of a group of rows, in `room.table`, with their largest logits and sums. Fewer
  // classes than a vector are filled up with some of probability 0.
  void reduce_logits(int64_t row, int64_t rows, Room<T>& room) const {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    const int64_t count = std::max(classes_, kVector);
    room.logits.resize(kGroup * count);
    room.table.resize(kGroup * count);
    room.classes = count;
    room.x = logits_->load(row * classes_, rows * classes_, room.logits.data());
    if (classes_ < count) {
      T narrow[kGroup * kVector];
      std::copy_n(room.x, rows * classes_, narrow);
      std::fill(room.logits.begin(), room.logits.end(), -infinity);
      for (int64_t r = 0; r < rows; ++r)
        std::copy_n(narrow + r * classes_, classes_, room.logits.data() + r * count);
      room.x = room.logits.data();
    }
    largest_logits(room.x, rows, count, room.lanes);
    fold_largest(room.lanes, room.top);
    exponentials(room.x, rows, count, room.top, room.table.data(), room.lanes);
    fold_sums(room.lanes, room.sum);
  }

  void box_row(int64_t b, int64_t row, Room<T>& room) const {
    T buffer[4];
    const T* given = boxes_.load(4 * row, 4, buffer);
    if constexpr (std::is_same_v<T, float>) {
      const GivenBox<float> box(given, o_);
      if (o_.is_tame() && images_[b].targets->tame && box.is_tame())
        return call(box_costs_, box, *images_[b].targets, room.boxes.data());
      if (!room.wide_targets) room.wide_targets.emplace(targets<double>(b));
      room.wide.resize(room.boxes.size());
      call(wide_box_costs_, GivenBox<double>(given, o_), *room.wide_targets, room.wide.data());
      std::copy(room.wide.begin(), room.wide.end(), room.boxes.begin());
    } else {
      call(box_costs_, GivenBox<double>(given, o_), *images_[b].targets, room.boxes.data());
    }
  }
  template <typename U>
  void call(BoxFunction<U> function, const GivenBox<U>& box, const Targets<U>& targets,
            U* out) const {
    const U* fields = targets.fields.data();
    const U* given = fields + (o_.centred ? Targets<U>::kGiven * targets.width : 0);
    function(box, fields, given, targets.width, static_cast<U>(o_.l1_weight),
             static_cast<U>(o_.iou_weight), static_cast<U>(o_.eps),
             static_cast<U>(std::numeric_limits<T>::max()), out);
  }

  void write(const RowRange& rows, int64_t r, CostRange<T> range, std::optional<double> background,
             Room<T>& room, const Tensor& result, ScalarType type) const {
    const Image<T>& image = images_[rows.image];
    const int64_t count = image.count(), length = result.size(2);
    dispatch_float(type, [&](auto sample) {
      using U = decltype(sample);
      U* out = static_cast<U*>(result.mutable_data_ptr()) + (rows.first + r) * length;
      const bool behind = count == 0 || image.columns.back() == count - 1;  // all padding is
      if constexpr (std::is_same_v<T, U>) {
        if (behind && padded(count) <= length) {
          if (count) compute(rows, r, range, room, out);
          return finish(out, count, range.largest, background);
        }
      }
      room.cost.resize(padded(count));
      if (count) compute(rows, r, range, room, room.cost.data());
      if (!behind) std::fill(out, out + columns_, U(0));
      for (int64_t j = 0; j < count; ++j)
        out[behind ? j : image.columns[j]] = static_cast<U>(room.cost[j]);
      finish(out, behind ? count : columns_, range.largest, background);
    });
  }
  // The rest of a row: padding and the background.
  template <typename U>
  void finish(U* out, int64_t from, double largest, std::optional<double> background) const {
    std::fill(out + from, out + columns_, U(0));
    if (background) out[columns_] = static_cast<U>(static_cast<T>(bounded(*background, largest)));
  }

  const MatchingOptions o_;
  const int64_t rows_, columns_, classes_;
  const Source<T> boxes_, target_boxes_;
  const BoxFunction<T> box_costs_;
  const BoxFunction<double> wide_box_costs_;
  std::optional<Source<T>> logits_;
  std::vector<Image<T>> images_;
};

Tensor matching_cost(Tensor boxes, Tensor target_boxes, std::optional<Tensor> logits,
                     std::optional<Tensor> labels, std::optional<Tensor> mask, std::string cls_cost,
                     double cls_weight, double l1_weight, double iou_weight, std::string iou_kind,
                     std::string box_format, double alpha, double gamma, double eps,
                     double constant, std::optional<double> background_cost, ScalarType dtype) {
  const int64_t columns = target_boxes.size(1) + (background_cost ? 1 : 0);
  const std::vector<int64_t> sizes{boxes.size(0), boxes.size(1), columns};
  Tensor result = torch::stable::new_empty(boxes, sizes, dtype);
  const MatchingOptions options{iou_kind,
                                cls_cost == "sigmoid_focal",
                                cls_cost == "softmax",
                                box_format == "cxcywh",
                                iou_kind == "ciou" && iou_weight != 0,
                                cls_weight,
                                l1_weight,
                                iou_weight,
                                alpha,
                                gamma,
                                eps,
                                constant};
  const auto run = [&](auto sample) {
    const Kernel<decltype(sample)> kernel(boxes, target_boxes, logits, labels, mask, options);
    kernel.run(result, dtype, background_cost);
  };
  dtype == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) { m.impl("matching_cost", TORCH_BOX(&matching_cost)); }

}  // namespace
}  // namespace fastloss::cpu
