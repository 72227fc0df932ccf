// The choice of kernels: the best level that both the compiler and this processor have.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace fairseq_el {

#define FAIRSEQ_EL_DECLARE(level) \
  namespace level {               \
  template <class T>              \
  const Kernels<T>& table();      \
  }
FAIRSEQ_EL_DECLARE(plain)
#ifdef FAIRSEQ_EL_X86
FAIRSEQ_EL_DECLARE(avx2)
FAIRSEQ_EL_DECLARE(avx512)
#endif
#undef FAIRSEQ_EL_DECLARE

const char* instruction_level() {
  static const char* const level = [] {
    const char* asked = std::getenv("FAIRSEQ_EL_INSTRUCTIONS");
    const auto allows = [&](const char* name) { return asked == nullptr || std::strcmp(asked, name) == 0; };
#ifdef FAIRSEQ_EL_X86
    __builtin_cpu_init();
    if (allows("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
      return "avx512";
    if ((allows("avx2") || allows("avx512")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      return "avx2";
#endif
    (void)allows;
    return "plain";
  }();
  return level;
}

template <class T>
const Kernels<T>& kernels() {
#ifdef FAIRSEQ_EL_X86
  static const bool is_avx512 = std::strcmp(instruction_level(), "avx512") == 0;
  static const bool is_avx2 = std::strcmp(instruction_level(), "avx2") == 0;
  if (is_avx512) return avx512::table<T>();
  if (is_avx2) return avx2::table<T>();
#endif
  return plain::table<T>();
}

template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();
template const Kernels<bfloat16>& kernels<bfloat16>();

}  // namespace fairseq_el
