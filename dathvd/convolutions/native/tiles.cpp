// Convolutions of bfloat16 images, summed directly in the processor's tiles (AMX): 16
// rows of 32 factors times 32 rows of 16 columns in one instruction. Images are
// channels-last; a tile's rows are the same pixel of 16 images, or neighbouring pixels of
// fewer images. Where this is compiled for another processor all functions are empty.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "fusion.h"
#include "parallel.h"
#include "sizes.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && \
    !defined(__clang__) && __GNUC__ >= 11
#define HAS_TILES
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t kChannels = 32;  // of one line of 64 bytes, and of one panel of weights
constexpr int64_t kRows = 16;
constexpr int64_t kTile = 512;          // bfloat16 numbers of a tile
constexpr int64_t kPanel = 2 * kTile;   // weights of 32 channels in and 32 out
constexpr int64_t kStripBytes = 5 << 18;  // of packed rows: most of what a core's cache holds
constexpr int64_t kGradientBytes = 3 << 19;

int64_t power_above(int64_t count, int64_t most) {
    int64_t power = 1;
    while (power < count && power < most) power *= 2;
    return power;
}

// How many images stand side by side where a tile has `pixels` of them in all, at least
// `least` images: few, as those lie far apart in memory, but lines of an image must be
// filled. Wider strides leave no neighbouring pixels.
int64_t images_of_tile(const Sizes& s, int64_t pixels, int64_t least) {
    const int64_t most = power_above(s.images, pixels);
    int64_t block = s.stride > 1 || s.target_width < 8 ? most : std::min(least, most);
    while (block < most) {
        const int64_t run = pixels / block;
        const int64_t computed = (s.target_width + run - 1) / run * run;
        if (8 * computed <= 9 * s.target_width) break;
        block *= 2;
    }
    return block;
}

#ifdef HAS_TILES

bool tiles_work() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool has_tiles = (d >> 22 & 1) && (d >> 24 & 1);
    __builtin_cpu_init();
    if (!has_tiles || !__builtin_cpu_supports("avx512bf16") ||
        !__builtin_cpu_supports("avx512bw"))
        return false;
    constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

int target = tiles_work();

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#pragma GCC target("amx-tile,amx-bf16")

// The tiles of this thread while this lives: eight of 16 rows of 64 bytes.
struct Tiles {
    Tiles() {
        alignas(64) uint8_t config[64] = {1};
        for (int tile = 0; tile < 8; tile++) {
            config[16 + 2 * tile] = 64;
            config[48 + tile] = kRows;
        }
        _tile_loadconfig(config);
    }
    ~Tiles() { _tile_release(); }
};

using Line = __m512i;  // 32 bfloat16 numbers

inline Line load_line(const uint16_t* from) { return _mm512_loadu_si512(from); }

inline __m512 low_of(Line line) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(line)), 16));
}

inline __m512 high_of(Line line) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(line, 1)), 16));
}

inline Line line_of(__m512 low, __m512 high) {
    return (Line)_mm512_cvtne2ps_pbh(high, low);
}

// The second operand is what the instruction gives where one is no number.
inline __m512 rectified(__m512 value) { return _mm512_max_ps(_mm512_setzero_ps(), value); }

// The line at `offset` of the images, as the convolution takes it.
inline Line taken(const Fusion& fusion, const uint16_t* images, int64_t offset,
                  int64_t channel) {
    Line line = load_line(images + offset);
    if (fusion.mask) {
        const Line mask = load_line(static_cast<const uint16_t*>(fusion.mask) + offset);
        return _mm512_maskz_mov_epi16(
            _mm512_cmpgt_epi16_mask(mask, _mm512_setzero_si512()), line);
    }
    if (!fusion.scale_in) return line;
    const float *scale = fusion.scale_in + channel, *shift = fusion.shift_in + channel;
    const __m512 low = _mm512_fmadd_ps(_mm512_loadu_ps(scale), low_of(line),
                                       _mm512_loadu_ps(shift));
    const __m512 high = _mm512_fmadd_ps(_mm512_loadu_ps(scale + 16), high_of(line),
                                        _mm512_loadu_ps(shift + 16));
    return line_of(rectified(low), rectified(high));
}

