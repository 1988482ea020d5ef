// The gradient of the weights through the same 36 points: the sum over tiles of
// A^T's adjoint of the outputs' gradient times B^T d B, then G's adjoint on both sides.

// A g of four values: six
INLINE void spread(Floats g0, Floats g1, Floats g2, Floats g3, Floats* to, int step) {
    const Floats even = g0 + 0.5f * g2, odd = kA * (g1 + 0.5f * g3);
    const Floats even_2 = g0 + 2 * g2, odd_2 = kB * (g1 + 2 * g3);
    to[0] = g0;
    to[step] = even + odd;
    to[2 * step] = even - odd;
    to[3 * step] = even_2 + odd_2;
    to[4 * step] = even_2 - odd_2;
    to[5 * step] = g3;
}

// G^T u of six values: three, in the places of the first three
INLINE void shrink(Floats& u0, Floats& u1, Floats& u2, Floats u3, Floats u4, Floats u5) {
    const Floats sum = (u1 + u2) * (-1.0f / 1.5f), sum_2 = (u3 + u4) * (1.0f / 6);
    const Floats odd = (u1 - u2) * (-kA / 1.5f), odd_2 = (u3 - u4) * (kB / 6);
    u0 = u0 + sum + sum_2;
    u1 = odd + odd_2;
    u2 = 0.5f * sum + 2 * sum_2 + u5;
}

// A g A^T of LANES channels of one tile of the outputs' gradient
INLINE void points_of_outputs(const Convolution& c, const Pixel* outputs,
                              const Tile& tile, int64_t channel, Floats (&g)[6][6]) {
    const int64_t channels = c.channels_out;
    const Pixel* image = outputs + tile.image * c.height * c.width * channels + channel;
    Floats down[6][4];
    for (int j = 0; j < 4; j++) {
        Floats given[4];
        for (int i = 0; i < 4; i++) {
            const int64_t y = tile.y + i, x = tile.x + j;
            const bool inside = y < c.height && x < c.width;
            given[i] =
                inside ? load_pixels(image + (y * c.width + x) * channels) : Floats{};
        }
        spread(given[0], given[1], given[2], given[3], &down[0][j], 4);
    }
    for (int i = 0; i < 6; i++)
        spread(down[i][0], down[i][1], down[i][2], down[i][3], g[i], 1);
}

INLINE void points_of(const Convolution& c, const void* pixels, bool outputs,
                      int64_t tile, int64_t channel, Floats (&points)[6][6]) {
    const Pixel* from = static_cast<const Pixel*>(pixels);
    if (tile >= c.tiles())
        std::memset(&points, 0, sizeof points);
    else if (outputs)
        points_of_outputs(c, from, c.tile(tile), channel, points);
    else
        points_of_images(c, Fusion{}, from, c.tile(tile), channel, points);
}

// One word of tiles -> words[point][word][channel]; step is from point to point
static void scatter_words(const Convolution& c, const void* pixels, bool outputs,
                          int64_t word, float* words, int64_t step) {
    const int64_t channels = outputs ? c.channels_out : c.channels_in;
    for (int64_t channel = 0; channel < channels; channel += LANES) {
        Floats d[6][6];
        points_of(c, pixels, outputs, word * kFactors, channel, d);
#if TARGET == 3
        Floats next[6][6];
        points_of(c, pixels, outputs, word * kFactors + 1, channel, next);
        for (int point = 0; point < 36; point++)
            d[point / 6][point % 6] =
                words_of(d[point / 6][point % 6], next[point / 6][point % 6]);
#endif
        for (int point = 0; point < 36; point++)
            store(words + point * step + channel, d[point / 6][point % 6]);
    }
}

// sums[out][in] of one point and kColumns outputs, plus what they were unless `first`
static void multiply_words(const Convolution& c, const float* images,
                           const float* outputs, float* sums, int64_t count,
                           bool first) {
    const int64_t stride = c.channels_in + kPad, out_stride = c.channels_out + kPad;
    for (int64_t in = 0; in < c.channels_in; in += kColumns)
        for (int64_t out = 0; out < kSlab; out += kGradientRows) {
            Floats found[kGradientRows][2] = {};
            float* to = sums + out * c.channels_in + in;
            if (!first)
                for (int row = 0; row < kGradientRows; row++) {
                    found[row][0] = load(to + row * c.channels_in);
                    found[row][1] = load(to + row * c.channels_in + LANES);
                }
            for (int64_t k = 0; k < count; k++) {
                const Floats left = load(images + k * stride + in);
                const Floats right = load(images + k * stride + in + LANES);
#pragma GCC unroll 8
                for (int row = 0; row < kGradientRows; row++) {
                    const float value = outputs[k * out_stride + out + row];
                    found[row][0] = multiply_add(value, left, found[row][0]);
                    found[row][1] = multiply_add(value, right, found[row][1]);
                }
            }
            for (int row = 0; row < kGradientRows; row++) {
                store(to + row * c.channels_in, found[row][0]);
                store(to + row * c.channels_in + LANES, found[row][1]);
            }
        }
}

// G^T u G of one output's sums[point][in] -> weights[in][3][3]; step from point to point
static void finish(const Convolution& c, const float* sums, int64_t step,
                   float* weights) {
    for (int64_t in = 0; in < c.channels_in; in += LANES) {
        Floats u[6][6];
        for (int point = 0; point < 36; point++)
            u[point / 6][point % 6] = load(sums + point * step + in);
        for (int j = 0; j < 6; j++)
            shrink(u[0][j], u[1][j], u[2][j], u[3][j], u[4][j], u[5][j]);
        for (int i = 0; i < 3; i++)
            shrink(u[i][0], u[i][1], u[i][2], u[i][3], u[i][4], u[i][5]);
        for (int lane = 0; lane < LANES; lane++)
            for (int place = 0; place < 9; place++)
                weights[9 * (in + lane) + place] = u[place / 3][place % 3][lane];
    }
}
