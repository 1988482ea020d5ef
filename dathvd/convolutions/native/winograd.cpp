// 3x3 convolutions of stride 1 by Winograd's minimal filtering, compiled once per
// instruction set; the best one is chosen at load time.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "fusion.h"
#include "parallel.h"
#include "sizes.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kPad = 16;  // words, see below
constexpr int64_t kSlab = 32;  // outputs of one piece of work of the weights' gradient

struct Tile {
    int64_t image, y, x;  // of its first output
};

// channels-last images of one size in and out, padded by one zero all around
struct Convolution {
    int64_t images, height, width, channels_in, channels_out;
    int64_t factors;  // of a product, in a word of 32 bits

    int64_t across() const { return (width + 3) / 4; }
    int64_t down() const { return (height + 3) / 4; }
    int64_t tiles() const { return images * down() * across(); }
    // rows of tiles lie a little apart, lest a power of two map them all on few cache sets
    int64_t stride_in() const { return channels_in / factors + kPad; }
    Tile tile(int64_t index) const {
        const int64_t in_image = index % (down() * across());
        return {index / (down() * across()), in_image / across() * 4,
                in_image % across() * 4};
    }
};

constexpr int64_t kPoints = 36;
constexpr int64_t kPointWords = 1 << 16;  // of one point's factors: a quarter of that cache
constexpr int64_t kLargeMatrix = 1 << 17;  // of weights: its sums leave the cache
constexpr int64_t kFactorFloats = 3 << 16;  // of the direct sum's block, in that cache
constexpr int64_t kBlockBytes = 1 << 20;  // of tiles and products: what a core's cache holds

}  // namespace

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MANY_TARGETS

#if __GNUC__ >= 10
#define BF16_TARGET
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#define TARGET 3
namespace avx512_bf16 {
#include "winograd.h"
}
#undef TARGET
#undef LANES
#undef INLINE
#pragma GCC pop_options
#endif

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define TARGET 2
namespace avx512 {
#include "winograd.h"
}
#undef TARGET
#undef LANES
#undef INLINE
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define TARGET 1
namespace avx2 {
#include "winograd.h"
}
#undef TARGET
#undef LANES
#undef INLINE
#pragma GCC pop_options
#endif

#define TARGET 0
namespace plain {
#include "winograd.h"
}

namespace {

struct Target {
    decltype(&plain::scatter) scatter;
    decltype(&plain::gather) gather;
    decltype(&plain::multiply) multiply;
    decltype(&plain::transform) transform;
    decltype(&plain::scatter_words) scatter_words;
    decltype(&plain::multiply_words) multiply_words;
    decltype(&plain::finish) finish;
    int64_t rows, columns, factors;
};

#define TARGET_OF(space)                                                             \
    {                                                                                \
        space::scatter, space::gather, space::multiply, space::transform,            \
            space::scatter_words, space::multiply_words, space::finish,              \
            space::kRows, space::kColumns, space::kFactors                           \
    }

const Target targets[] = {
    TARGET_OF(plain),
#ifdef MANY_TARGETS
    TARGET_OF(avx2),
    TARGET_OF(avx512),
#endif
#ifdef BF16_TARGET
    TARGET_OF(avx512_bf16),
#endif
};

int best_target() {
#ifdef MANY_TARGETS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
#ifdef BF16_TARGET
        return __builtin_cpu_supports("avx512bf16") ? 3 : 2;
#else
        return 2;
#endif
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}

int target = best_target();

// loops of the direct sum
struct Direct {
    decltype(&plain::arrange) arrange;
    decltype(&plain::collect) collect;
    decltype(&plain::multiply_rows) multiply_rows;
    decltype(&plain::spread_out) spread_out;
};

#define DIRECT_OF(space)                                                             \
    {                                                                                \
        space::arrange, space::collect, space::multiply_rows, space::spread_out      \
    }

const Direct direct_targets[] = {
    DIRECT_OF(plain),
#ifdef MANY_TARGETS
    DIRECT_OF(avx2),
    DIRECT_OF(avx512),
#endif
};

const Direct& direct_loops() { return direct_targets[std::min(target, 2)]; }

// the loops for factors in bfloat16, or else for those in float32
const Target& loops(int bf16) { return targets[bf16 ? target : std::min(target, 2)]; }

}  // namespace