inline __m512 gated(const Fusion& fusion, __m512 value, __m512 gate, int64_t channel) {
    const __m512 scale = _mm512_loadu_ps(fusion.scale_out + channel);
    const __m512 shift = _mm512_loadu_ps(fusion.shift_out + channel);
    const __mmask16 open = _mm512_cmp_ps_mask(_mm512_fmadd_ps(scale, gate, shift),
                                              _mm512_setzero_ps(), _CMP_NLE_UQ);
    return _mm512_maskz_mul_ps(open, scale, value);
}

// Sums of 32 channels, as the convolution gives them.
inline void give(const Fusion& fusion, __m512 low, __m512 high, uint16_t* out,
                 int64_t offset, int64_t channel) {
    if (fusion.bias) {
        low = _mm512_add_ps(low, _mm512_loadu_ps(fusion.bias + channel));
        high = _mm512_add_ps(high, _mm512_loadu_ps(fusion.bias + channel + 16));
    }
    if (fusion.gate) {
        const Line line = load_line(static_cast<const uint16_t*>(fusion.gate) + offset);
        low = gated(fusion, low, low_of(line), channel);
        high = gated(fusion, high, high_of(line), channel + 16);
    }
    if (fusion.residual) {
        const Line line = load_line(static_cast<const uint16_t*>(fusion.residual) + offset);
        low = _mm512_add_ps(low, low_of(line));
        high = _mm512_add_ps(high, high_of(line));
    }
    if (fusion.rectified) low = rectified(low), high = rectified(high);
    _mm512_storeu_si512(out + offset, line_of(low, high));
}

// How images lie packed: [row][32 channels][column][image of the block], one line each.
struct Packing {
    int64_t block;    // images of a tile, a power of two
    int64_t run;      // neighbouring pixels of a tile: run * block = 16
    int64_t margin;   // columns of zeros on either side
    int64_t columns;  // with the margins
    int64_t lines;    // of 32 channels in a pixel
    int64_t row() const { return lines * plane(); }              // numbers of a row
    int64_t plane() const { return columns * block * kChannels; }

    Packing(const Sizes& s)
        : block(images_of_tile(s, kRows, 1)),
          run(kRows / block),
          margin(run > 1 ? s.kernel / 2 : 0),
          columns((run > 1 ? (s.target_width + run - 1) / run * run : s.width) +
                  2 * margin),
          lines(s.channels / kChannels) {}
};

// One block of images, rows first .. last - 1 of them.
void pack(const Sizes& s, const Packing& p, const Fusion& fusion, const uint16_t* images,
          int64_t first_image, int64_t first, int64_t last, uint16_t* to) {
    const int64_t count = std::min(p.block, s.images - first_image);
    for (int64_t y = first; y < last; y++) {
        uint16_t* row = to + (y - first) * p.row();
        if (p.run > 1)
            for (int64_t line = 0; line < p.lines; line++) {
                uint16_t* plane = row + line * p.plane();
                const int64_t before = p.margin * p.block * kChannels;
                const int64_t inside = s.width * p.block * kChannels;
                std::memset(plane, 0, 2 * before);
                std::memset(plane + before + inside, 0, 2 * (p.plane() - before - inside));
            }
        for (int64_t image = 0; image < count; image++) {
            const int64_t from = ((first_image + image) * s.height + y) * s.width;
            for (int64_t x = 0; x < s.width; x++) {
                uint16_t* place = row + ((x + p.margin) * p.block + image) * kChannels;
                for (int64_t line = 0; line < p.lines; line++)
                    _mm512_store_si512(
                        place + line * p.plane(),
                        taken(fusion, images, (from + x) * s.channels + line * kChannels,
                              line * kChannels));
            }
        }
    }
}

// Where the taps of one of the target's pixels find their factors.
struct Taps {
    int64_t count = 0;
    int64_t image[9];   // offsets of packed lines
    int64_t weight[9];  // offsets of panels
};

