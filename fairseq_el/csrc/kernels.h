// One namespace per instruction level: kernels.cpp is compiled once for each.
#pragma once
#include <cstdint>

#define FAIRSEQ_EL_DECLARE(level)                                    \
    namespace fairseq_el {                                           \
    namespace level {                                                \
    void add(float* to, const float* a, const float* b, int64_t n); \
    const char* name();                                              \
    }                                                                \
    }

FAIRSEQ_EL_DECLARE(plain)
#ifdef FAIRSEQ_EL_X86
FAIRSEQ_EL_DECLARE(avx2)
FAIRSEQ_EL_DECLARE(avx512)
#endif
