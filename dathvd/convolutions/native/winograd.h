// F(4x4, 3x3): Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR
// 2016. Each 4x4 patch of outputs takes 36 products a pair of channels instead of 144.
// The points are 0, a, -a, b, -b and infinity with a = sqrt(1/2) and b = 1 / a: rounding
// errors are half of those that the usual 1 and 2 give. Included once per TARGET by
// winograd.cpp: 3 is AVX-512 with bfloat16 factors, 2 AVX-512, 1 AVX2, 0 any other.

#if TARGET == 3
#define LANES 16
#else
#define LANES (4 << TARGET)
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(4 * LANES)));

constexpr int kColumns = 2 * LANES;  // of one panel of weights
#if TARGET >= 2
constexpr int kRows = 12;  // 24 of 32 registers hold sums
constexpr int kGradientRows = 8;
#else
constexpr int kRows = 6;  // 12 of 16
constexpr int kGradientRows = 4;
#endif

constexpr float kA = 0.70710678f, kB = 1.41421356f;

#if TARGET == 3
typedef uint16_t Pixel;  // of images: a bfloat16
typedef uint16_t Pixels __attribute__((vector_size(2 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
constexpr int kFactors = 2;  // in a word: those of neighbouring terms of a sum

INLINE Floats load_pixels(const Pixel* from) {
    Pixels vector;
    std::memcpy(&vector, from, sizeof vector);
    return (Floats)(__builtin_convertvector(vector, Words) << 16);
}

INLINE void store_pixels(Pixel* to, Floats vector) {
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)vector);
    std::memcpy(to, &rounded, sizeof rounded);
}

// sums + the products of a word's factors with those of each lane
INLINE Floats multiply_add(float word, Floats words, Floats sums) {
    return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_set1_ps(word),
                                    (__m512bh)words);
}

// first and second as the factors of one word a lane
INLINE Floats words_of(Floats first, Floats second) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26,
                                           10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                           19, 3, 18, 2, 17, 1, 16, 0);
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (Floats)_mm512_permutexvar_epi16(order, (__m512i)both);
}
#else
typedef float Pixel;
constexpr int kFactors = 1;