// Of one of the target's rows or columns: its taps, and the source's rows or columns.
struct Along {
    int64_t count = 0;
    int64_t tap[3], place[3];
};

// Sums of one or two tiles of rows with one panel of 32 channels out.
template <bool kTwo>
inline void multiply(const Packing& p, const Taps& taps, const uint16_t* images,
                     int64_t second, const uint16_t* weights, float (*sums)[2][kTile / 2]) {
    _tile_zero(0);
    _tile_zero(1);
    if (kTwo) _tile_zero(2);
    if (kTwo) _tile_zero(3);
    const int64_t plane = p.plane();
    for (int64_t tap = 0; tap < taps.count; tap++) {
        const uint16_t* image = images + taps.image[tap];
        const uint16_t* panel = weights + taps.weight[tap];
        for (int64_t line = 0; line < p.lines; line++, image += plane, panel += kPanel) {
            _tile_loadd(4, image, 64);
            _tile_loadd(6, panel, 64);
            _tile_loadd(7, panel + kTile, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (kTwo) _tile_loadd(5, image + second, 64);
            if (kTwo) _tile_dpbf16ps(2, 5, 6);
            if (kTwo) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0][0], 64);
    _tile_stored(1, sums[0][1], 64);
    if (kTwo) _tile_stored(2, sums[1][0], 64);
    if (kTwo) _tile_stored(3, sums[1][1], 64);
}

struct Convolution {
    Sizes s;
    Packing p;
    Fusion fusion;
    const uint16_t *images, *weights;
    uint16_t* out;
    int64_t rows;  // of the target, in one strip
    int64_t row_image[kRows], row_column[kRows], row_offset[kRows];  // of a tile

    Convolution(const Sizes& sizes, const Fusion& fused, const uint16_t* from,
                const uint16_t* by, uint16_t* to)
        : s(sizes), p(sizes), fusion(fused), images(from), weights(by), out(to) {
        // the rows around a strip are packed once more for it
        const int64_t fits = kStripBytes / 2 / (p.row() * pair()) - (s.kernel - 1);
        const int64_t of_target = s.adjoint ? fits * s.stride : fits / s.stride;
        rows = std::min(s.target_height, std::max<int64_t>(of_target, 1));
        for (int64_t row = 0; row < kRows; row++) {
            row_image[row] = row % p.block, row_column[row] = row / p.block;
            row_offset[row] = (row_image[row] * s.target_height * s.target_width +
                               row_column[row]) * s.target_channels;
        }
    }

    Along taps_of_row(int64_t y) const {
        Along found;
        for (int64_t tap = 0; tap < s.kernel; tap++) {
            const int64_t place = s.source(y, tap, s.height);
            if (place >= 0) found.tap[found.count] = tap, found.place[found.count++] = place;
        }
        return found;
    }

    // With margins all columns are there, and the stride is 1.
    Along taps_of_column(int64_t x) const {
        Along found;
        for (int64_t tap = 0; tap < s.kernel; tap++) {
            const int64_t place = p.margin ? x + (s.adjoint ? s.kernel - 1 - tap : tap)
                                           : s.source(x, tap, s.width);
            if (place >= 0) found.tap[found.count] = tap, found.place[found.count++] = place;
        }
        return found;
    }

    Taps taps_of(const Along& down, const Along& across, int64_t first_row) const {
        Taps found;
        for (int64_t i = 0; i < down.count; i++)
            for (int64_t j = 0; j < across.count; j++) {
                found.image[found.count] = (down.place[i] - first_row) * p.row() +
                                           across.place[j] * p.block * kChannels;
                found.weight[found.count++] =
                    (down.tap[i] * s.kernel + across.tap[j]) * p.lines * kPanel;
            }
        return found;
    }

    int64_t blocks() const { return (s.images + p.block - 1) / p.block; }
    int64_t pair() const { return blocks() > 1 ? 2 : 1; }  // blocks that go together
    int64_t strips() const { return (s.target_height + rows - 1) / rows; }
    int64_t items() const { return (blocks() + pair() - 1) / pair() * strips(); }
    int64_t panels() const { return s.target_channels / kChannels; }
    // Numbers of one block's packed rows, of the largest strip.
    int64_t room() const {
        const int64_t most =
            (s.adjoint ? (rows + s.stride - 1) / s.stride : rows * s.stride) + s.kernel;
        return std::min(most, s.height) * p.row();
    }

    struct Strip {
        int64_t block, first, last;
        Rows source;
    };

    Strip strip(int64_t item) const {
        Strip found;
        found.block = item / strips() * pair();
        found.first = item % strips() * rows;
        found.last = std::min(found.first + rows, s.target_height);
        found.source = s.source_rows(found.first, found.last);
        return found;
    }

    void pack_strip(int64_t item, uint16_t* to) const {
        const Strip where = strip(item);
        for (int64_t k = 0; k < pair() && where.block + k < blocks(); k++)
            pack(s, p, fusion, images, (where.block + k) * p.block, where.source.first,
                 where.source.last, to + k * room());
    }

    void multiply_strip(int64_t item, const uint16_t* packed, int64_t panel) const {
        const Strip where = strip(item);
        const bool two = pair() == 2 && where.block + 1 < blocks();
        const uint16_t* factors = weights + panel * s.taps() * p.lines * kPanel;
        alignas(64) float sums[2][2][kTile / 2];
        for (int64_t y = where.first; y < where.last; y++) {
            const Along down = taps_of_row(y);
            for (int64_t x = 0; x < s.target_width; x += p.run) {
                const Taps taps = taps_of(down, taps_of_column(x), where.source.first);
                if (two)
                    multiply<true>(p, taps, packed, room(), factors, sums);
                else
                    multiply<false>(p, taps, packed, 0, factors, sums);
                for (int64_t k = 0; k < 1 + two; k++)
                    give_tile(sums[k], (where.block + k) * p.block, y, x,
                              panel * kChannels);
            }
        }
    }

    void give_tile(const float (*sums)[kTile / 2], int64_t first_image, int64_t y, int64_t x,
                   int64_t channel) const {
        const int64_t pixel = (first_image * s.target_height + y) * s.target_width + x;
        const int64_t first = pixel * s.target_channels + channel;
        const int64_t images_left = s.images - first_image;
        const int64_t columns_left = s.target_width - x;
        for (int64_t row = 0; row < kRows; row++)
            if (row_image[row] < images_left && row_column[row] < columns_left)
                give(fusion, _mm512_load_ps(sums[0] + 16 * row),
                     _mm512_load_ps(sums[1] + 16 * row), out, first + row_offset[row],
                     channel);
    }

    void run(int threads) const {
        const int64_t step = pair() * room();
        if (items() >= threads) {  // each thread packs its own strips, in its cache
            in_parallel(items(), threads, [&](int64_t item) {
                auto* packed =
                    reinterpret_cast<uint16_t*>(kept_memory(kOwn, step / 2));
                pack_strip(item, packed);
                const Tiles tiles;
                for (int64_t panel = 0; panel < panels(); panel++)
                    multiply_strip(item, packed, panel);
            });
            return;
        }
        // few images, many weights: the threads share these
        auto* packed =
            reinterpret_cast<uint16_t*>(kept_memory(kShared, items() * step / 2));
        in_parallel(items(), threads,
                    [&](int64_t item) { pack_strip(item, packed + item * step); });
        in_parallel(items() * panels(), threads, [&](int64_t index) {
            const Tiles tiles;
            const int64_t item = index / panels();
            multiply_strip(item, packed + item * step, index % panels());
        });
    }
};

// Two numbers of each lane's channel, from two lines: of the first or last 16 channels.
inline Line pairs_of(Line first, Line second, bool last) {
    const Line low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41,
                                      9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2,
                                      33, 1, 32, 0);
    const Line order = last ? _mm512_add_epi16(low, _mm512_set1_epi16(16)) : low;
    return _mm512_permutex2var_epi16(first, order, second);
}

