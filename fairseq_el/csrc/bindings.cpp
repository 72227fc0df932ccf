#include <ATen/Parallel.h>
#include <torch/extension.h>

#include "kernels.h"

namespace {
using Add = void (*)(float*, const float*, const float*, int64_t);

struct Level {
    const char* name;
    Add add;
};

Level best() {
#ifdef FAIRSEQ_EL_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return {fairseq_el::avx512::name(), fairseq_el::avx512::add};
    if (avx2) return {fairseq_el::avx2::name(), fairseq_el::avx2::add};
#endif
    return {fairseq_el::plain::name(), fairseq_el::plain::add};
}

at::Tensor add(const at::Tensor& a, const at::Tensor& b) {
    at::Tensor to = at::empty_like(a);
    const float* left = a.data_ptr<float>();
    const float* right = b.data_ptr<float>();
    float* sums = to.data_ptr<float>();
    at::parallel_for(0, a.numel(), 1024, [&](int64_t begin, int64_t end) {
        best().add(sums + begin, left + begin, right + begin, end - begin);
    });
    return to;
}

int64_t threads() {
    std::atomic<int64_t> parts{0};
    at::parallel_for(0, 64, 1, [&](int64_t, int64_t) { ++parts; });
    return parts;
}
}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    m.def("level", [] { return best().name; });
    m.def("add", &add);
    m.def("threads", &threads);
}