INLINE Floats load_pixels(const Pixel* from) {
    Floats vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

INLINE void store_pixels(Pixel* to, Floats vector) {
    std::memcpy(to, &vector, sizeof vector);
}

INLINE Floats multiply_add(float word, Floats words, Floats sums) {
    return sums + word * words;
}
#endif

INLINE Floats load(const float* from) {
    Floats vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

INLINE void store(float* to, Floats vector) { std::memcpy(to, &vector, sizeof vector); }

// B^T d of six values
INLINE void to_points(Floats& d0, Floats& d1, Floats& d2, Floats& d3, Floats& d4,
                      Floats& d5) {
    const Floats even = d4 - 2 * d2, odd = kA * d3 - kB * d1;
    const Floats even_2 = d4 - 0.5f * d2, odd_2 = kB * d3 - kA * d1;
    const Floats first = d0 - 2.5f * d2 + d4, last = d1 - 2.5f * d3 + d5;
    d0 = first;
    d1 = even + odd;
    d2 = even - odd;
    d3 = even_2 + odd_2;
    d4 = even_2 - odd_2;
    d5 = last;
}

// A^T m: four values, in the places of the first four
INLINE void from_points(Floats& m0, Floats& m1, Floats& m2, Floats& m3, Floats& m4,
                        Floats& m5) {
    const Floats sum = m1 + m2, difference = kA * (m1 - m2);
    const Floats sum_2 = m3 + m4, difference_2 = kB * (m3 - m4);
    m0 = m0 + sum + sum_2;
    m1 = difference + difference_2;
    m2 = 0.5f * sum + 2 * sum_2;
    m3 = 0.5f * difference + 2 * difference_2 + m5;
}

// G g: six values, `step` apart
INLINE void expand(Floats g0, Floats g1, Floats g2, Floats* to, int step) {
    const Floats sum = (g0 + 0.5f * g2) * (-1.0f / 1.5f), odd = g1 * (-kA / 1.5f);
    const Floats sum_2 = (g0 + 2 * g2) * (1.0f / 6), odd_2 = g1 * (kB / 6);
    to[0] = g0;
    to[step] = sum + odd;
    to[2 * step] = sum - odd;
    to[3 * step] = sum_2 + odd_2;
    to[4 * step] = sum_2 - odd_2;
    to[5 * step] = g2;
}

INLINE Floats rectified(Floats values) { return values < 0 ? Floats{} : values; }

// The images' pixels at `offset`, as the convolution takes them.
INLINE Floats taken(const Fusion& fusion, const Pixel* images, int64_t offset,
                    int64_t channel) {
    const Floats values = load_pixels(images + offset);
    if (fusion.mask) {
        const Floats mask = load_pixels(static_cast<const Pixel*>(fusion.mask) + offset);
        return mask > 0 ? values : Floats{};
    }
    if (!fusion.scale_in) return values;
    return rectified(load(fusion.scale_in + channel) * values +
                     load(fusion.shift_in + channel));
}

// Stores sums as the convolution gives them.
INLINE void give(const Fusion& fusion, Floats values, Pixel* out, int64_t offset,
                 int64_t channel) {
    if (fusion.bias) values += load(fusion.bias + channel);
    if (fusion.gate) {
        const Floats gate = load_pixels(static_cast<const Pixel*>(fusion.gate) + offset);
        const Floats scale = load(fusion.scale_out + channel);
        values = scale * gate + load(fusion.shift_out + channel) <= 0 ? Floats{}
                                                                      : scale * values;
    }
    if (fusion.residual)
        values += load_pixels(static_cast<const Pixel*>(fusion.residual) + offset);
    if (fusion.rectified) values = rectified(values);
    store_pixels(out + offset, values);
}

// B^T d B of LANES channels of one tile of images
INLINE void points_of_images(const Convolution& c, const Fusion& fusion,
                             const Pixel* images, const Tile& tile, int64_t channel,
                             Floats (&d)[6][6]) {
    const int64_t channels = c.channels_in;
    const int64_t first = tile.image * c.height * c.width * channels + channel;
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++) {
            const int64_t y = tile.y - 1 + i, x = tile.x - 1 + j;
            const bool inside = y >= 0 && y < c.height && x >= 0 && x < c.width;
            const int64_t offset = first + (y * c.width + x) * channels;
            d[i][j] = inside ? taken(fusion, images, offset, channel) : Floats{};
        }
    for (int j = 0; j < 6; j++)
        to_points(d[0][j], d[1][j], d[2][j], d[3][j], d[4][j], d[5][j]);
    for (int i = 0; i < 6; i++)
        to_points(d[i][0], d[i][1], d[i][2], d[i][3], d[i][4], d[i][5]);
}

// images -> tiles[point][row][channel]: rows are the tiles first .. first + count - 1
static void scatter(const Convolution& c, const Fusion& fusion, const void* images,
                    float* tiles, int64_t first, int64_t count, int64_t rows) {
    const int64_t step = rows * c.stride_in();
    for (int64_t row = 0; row < count; row++) {
        const Tile tile = c.tile(first + row);
        for (int64_t channel = 0; channel < c.channels_in; channel += LANES) {
            Floats d[6][6];
            points_of_images(c, fusion, static_cast<const Pixel*>(images), tile, channel,
                             d);
            float* to = tiles + row * c.stride_in();
            for (int point = 0; point < 36; point++)
                store_pixels(reinterpret_cast<Pixel*>(to + point * step) + channel,
                             d[point / 6][point % 6]);
        }
    }
}

// tiles[point][row][channel] -> images
static void gather(const Convolution& c, const Fusion& fusion, const float* tiles,
                   void* images, int64_t first, int64_t count, int64_t rows) {
    const int64_t channels = c.channels_out, step = rows * channels;
    for (int64_t row = 0; row < count; row++) {
        const Tile tile = c.tile(first + row);
        const int64_t image = tile.image * c.height * c.width * channels;
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            Floats m[6][6];
            const float* from = tiles + row * channels + channel;
            for (int i = 0; i < 6; i++)
                for (int j = 0; j < 6; j++) m[i][j] = load(from + (6 * i + j) * step);
            for (int j = 0; j < 6; j++)
                from_points(m[0][j], m[1][j], m[2][j], m[3][j], m[4][j], m[5][j]);
            for (int i = 0; i < 4; i++) {
                from_points(m[i][0], m[i][1], m[i][2], m[i][3], m[i][4], m[i][5]);
                for (int j = 0; j < 4; j++) {
                    const int64_t y = tile.y + i, x = tile.x + j;
                    const int64_t pixel = image + (y * c.width + x) * channels;
                    if (y < c.height && x < c.width)
                        give(fusion, m[i][j], static_cast<Pixel*>(images),
                             pixel + channel, channel);
                }
            }
        }
    }
}