extern "C" {

// 3: AVX-512 with bfloat16, 2: AVX-512, 1: AVX2, 0: what the compiler takes for granted
int kernel_target() { return target; }

// for tests: a lower target than the processor's; a higher one is not taken
void lower_target(int wanted) { target = std::min(wanted, best_target()); }

// weights[out][in][3][3] -> 36 * in * out factors for winograd_convolve; for the adjoint
// the channels given are those of the adjoint, which has the other's in and out exchanged
void winograd_transform(const float* weights, float* to, int64_t channels_in,
                        int64_t channels_out, int adjoint, int bf16, int threads) {
    const Target& kernels = loops(bf16);
    const Convolution c{0, 0, 0, channels_in, channels_out, kernels.factors};
    in_parallel(channels_out / kernels.columns, threads, [&](int64_t panel) {
        kernels.transform(c, weights, to, adjoint != 0, panel);
    });
}

// images and out are float32, or bfloat16 as the factors are; the rest as in fusion.h
void winograd_convolve(const void* images, const float* weights, void* out,
                       int64_t num_images, int64_t height, int64_t width,
                       int64_t channels_in, int64_t channels_out, int bf16, int threads,
                       const void* mask, const float* scale_in, const float* shift_in,
                       const float* bias, const void* gate, const float* scale_out, const float* shift_out,
                    const void* residual, int rectified) {
    const Fusion fusion{mask, scale_in,  shift_in,  bias,     gate,
                        scale_out, shift_out, residual, rectified};
    const Target& kernels = loops(bf16);
    const Convolution c{num_images,  height,       width,
                        channels_in, channels_out, kernels.factors};
    const int64_t total = c.tiles(), matrix = channels_in / c.factors * channels_out;
    const int64_t per_row = kPoints * (c.stride_in() + channels_out);
    const auto whole_rows = [&](int64_t count) {
        return (count + kernels.rows - 1) / kernels.rows * kernels.rows;
    };
    const int64_t block = whole_rows(std::min(
        total, std::max<int64_t>(kBlockBytes / 4 / per_row, 3 * kernels.rows)));
    const int64_t blocks = (total + block - 1) / block;

    if (blocks >= threads) {  // each thread takes whole blocks, which stay in its cache
        in_parallel(blocks, threads, [&](int64_t index) {
            float* tiles = kept_memory(kOwn, block * per_row);
            float* products = tiles + kPoints * block * c.stride_in();
            const int64_t first = index * block, count = std::min(block, total - first);
            const int64_t rows = whole_rows(count);
            kernels.scatter(c, fusion, images, tiles, first, count, rows);
            for (int64_t point = 0; point < kPoints; point++)
                kernels.multiply(c, tiles + point * rows * c.stride_in(),
                                 weights + point * matrix,
                                 products + point * rows * channels_out, rows);
            kernels.gather(c, fusion, products, out, first, count, rows);
        });
        return;
    }
    // few tiles, many weights: the threads share the points, so that each weight is read
    // once
    const int64_t rows = whole_rows(total);
    float* tiles = kept_memory(kShared, rows * per_row);
    float* products = tiles + kPoints * rows * c.stride_in();
    in_parallel(total, threads, [&](int64_t index) {
        kernels.scatter(c, fusion, images, tiles + index * c.stride_in(), index, 1, rows);
    });
    in_parallel(kPoints, threads, [&](int64_t point) {
        kernels.multiply(c, tiles + point * rows * c.stride_in(),
                         weights + point * matrix,
                         products + point * rows * channels_out, rows);
    });
    in_parallel(total, threads, [&](int64_t index) {
        kernels.gather(c, fusion, products + index * channels_out, out, index, 1, rows);
    });
}

// gradient[out][in][3][3] of the weights, from the images and the outputs' gradient
void winograd_weight_gradient(const void* images, const void* outputs, float* gradient,
                              int64_t num_images, int64_t height, int64_t width,
                              int64_t channels_in, int64_t channels_out, int bf16,
                              int threads) {
    const Target& kernels = loops(bf16);
    const Convolution c{num_images,  height,       width,
                        channels_in, channels_out, kernels.factors};
    const int64_t words = (c.tiles() + c.factors - 1) / c.factors;
    const int64_t strides = channels_in + channels_out + 2 * kPad;
    const int64_t matrix = channels_in * channels_out, slabs = channels_out / kSlab;
    // fixed, so that the sums do not depend on the number of threads
    const int64_t wanted = matrix < kLargeMatrix ? kPointWords : 4 * kPointWords;
    const int64_t block = std::min(words, std::max<int64_t>(wanted / strides, 1));
    const int64_t image_step = block * (channels_in + kPad);
    const int64_t output_step = block * (channels_out + kPad);
    float* image_words = kept_memory(kShared, kPoints * block * strides);
    float* output_words = image_words + kPoints * image_step;
    const auto scatter = [&](int64_t first, int64_t count) {
        in_parallel(count, threads, [&](int64_t word) {
            kernels.scatter_words(c, images, false, first + word,
                                  image_words + word * (channels_in + kPad), image_step);
            kernels.scatter_words(c, outputs, true, first + word,
                                  output_words + word * (channels_out + kPad),
                                  output_step);
        });
    };
    const auto multiply = [&](int64_t point, int64_t slab, float* to, int64_t count,
                              bool first) {
        kernels.multiply_words(c, image_words + point * image_step,
                               output_words + point * output_step + slab * kSlab, to,
                               count, first);
    };

    if (block == words) {  // each thread takes whole slabs, whose sums stay in its cache
        scatter(0, words);
        in_parallel(slabs, threads, [&](int64_t slab) {
            const int64_t step = kSlab * channels_in;
            float* sums = kept_memory(kOwn, kPoints * step);
            for (int64_t point = 0; point < kPoints; point++)
                multiply(point, slab, sums + point * step, words, true);
            for (int64_t out = 0; out < kSlab; out++)
                kernels.finish(c, sums + out * channels_in, step,
                               gradient + 9 * (slab * kSlab + out) * channels_in);
        });
        return;
    }
    float* sums = kept_memory(kSums, kPoints * matrix);
    for (int64_t first = 0; first < words; first += block) {
        const int64_t count = std::min(block, words - first);
        scatter(first, count);
        in_parallel(kPoints * slabs, threads, [&](int64_t index) {
            const int64_t point = index / slabs, slab = index % slabs;
            multiply(point, slab, sums + point * matrix + slab * kSlab * channels_in,
                     count, first == 0);
        });
    }
    in_parallel(channels_out, threads, [&](int64_t out) {
        kernels.finish(c, sums + out * channels_in, matrix,
                       gradient + 9 * out * channels_in);
    });
}

// weights[out][in][kernel][kernel] -> factors for direct_convolve
void direct_transform(const float* weights, float* to, int64_t channels_in,
                      int64_t channels_out, int64_t kernel, int64_t stride, int adjoint,
                      int threads) {
    const Sizes s(0, 0, 0, channels_in, channels_out, kernel, stride, adjoint != 0);
    in_parallel(s.target_channels / loops(false).columns, threads,
                [&](int64_t panel) { direct_loops().arrange(s, weights, to, panel); });
}

// as tiles_convolve, in float32
void direct_convolve(const void* images, const float* weights, void* out,
                     int64_t num_images, int64_t height, int64_t width,
                     int64_t channels_in, int64_t channels_out, int64_t kernel,
                     int64_t stride, int adjoint, int threads, const void* mask,
                     const float* scale_in, const float* shift_in, const float* bias,
                     const void* gate, const float* scale_out, const float* shift_out,
                     const void* residual, int rectified) {
    const Fusion fusion{mask, scale_in,  shift_in,  bias,     gate,
                        scale_out, shift_out, residual, rectified};
    const Sizes s(num_images, height, width, channels_in, channels_out, kernel, stride,
                  adjoint != 0);
    const Direct& kernels = direct_loops();
    const int64_t unit = loops(false).rows;
    Places classes[4];
    const int64_t count = classes_of(s, classes);
    for (int64_t each = 0; each < count; each++) {
        const Places& places = classes[each];
        const int64_t total = s.images * places.rows * places.columns;
        const int64_t stride_in = places.count * s.channels + kPad;
        const int64_t fits = kFactorFloats / stride_in;
        const int64_t block =
            std::max<int64_t>(std::min(fits, (total + threads - 1) / threads) / unit, 1) *
            unit;
        in_parallel((total + block - 1) / block, threads, [&](int64_t index) {
            float* factors =
                kept_memory(kOwn, block * (stride_in + s.target_channels));
            float* products = factors + block * stride_in;
            const int64_t first = index * block, rows = std::min(block, total - first);
            kernels.collect(s, fusion, places, images, first, rows, factors, stride_in);
            kernels.multiply_rows(s, places, factors, stride_in, weights, products,
                                  (rows + unit - 1) / unit * unit);
            kernels.spread_out(s, fusion, places, products, out, first, rows);
        });
    }
}

}  // extern "C"
