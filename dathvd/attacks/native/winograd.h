// F(4x4, 3x3): Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR
// 2016. Each 4x4 patch of outputs takes 36 products a pair of channels instead of 144.
// Included once per TARGET by winograd.cpp: 2 is AVX-512, 1 is AVX2, 0 any other.

#define LANES (4 << TARGET)
#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(4 * LANES)));

constexpr int kColumns = 2 * LANES;  // of one panel of weights
#if TARGET == 2
constexpr int kRows = 12;  // 24 of 32 registers hold sums
#else
constexpr int kRows = 6;  // 12 of 16
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
    const Floats even = d4 - 4 * d2, odd = d3 - 4 * d1;
    const Floats even_2 = d4 - d2, odd_2 = 2 * (d3 - d1);
    const Floats first = 4 * d0 - 5 * d2 + d4, last = 4 * d1 - 5 * d3 + d5;
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
    const Floats sum = m1 + m2, difference = m1 - m2;
    const Floats sum_2 = m3 + m4, difference_2 = m3 - m4;
    m0 = m0 + sum + sum_2;
    m1 = difference + 2 * difference_2;
    m2 = sum + 4 * sum_2;
    m3 = difference + 8 * difference_2 + m5;
}

// G g: six values, `step` apart
INLINE void expand(Floats g0, Floats g1, Floats g2, Floats* to, int step) {
    const Floats sum = (g0 + g2) * (1.0f / 6), sum_2 = (g0 + 4 * g2) * (1.0f / 24);
    to[0] = g0 * 0.25f;
    to[step] = -sum - g1 * (1.0f / 6);
    to[2 * step] = g1 * (1.0f / 6) - sum;
    to[3 * step] = sum_2 + g1 * (1.0f / 12);
    to[4 * step] = sum_2 - g1 * (1.0f / 12);
    to[5 * step] = g2;
}

// images -> tiles[point][row][channel]: rows are the tiles first .. first + count - 1
static void scatter(const Convolution& c, const float* images, float* tiles,
                    int64_t first, int64_t count, int64_t rows) {
    const int64_t channels = c.channels_in, step = rows * c.stride_in();
    for (int64_t row = 0; row < count; row++) {
        const Tile tile = c.tile(first + row);
        const float* image = images + tile.image * c.height * c.width * channels;
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            Floats d[6][6];
            for (int i = 0; i < 6; i++)
                for (int j = 0; j < 6; j++) {
                    const int64_t y = tile.y - 1 + i, x = tile.x - 1 + j;
                    const bool inside =
                        y >= 0 && y < c.height && x >= 0 && x < c.width;
                    d[i][j] = inside
                        ? load(image + (y * c.width + x) * channels + channel)
                        : Floats{};
                }
            for (int j = 0; j < 6; j++)
                to_points(d[0][j], d[1][j], d[2][j], d[3][j], d[4][j], d[5][j]);
            float* to = tiles + row * c.stride_in() + channel;
            for (int i = 0; i < 6; i++) {
                to_points(d[i][0], d[i][1], d[i][2], d[i][3], d[i][4], d[i][5]);
                for (int j = 0; j < 6; j++) store(to + (6 * i + j) * step, d[i][j]);
            }
        }
    }
}

// tiles[point][row][channel] -> images, with the bias
static void gather(const Convolution& c, const float* tiles, const float* bias,
                   float* images, int64_t first, int64_t count, int64_t rows) {
    const int64_t channels = c.channels_out, step = rows * channels;
    for (int64_t row = 0; row < count; row++) {
        const Tile tile = c.tile(first + row);
        float* image = images + tile.image * c.height * c.width * channels;
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            Floats m[6][6];
            const float* from = tiles + row * channels + channel;
            for (int i = 0; i < 6; i++)
                for (int j = 0; j < 6; j++) m[i][j] = load(from + (6 * i + j) * step);
            for (int j = 0; j < 6; j++)
                from_points(m[0][j], m[1][j], m[2][j], m[3][j], m[4][j], m[5][j]);
            const Floats offset = bias ? load(bias + channel) : Floats{};
            for (int i = 0; i < 4; i++) {
                from_points(m[i][0], m[i][1], m[i][2], m[i][3], m[i][4], m[i][5]);
                for (int j = 0; j < 4; j++) {
                    const int64_t y = tile.y + i, x = tile.x + j;
                    if (y < c.height && x < c.width)
                        store(image + (y * c.width + x) * channels + channel,
                              m[i][j] + offset);
                }
            }
        }
    }
}

// products[row][column] of kRows rows with one panel of weights
INLINE void multiply_panel(const float* tiles, int64_t stride, const float* panel,
                           int64_t depth, float* products, int64_t products_stride) {
    Floats sums[kRows][2] = {};
    for (int64_t k = 0; k < depth; k++) {
        const Floats left = load(panel + k * kColumns);
        const Floats right = load(panel + k * kColumns + LANES);
#pragma GCC unroll 12
        for (int row = 0; row < kRows; row++) {
            const float value = tiles[row * stride + k];
            sums[row][0] += value * left;
            sums[row][1] += value * right;
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
    for (int64_t column = 0; column < c.channels_out; column += kColumns)
        for (int64_t row = 0; row < rows; row += kRows)
            multiply_panel(tiles + row * c.stride_in(), c.stride_in(),
                           weights + column * c.channels_in, c.channels_in,
                           products + row * c.channels_out + column, c.channels_out);
}

// G g G^T of one 3x3 kernel a lane, in panels of the columns: [point][panel][in][column].
// The adjoint's kernels are turned by 180 degrees, with the channels exchanged.
static void transform(const Convolution& c, const float* weights, float* to,
                      bool adjoint, int64_t panel) {
    const int64_t in_step = adjoint ? 9 * c.channels_out : 9;
    const int64_t out_step = adjoint ? 9 : 9 * c.channels_in;
    const int64_t step = c.channels_in * c.channels_out;
    for (int64_t in = 0; in < c.channels_in; in++)
        for (int64_t part = 0; part < kColumns; part += LANES) {
            Floats g[9], u[18];
            for (int place = 0; place < 9; place++)
                for (int lane = 0; lane < LANES; lane++)
                    g[place][lane] =
                        weights[in * in_step +
                                (panel * kColumns + part + lane) * out_step +
                                (adjoint ? 8 - place : place)];
            for (int j = 0; j < 3; j++) expand(g[j], g[3 + j], g[6 + j], u + j, 3);
            float* at = to + (panel * c.channels_in + in) * kColumns + part;
            for (int i = 0; i < 6; i++) {
                Floats row[6];
                expand(u[3 * i], u[3 * i + 1], u[3 * i + 2], row, 1);
                for (int j = 0; j < 6; j++) store(at + (6 * i + j) * step, row[j]);
            }
        }
}