// products[row][column] of kRows rows with one panel of weights; depth is in words
INLINE void multiply_panel(const float* tiles, int64_t stride, const float* panel,
                           int64_t depth, float* products, int64_t products_stride,
                           const float* next, int64_t next_step) {
    Floats sums[kRows][2] = {};
    for (int64_t k = 0; k < depth; k++, next += next_step) {
        __builtin_prefetch(next, 0, 2);
        const Floats left = load(panel + k * kColumns);
        const Floats right = load(panel + k * kColumns + LANES);
#pragma GCC unroll 12
        for (int row = 0; row < kRows; row++) {
            const float value = tiles[row * stride + k];
            sums[row][0] = multiply_add(value, left, sums[row][0]);
            sums[row][1] = multiply_add(value, right, sums[row][1]);
        }
    }
#pragma GCC unroll 12
    for (int row = 0; row < kRows; row++) {
        store(products + row * products_stride, sums[row][0]);
        store(products + row * products_stride + LANES, sums[row][1]);
    }
}

// products[row][column] of one point: rows is a multiple of kRows
static void multiply(const Convolution& c, const float* tiles, const float* weights,
                     float* products, int64_t rows) {
    const int64_t depth = c.channels_in / kFactors;
    for (int64_t column = 0; column < c.channels_out; column += kColumns)
        for (int64_t row = 0; row < rows; row += kRows) {
            // the next panel comes into the cache, spread over this one's rows
            const int64_t step = kColumns * kRows / rows;
            multiply_panel(tiles + row * c.stride_in(), c.stride_in(),
                           weights + column * depth, depth,
                           products + row * c.channels_out + column, c.channels_out,
                           weights + (column + kColumns) * depth + row / kRows * step * depth, step);
        }
}

// G g G^T of one 3x3 kernel a lane
INLINE void points_of_kernels(const float* weights, int64_t lane_step, bool adjoint,
                              Floats (&points)[6][6]) {
    Floats g[9], u[18];
    for (int place = 0; place < 9; place++)
        for (int lane = 0; lane < LANES; lane++)
            g[place][lane] = weights[lane * lane_step + (adjoint ? 8 - place : place)];
    for (int j = 0; j < 3; j++) expand(g[j], g[3 + j], g[6 + j], u + j, 3);
    for (int i = 0; i < 6; i++) expand(u[3 * i], u[3 * i + 1], u[3 * i + 2], points[i], 1);
}

// Weights in panels of the columns: [point][panel][word of in][column]. The adjoint's
// kernels are turned by 180 degrees, with the channels exchanged.
static void transform(const Convolution& c, const float* weights, float* to,
                      bool adjoint, int64_t panel) {
    const int64_t in_step = adjoint ? 9 * c.channels_out : 9;
    const int64_t out_step = adjoint ? 9 : 9 * c.channels_in;
    const int64_t depth = c.channels_in / kFactors, step = depth * c.channels_out;
    for (int64_t k = 0; k < depth; k++)
        for (int64_t part = 0; part < kColumns; part += LANES) {
            const float* from = weights + k * kFactors * in_step +
                                (panel * kColumns + part) * out_step;
            float* at = to + (panel * depth + k) * kColumns + part;
            Floats u[6][6];
            points_of_kernels(from, out_step, adjoint, u);
#if TARGET == 3
            Floats next[6][6];
            points_of_kernels(from + in_step, out_step, adjoint, next);
            for (int point = 0; point < 36; point++)
                u[point / 6][point % 6] =
                    words_of(u[point / 6][point % 6], next[point / 6][point % 6]);
#endif
            for (int point = 0; point < 36; point++)
                store(at + point * step, u[point / 6][point % 6]);
        }
}

#include "winograd_gradient.h"
#if TARGET < 3
#include "direct.h"
#endif
