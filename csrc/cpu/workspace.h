// Memory that a kernel needs for itself.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

namespace fastloss::cpu {

// Room for `count` numbers, not initialised. It comes from torch's allocator, so that torch's
// profiler counts it.
template <typename T>
class Workspace {
 public:
  Workspace() = default;
  Workspace(Workspace&&) = default;  // a copy would be the same memory
  Workspace& operator=(Workspace&&) = default;
  explicit Workspace(int64_t count)
      : tensor_(torch::stable::empty({count * static_cast<int64_t>(sizeof(T))},
                                     torch::headeronly::ScalarType::Byte)),
        data_(static_cast<T*>(tensor_->mutable_data_ptr())) {}

  explicit operator bool() const { return tensor_.has_value(); }
  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  std::optional<torch::stable::Tensor> tensor_;
  T* data_ = nullptr;
};

}  // namespace fastloss::cpu
