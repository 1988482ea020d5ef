// 3x3 convolutions of stride 1 by Winograd's minimal filtering, compiled once per
// instruction set; the best one is chosen at load time.
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>

namespace {

struct Tile {
    int64_t image, y, x;  // of its first output
};

// channels-last images of one size in and out, padded by one zero all around
struct Convolution {
    int64_t images, height, width, channels_in, channels_out;

    int64_t across() const { return (width + 3) / 4; }
    int64_t down() const { return (height + 3) / 4; }
    int64_t tiles() const { return images * down() * across(); }
    // rows of tiles lie a little apart, lest a power of two map them all on few cache sets
    int64_t stride_in() const { return channels_in + 16; }
    Tile tile(int64_t index) const {
        const int64_t in_image = index % (down() * across());
        return {index / (down() * across()), in_image / across() * 4,
                in_image % across() * 4};
    }
};

constexpr int64_t kPoints = 36;
constexpr int64_t kBlockBytes = 1 << 20;  // of tiles and products: what a core's cache holds

}  // namespace

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MANY_TARGETS

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
    int64_t rows, columns;
};

#define TARGET_OF(space)                                                             \
    {                                                                                \
        space::scatter, space::gather, space::multiply, space::transform,            \
            space::kRows, space::kColumns                                            \
    }

const Target targets[] = {
    TARGET_OF(plain),
#ifdef MANY_TARGETS
    TARGET_OF(avx2),
    TARGET_OF(avx512),
#endif
};

int best_target() {
#ifdef MANY_TARGETS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}

int target = best_target();

// Runs work(index) for all indices below `count`, on the threads of the OpenMP library
// that the process has loaded already; a second pool would compete with its idle threads.
template <class Work>
void in_parallel(int64_t count, int threads, Work work) {
    using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
    static const auto parallel =
        reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    struct Shared {
        std::atomic<int64_t> next;
        int64_t count;
        Work& work;
    } shared{{0}, count, work};
    const auto take = [](void* data) {
        auto& own = *static_cast<Shared*>(data);
        for (int64_t index; (index = own.next++) < own.count;) own.work(index);
    };
    if (threads > 1 && count > 1 && parallel)
        parallel(take, &shared, unsigned(std::min<int64_t>(threads, count)), 0);
    else
        take(&shared);
}

struct Free {
    void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t(64)); }
};
using Floats = std::unique_ptr<float[], Free>;

Floats floats(int64_t count) {
    return Floats(static_cast<float*>(::operator new[](4 * count, std::align_val_t(64))));
}

}  // namespace

extern "C" {

// 2: AVX-512, 1: AVX2, 0: what the compiler takes for granted
int kernel_target() { return target; }

// for tests: a lower target than the processor's; a higher one is not taken
void lower_target(int wanted) { target = std::min(wanted, best_target()); }

// weights[out][in][3][3] -> 36 * in * out values for winograd_convolve; for the adjoint
// the channels given are those of the adjoint, which has the other's in and out exchanged
void winograd_transform(const float* weights, float* to, int64_t channels_in,
                        int64_t channels_out, int adjoint, int threads) {
    const Target& kernels = targets[target];
    const Convolution c{0, 0, 0, channels_in, channels_out};
    in_parallel(channels_out / kernels.columns, threads, [&](int64_t panel) {
        kernels.transform(c, weights, to, adjoint != 0, panel);
    });
}

void winograd_convolve(const float* images, const float* weights, const float* bias,
                       float* out, int64_t num_images, int64_t height, int64_t width,
                       int64_t channels_in, int64_t channels_out, int threads) {
    const Target& kernels = targets[target];
    const Convolution c{num_images, height, width, channels_in, channels_out};
    const int64_t total = c.tiles(), matrix = channels_in * channels_out;
    const int64_t per_row = kPoints * (c.stride_in() + channels_out);
    const auto whole_rows = [&](int64_t count) {
        return (count + kernels.rows - 1) / kernels.rows * kernels.rows;
    };
    const int64_t block = whole_rows(std::min(
        total, std::max<int64_t>(kBlockBytes / 4 / per_row, 3 * kernels.rows)));
    const int64_t blocks = (total + block - 1) / block;

    if (blocks >= threads) {  // each thread takes whole blocks, which stay in its cache
        in_parallel(blocks, threads, [&](int64_t index) {
            thread_local Floats memory;
            thread_local int64_t size = 0;
            if (size < block * per_row) {
                memory = floats(size = block * per_row);
                std::memset(memory.get(), 0, 4 * size);
            }
            float* tiles = memory.get();
            float* products = tiles + kPoints * block * c.stride_in();
            const int64_t first = index * block, count = std::min(block, total - first);
            const int64_t rows = whole_rows(count);
            kernels.scatter(c, images, tiles, first, count, rows);
            for (int64_t point = 0; point < kPoints; point++)
                kernels.multiply(c, tiles + point * rows * c.stride_in(),
                                 weights + point * matrix,
                                 products + point * rows * channels_out, rows);
            kernels.gather(c, products, bias, out, first, count, rows);
        });
        return;
    }
    // few tiles, many weights: the threads share the points, so that each weight is read
    // once
    const int64_t rows = whole_rows(total);
    const Floats memory = floats(rows * per_row);
    float* tiles = memory.get();
    float* products = tiles + kPoints * rows * c.stride_in();
    std::memset(tiles, 0, 4 * kPoints * rows * c.stride_in());
    in_parallel(total, threads, [&](int64_t index) {
        kernels.scatter(c, images, tiles + index * c.stride_in(), index, 1, rows);
    });
    in_parallel(kPoints, threads, [&](int64_t point) {
        kernels.multiply(c, tiles + point * rows * c.stride_in(),
                         weights + point * matrix,
                         products + point * rows * channels_out, rows);
    });
    in_parallel(total, threads, [&](int64_t index) {
        kernels.gather(c, products + index * channels_out, bias, out, index, 1, rows);
    });
}

}  // extern "C"
