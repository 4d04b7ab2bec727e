// CPU kernels of the stem `matched_detection`. Each tile of predictions reads its part of the
// matching once; targets without mass there are left out, so that a one-hot matching costs no more
// than the softmax of the logits.
#include "cpu/matched_boxes.h"
#include "cpu/matched_classes.h"

namespace fastloss::cpu {
namespace {

template <typename T>
struct Room {
  Pairs<T> pairs;
  Masses<T> masses;
  ClassRoom<T> classes;
  std::vector<T> matching, logits, boxes, rows;

  explicit Room(const ClassOptions& options) : classes(options) {}
};

template <typename T>
class Kernel {
 public:
  Kernel(const Tensor& logits, const Tensor& boxes, const Tensor& labels,
         const Tensor& target_boxes, const Tensor& matching, const std::optional<Tensor>& mask,
         const std::optional<Tensor>& class_weight, const ClassOptions& classes,
         const BoxOptions& box_options)
      : rows_(logits.size(1)),
        o_(classes),
        logits_(logits),
        boxes_(boxes),
        matching_(matching),
        columns_(matching.size(2)),
        images_(logits.size(0)),
        weight_(weights(class_weight)),
        class_losses_(classes, weight_[o_.focal() ? o_.classes : o_.background]),
        box_losses_(box_options) {
    for (int64_t l = 0; l < kTile; ++l) {
      logit_starts_[l] = static_cast<Label<T>>(l * o_.classes);
      matching_starts_[l] = static_cast<Label<T>>(l * columns_);
    }
    read_targets(labels, target_boxes, mask);
  }

  // The five rows of the result.
  void forward(T* out) const {
    const int64_t total = rows_ * static_cast<int64_t>(images_.size());
    for_each_tile([&](const Tile& tile, Room<T>& room) {
      alignas(64) T results[5][kTile] = {};
      const Masses<T>& masses = room.masses;
      collect(tile, room);
      alignas(64) T background[kTile], used[kTile];
      for (int64_t l = 0; l < kTile; ++l) {
        background[l] = class_losses_.of_background(masses.background[l]);
        used[l] = masses.any_weighted[l] + abs_(background[l]);
      }
      const bool paired = room.pairs.count > 0;
      if (any_of(used)) {
        load_logits(tile, used, room);
        class_losses_.values(room.classes, paired, background, results[0], results[1]);
      }
      if (paired) {
        const T* boxes = load(boxes_, tile, 4, room.boxes);
        box_losses_.values(boxes, room.pairs, masses.any, results[2]);
        std::copy_n(masses.matched, kTile, results[3]);
        std::copy_n(masses.weighted, kTile, results[4]);
      }
      for (int64_t r = 0; r < 5; ++r)
        std::copy_n(results[r], tile.count, out + r * total + tile.first);
    });
  }

  void backward(const Tensor& grad, const Sink& g_logits, const Sink& g_boxes) const {
    const Source<T> incoming(grad);
    const int64_t total = rows_ * static_cast<int64_t>(images_.size());
    for_each_tile([&](const Tile& tile, Room<T>& room) {
      alignas(64) T g[3][kTile] = {};
      for (int64_t r = 0; r < 3; ++r) {
        T buffer[kTile];
        std::copy_n(incoming.load(r * total + tile.first, tile.count, buffer), tile.count, g[r]);
      }
      collect(tile, room);
      if (g_logits) logit_gradients(tile, g[0], g[1], room, g_logits);
      if (g_boxes) box_gradients(tile, g[2], room, g_boxes);
    });
  }

 private:
  struct Tile {
    int64_t image, first, count;  // predictions, counted over all images
  };

  std::vector<T> weights(const std::optional<Tensor>& class_weight) const {
    std::vector<T> result(o_.classes + 1, T(1));  // that of "no class" is 1
    if (!class_weight) return result;
    const Source<T> source(*class_weight);
    const T* from = source.load(0, o_.classes, result.data());
    if (from != result.data()) std::copy_n(from, o_.classes, result.data());
    return result;
  }

