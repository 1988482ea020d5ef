// The codecs' loops, compiled once per instruction set; the table is chosen at load time,
// so that one build runs on every processor of its architecture.
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MANY_TARGETS
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c,popcnt,bmi,bmi2")
#define TARGET 2
namespace avx512 {
#include "lanes.h"
#include "quantize.h"
#include "sign.h"
#include "topk.h"
}  // namespace avx512
#undef TARGET
#undef LANES
#undef INLINE
#undef INLINED
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,f16c,popcnt,bmi,bmi2")
#define TARGET 1
namespace avx2 {
#include "lanes.h"
#include "quantize.h"
#include "sign.h"
#include "topk.h"
}  // namespace avx2
#undef TARGET
#undef LANES
#undef INLINE
#undef INLINED
#pragma GCC pop_options
#endif

#define TARGET 0
namespace plain {
#include "lanes.h"
#include "quantize.h"
#include "sign.h"
#include "topk.h"
}  // namespace plain

#ifdef MANY_TARGETS
static int chosen_target() {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 2;
    return __builtin_cpu_supports("avx2") ? 1 : 0;
}
static int target = chosen_target();

#define DISPATCH(call) \
    if (target == 2)   \
        avx512::call;  \
    else if (target)   \
        avx2::call;    \
    else               \
        plain::call
#else
static int target = 0;
#define DISPATCH(call) plain::call
#endif

extern "C" {

// 2: AVX-512, 1: AVX2, 0: what the compiler takes for granted
int kernel_target() { return target; }

// for tests: a lower target than the processor's; a higher one is not taken
void lower_target(int wanted) {
#ifdef MANY_TARGETS
    const int best = chosen_target();
    target = wanted < best ? wanted : best;
#endif
}

void sign_encode(const float* values, const float* residual, uint8_t* wire,
                 float* new_residual, int64_t count, float factor) {
    DISPATCH(sign_encode(values, residual, wire, new_residual, count, factor));
}

void sign_decode(const uint8_t* wires, int64_t stride, int64_t workers, float* out,
                 int64_t count, float inverse) {
    DISPATCH(sign_decode(wires, stride, workers, out, count, inverse));
}

#define QUANTIZER(width)                                                                \
    void int##width##_encode(const float* values, const float* residual, uint8_t* wire, \
                             float* new_residual, int64_t count, float factor,          \
                             int64_t first_block, uint32_t key_1, uint32_t key_2) {     \
        DISPATCH(quantize_encode<width>(values, residual, wire, new_residual, count,    \
                                        factor, first_block, key_1, key_2));            \
    }                                                                                   \
    void int##width##_decode(const uint8_t* wires, int64_t stride, int64_t workers,     \
                             float* out, int64_t count, float inverse) {                \
        DISPATCH(quantize_decode<width>(wires, stride, workers, out, count, inverse));  \
    }

QUANTIZER(8)
QUANTIZER(4)

void topk_encode(const float* values, const float* residual, uint8_t* wire,
                 float* new_residual, int64_t count, float factor, int64_t kept,
                 int64_t kept_last) {
    DISPATCH(topk_encode(values, residual, wire, new_residual, count, factor, kept,
                         kept_last));
}

void topk_decode(const uint8_t* wires, int64_t stride, int64_t workers, float* out,
                 int64_t count, float inverse, int64_t kept, int64_t kept_last) {
    DISPATCH(topk_decode(wires, stride, workers, out, count, inverse, kept, kept_last));
}

}  // extern "C"
