// A whole CUDA op in one file, to prove the build: the shared object is compiled for sm_80 and
// sm_90, links without a CUDA torch, loads anywhere and registers; on a GPU the op runs.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "common/focal.h"

// These exist in CUDA builds of torch only. Weak, they let the object load on the others too.
extern "C" {
__attribute__((
    weak)) decltype(aoti_torch_get_current_cuda_stream) aoti_torch_get_current_cuda_stream;
__attribute__((weak)) decltype(torch_c10_cuda_check_msg) torch_c10_cuda_check_msg;
__attribute__((weak)) decltype(torch_c10_cuda_free_error_msg) torch_c10_cuda_free_error_msg;

// 1 if all of them were found: a null stream function would crash the first launch.
__attribute__((visibility("default"))) int fastloss_probe_cuda_symbols() {
  return aoti_torch_get_current_cuda_stream && torch_c10_cuda_check_msg &&
         torch_c10_cuda_free_error_msg;
}
}

namespace {

using torch::stable::Tensor;

__global__ void fastloss_probe_bce(const float* logits, const float* targets, float* losses,
                                   int64_t n) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    losses[i] = fastloss::Logit<float>(logits[i]).bce(targets[i]);
  }
}

// logits (*), targets (*): contiguous float32 on one device -> (*)
Tensor bce(const Tensor& logits, const Tensor& targets) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(logits.get_device_index(), &stream));
  Tensor losses = torch::stable::empty_like(logits);
  const int64_t n = logits.numel(), threads = 256;
  if (n > 0) {
    const auto blocks = static_cast<unsigned>(std::min<int64_t>((n + threads - 1) / threads, 4096));
    fastloss_probe_bce<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const float*>(logits.data_ptr()), static_cast<const float*>(targets.data_ptr()),
        static_cast<float*>(losses.data_ptr()), n);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return losses;
}

STABLE_TORCH_LIBRARY(fastloss_probe, m) { m.def("bce(Tensor logits, Tensor targets) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(fastloss_probe, CUDA, m) { m.impl("bce", TORCH_BOX(&bce)); }

}  // namespace