  void read_targets(const Tensor& given, const Tensor& target_boxes,
                    const std::optional<Tensor>& mask) {
    const Tensor labels = torch::stable::contiguous(given);
    std::optional<Tensor> flags;
    if (mask) flags = torch::stable::contiguous(*mask);
    const bool* real = flags ? static_cast<const bool*>(flags->const_data_ptr()) : nullptr;
    const Source<T> boxes(target_boxes);
    const int64_t count = columns_ - 1, last = o_.focal() ? o_.classes : o_.classes - 1;
    dispatch_any(labels.scalar_type(), [&](auto sample) {
      const auto* data = static_cast<const decltype(sample)*>(labels.const_data_ptr());
      for (int64_t i = 0; i < count * static_cast<int64_t>(images_.size()); ++i) {
        if (real && !real[i]) continue;
        const int64_t label = static_cast<int64_t>(data[i]);
        if (label < 0 || label > last) refuse(label, last, i);
        T buffer[4];
        Target<T> target = box_losses_.target(boxes.load(4 * i, 4, buffer));
        target.column = i % count;
        target.label = static_cast<Label<T>>(label);
        target.weight = weight_[label];
        images_[i / count].push_back(target);
      }
    });
  }
  // std::out_of_range reaches Python as IndexError.
  [[noreturn]] static void refuse(int64_t label, int64_t last, int64_t at) {
    std::ostringstream text;
    text << "labels must hold class indices in [0, " << last << "] where mask is True; got "
         << label << " at index " << at;
    throw std::out_of_range(text.str());
  }

  template <typename F>
  void for_each_tile(const F& f) const {
    const int64_t tiles = (rows_ + kTile - 1) / kTile;
    const int64_t grain = kPairsPerThread / (kTile * (columns_ + o_.classes)) + 1;
    const auto body = [&](int64_t first, int64_t last) {
      Room<T> room(o_);
      for (int64_t i = first; i < last; ++i) {
        const int64_t begin = i % tiles * kTile;
        f(Tile{i / tiles, i / tiles * rows_ + begin, std::min(kTile, rows_ - begin)}, room);
      }
    };
    torch::stable::parallel_for(0, static_cast<int64_t>(images_.size()) * tiles, grain, body);
  }

  // Rows of `width` of the tile, filled up with zeros.
  static const T* load(const Source<T>& source, const Tile& tile, int64_t width,
                       std::vector<T>& buffer) {
    buffer.resize(kTile * width);
    const int64_t count = tile.count * width;
    const T* rows = source.load(tile.first * width, count, buffer.data());
    if (tile.count == kTile) return rows;
    if (rows != buffer.data()) std::copy_n(rows, count, buffer.data());
    std::fill(buffer.begin() + count, buffer.end(), T(0));
    return buffer.data();
  }

  // The masses of the tile, those of classes too if there are any.
  void collect(const Tile& tile, Room<T>& room) const {
    const std::vector<Target<T>>& targets = images_[tile.image];
    const T* rows = load(matching_, tile, columns_, room.matching);
    Pairs<T>& pairs = room.pairs;
    Masses<T>& masses = room.masses;
    masses = {};
    gather_lanes(rows + columns_ - 1, matching_starts_, masses.background);
    pairs.targets = targets.data();
    pairs.count = 0;
    pairs.chosen.resize(targets.size());
    pairs.masses.resize(targets.size() * kTile);
    if (columns_ > kVector && !has_mass(rows, columns_, columns_ - 1)) return;
    for (size_t j = 0; j < targets.size(); ++j) {
      T* mass = pairs.masses.data() + pairs.count * kTile;
      pairs.chosen[pairs.count] = j;
      pairs.count += gather_lanes(rows + targets[j].column, matching_starts_, mass);
    }
    if (pairs.count == 0) return;
    T* h = room.classes.h.data();
    std::fill(room.classes.h.begin(), room.classes.h.end(), T(0));
    for (int64_t k = 0; k < pairs.count; ++k) {
      const Target<T>& target = pairs.target(k);
      add_target(pairs.of(k), target.weight, h + target.label * kTile, &masses);
    }
  }

  void load_logits(const Tile& tile, const T* used, Room<T>& room) const {
    const T* rows = load(logits_, tile, o_.classes, room.logits);
    transpose_rows(rows, o_.classes, logit_starts_, used, room.classes.x.data());
  }

