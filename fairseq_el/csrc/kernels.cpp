#include "kernels.h"

#define FAIRSEQ_EL_TEXT(level) #level
#define FAIRSEQ_EL_NAME(level) FAIRSEQ_EL_TEXT(level)

namespace fairseq_el {
namespace FAIRSEQ_EL_LEVEL {
void add(float* to, const float* a, const float* b, int64_t n) {
    for (int64_t i = 0; i < n; ++i) to[i] = a[i] + b[i];
}
const char* name() { return FAIRSEQ_EL_NAME(FAIRSEQ_EL_LEVEL); }
}  // namespace FAIRSEQ_EL_LEVEL
}  // namespace fairseq_el