// Panel [tap][32 in] of 32 channels out: two tiles [pair of in][out][2].
void pack_weights(const Sizes& s, const float* weights, uint16_t* to, int64_t panel) {
    // of the source's and the target's channels, in [out][in][kernel][kernel]
    const int64_t taps = s.taps();
    const int64_t source_step = s.adjoint ? taps * s.target_channels : taps;
    const int64_t target_step = s.adjoint ? taps : taps * s.channels;
    const Line places = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
        _mm512_set1_epi32(int(target_step)));
    const int64_t lines = s.channels / kChannels;
    for (int64_t channel = 0; channel < s.channels; channel += 2)
        for (int64_t half = 0; half < 2; half++) {
            const float* from = weights + channel * source_step +
                                (panel * kChannels + half * 16) * target_step;
            for (int64_t tap = 0; tap < taps; tap++) {
                const __m512 first = _mm512_i32gather_ps(places, from + tap, 4);
                const __m512 second =
                    _mm512_i32gather_ps(places, from + source_step + tap, 4);
                const Line both = line_of(first, second);
                uint16_t* tile = to + ((panel * taps + tap) * lines + channel / kChannels) *
                                          kPanel + half * kTile;
                _mm512_store_si512(
                    tile + channel % kChannels / 2 * 32,
                    pairs_of(both, _mm512_castsi256_si512(
                                       _mm512_extracti64x4_epi64(both, 1)), false));
            }
        }
}