  void logit_gradients(const Tile& tile, const T* g_class, const T* g_background, Room<T>& room,
                       const Sink& gradient) const {
    const Masses<T>& masses = room.masses;
    const int64_t start = tile.first * o_.classes, count = tile.count * o_.classes;
    room.rows.resize(kTile * o_.classes);
    T* out = room.rows.data();
    if (tile.count == kTile) out = gradient.target<T>(start, out);
    alignas(64) T background[kTile], used[kTile];
    for (int64_t l = 0; l < kTile; ++l) {
      background[l] = g_background[l] * class_losses_.of_background(masses.background[l]);
      used[l] = (g_class[l] != T(0) ? masses.any_weighted[l] : T(0)) + abs_(background[l]);
    }
    if (any_of(used)) {
      const bool paired = room.pairs.count > 0;
      if (!paired) std::fill(room.classes.h.begin(), room.classes.h.end(), T(0));
      load_logits(tile, used, room);
      const T* slopes = class_losses_.gradients(room.classes, paired, g_class, background);
      transpose_back(slopes, o_.classes, logit_starts_, out);
    } else {
      std::fill_n(out, count, T(0));
    }
    gradient.store<T>(start, count, out);
  }

  void box_gradients(const Tile& tile, const T* g, Room<T>& room, const Sink& gradient) const {
    alignas(64) T busy[kTile], out[4 * kTile] = {};
    for (int64_t l = 0; l < kTile; ++l) busy[l] = g[l] != T(0) ? room.masses.any[l] : T(0);
    if (any_of(busy)) {
      const T* boxes = load(boxes_, tile, 4, room.boxes);
      box_losses_.gradients(boxes, room.pairs, busy, g, out);
    }
    gradient.store<T>(4 * tile.first, 4 * tile.count, out);
  }

  const int64_t rows_;
  const ClassOptions o_;
  const Source<T> logits_, boxes_, matching_;
  const int64_t columns_;  // of the matching
  std::vector<std::vector<Target<T>>> images_;
  const std::vector<T> weight_;
  const ClassLosses<T> class_losses_;
  const BoxLosses<T> box_losses_;
  alignas(64) Label<T> logit_starts_[kTile], matching_starts_[kTile];
};

template <typename F>
void with_type(const Tensor& logits, const F& f) {
  logits.scalar_type() == ScalarType::Double ? f(double{}) : f(float{});
}

Tensor matched_detection(Tensor logits, Tensor boxes, Tensor labels, Tensor target_boxes,
                         Tensor matching, std::optional<Tensor> mask,
                         std::optional<Tensor> class_weight, std::string cls_loss,
                         int64_t background, double alpha, double gamma, std::string distance,
                         double beta, double distance_weight, std::string iou_kind,
                         double iou_weight, double eps) {
  const std::vector<int64_t> sizes{5, logits.size(0), logits.size(1)};
  Tensor result = torch::stable::new_empty(logits, sizes, result_type(logits, true));
  with_type(logits, [&](auto sample) {
    using T = decltype(sample);
    const Kernel<T> kernel(logits, boxes, labels, target_boxes, matching, mask, class_weight,
                           {cls_loss, logits.size(2), background, alpha, gamma},
                           {distance, iou_kind, beta, distance_weight, iou_weight, eps});
    kernel.forward(static_cast<T*>(result.mutable_data_ptr()));
  });
  return result;
}

std::tuple<Tensor, Tensor> matched_detection_backward(
    Tensor grad, Tensor logits, Tensor boxes, Tensor labels, Tensor target_boxes, Tensor matching,
    std::optional<Tensor> mask, std::optional<Tensor> class_weight, std::string cls_loss,
    int64_t background, double alpha, double gamma, std::string distance, double beta,
    double distance_weight, std::string iou_kind, double iou_weight, double eps, int64_t needs) {
  const Tensor g_logits = gradient_like(logits, logits, needs, 0);
  const Tensor g_boxes = gradient_like(logits, boxes, needs, 1);
  with_type(logits, [&](auto sample) {
    using T = decltype(sample);
    const Kernel<T> kernel(logits, boxes, labels, target_boxes, matching, mask, class_weight,
                           {cls_loss, logits.size(2), background, alpha, gamma},
                           {distance, iou_kind, beta, distance_weight, iou_weight, eps});
    kernel.backward(grad, sink_for(g_logits, needs, 0), sink_for(g_boxes, needs, 1));
  });
  return {g_logits, g_boxes};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("matched_detection", TORCH_BOX(&matched_detection));
  m.impl("matched_detection_backward", TORCH_BOX(&matched_detection_backward));
}

}  // namespace
}  // namespace fastloss::cpu