#include "tiles_gradient.h"

#pragma GCC pop_options
#endif  // HAS_TILES

}  // namespace

extern "C" {

// 1 where the processor has tiles, and the kernel lets this process use them
int kernel_target() {
#ifdef HAS_TILES
    return target;
#else
    return 0;
#endif
}

// for tests: as on a processor without tiles, where `wanted` is 0
void lower_target(int wanted) {
#ifdef HAS_TILES
    target = wanted && tiles_work();
#endif
}

// weights[out][in][kernel][kernel] -> factors for tiles_convolve
void tiles_transform(const float* weights, void* to, int64_t channels_in,
                     int64_t channels_out, int64_t kernel, int64_t stride, int adjoint,
                     int threads) {
#ifdef HAS_TILES
    const Sizes s(0, 0, 0, channels_in, channels_out, kernel, stride, adjoint != 0);
    in_parallel(s.target_channels / kChannels, threads, [&](int64_t panel) {
        pack_weights(s, weights, static_cast<uint16_t*>(to), panel);
    });
#endif
}

// images [n][height][width][in] -> out [n][out height][out width][out], or the adjoint
// from the latter to the former: sizes are those of the convolution in both cases
void tiles_convolve(const void* images, const void* weights, void* out,
                    int64_t num_images, int64_t height, int64_t width,
                    int64_t channels_in, int64_t channels_out, int64_t kernel,
                    int64_t stride, int adjoint, int threads, const void* mask,
                    const float* scale_in, const float* shift_in, const float* bias,
                    const void* gate, const float* scale_out, const float* shift_out,
                    const void* residual, int rectified) {
#ifdef HAS_TILES
    const Sizes s(num_images, height, width, channels_in, channels_out, kernel, stride,
                  adjoint != 0);
    const Fusion fusion{mask, scale_in,  shift_in,  bias,     gate,
                        scale_out, shift_out, residual, rectified};
    Convolution(s, fusion, static_cast<const uint16_t*>(images),
                static_cast<const uint16_t*>(weights), static_cast<uint16_t*>(out))
        .run(threads);
#endif
}

// gradient[out][in][kernel][kernel] of the weights, from images and outputs' gradient
void tiles_weight_gradient(const void* images, const void* outputs, float* gradient,
                           int64_t num_images, int64_t height, int64_t width,
                           int64_t channels_in, int64_t channels_out, int64_t kernel,
                           int64_t stride, int threads) {
#ifdef HAS_TILES
    const Sizes s(num_images, height, width, channels_in, channels_out, kernel, stride,
                  false);
    WeightGradient(s, static_cast<const uint16_t*>(images),
                   static_cast<const uint16_t*>(outputs))
        .run(gradient, threads);
#endif
}

}  // extern "C"
