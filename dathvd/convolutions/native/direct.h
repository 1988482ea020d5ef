// Convolutions in float32 by the direct sum, for strides and kernels that Winograd's
// filtering does not take: the factors of some pixels side by side, times the weights.

// [panel of target channels][class][tap][source channel][column of the panel]
static void arrange(const Sizes& s, const float* weights, float* to, int64_t panel) {
    Places classes[4];
    const int64_t count = classes_of(s, classes), taps = s.taps();
    const int64_t source_step = s.adjoint ? taps * s.target_channels : taps;
    const int64_t target_step = s.adjoint ? taps : taps * s.channels;
    float* at = to + panel * kColumns * taps * s.channels;
    for (int64_t each = 0; each < count; each++)
        for (int64_t tap = 0; tap < classes[each].count; tap++)
            for (int64_t channel = 0; channel < s.channels; channel++)
                for (int64_t column = 0; column < kColumns; column++)
                    *at++ = weights[(panel * kColumns + column) * target_step +
                                    channel * source_step + classes[each].taps[tap]];
}

// The target's pixel with that number in its class: image, row and column.
INLINE Tile pixel_of(const Sizes& s, const Places& pixels, int64_t index) {
    const int64_t step = s.adjoint ? s.stride : 1, each = pixels.rows * pixels.columns;
    const int64_t inside = index % each;
    return {index / each, inside / pixels.columns * step + pixels.down,
            inside % pixels.columns * step + pixels.across};
}

// Factors of the pixels first .. first + count - 1 of a class: factors[pixel][tap][channel]
static void collect(const Sizes& s, const Fusion& fusion, const Places& pixels,
                    const void* images, int64_t first, int64_t count, float* factors,
                    int64_t stride) {
    for (int64_t index = 0; index < count; index++, factors += stride) {
        const Tile pixel = pixel_of(s, pixels, first + index);
        for (int64_t tap = 0; tap < pixels.count; tap++) {
            const int64_t y = s.source(pixel.y, pixels.taps[tap] / s.kernel, s.height);
            const int64_t x = s.source(pixel.x, pixels.taps[tap] % s.kernel, s.width);
            const int64_t from = ((pixel.image * s.height + y) * s.width + x) * s.channels;
            float* to = factors + tap * s.channels;
            for (int64_t channel = 0; channel < s.channels; channel += LANES)
                store(to + channel,
                      y < 0 || x < 0 ? Floats{}
                                     : taken(fusion, static_cast<const Pixel*>(images),
                                             from + channel, channel));
        }
    }
}

static void spread_out(const Sizes& s, const Fusion& fusion, const Places& pixels,
                       const float* products, void* out, int64_t first, int64_t count) {
    for (int64_t index = 0; index < count; index++) {
        const Tile pixel = pixel_of(s, pixels, first + index);
        const int64_t to = ((pixel.image * s.target_height + pixel.y) * s.target_width +
                            pixel.x) * s.target_channels;
        for (int64_t channel = 0; channel < s.target_channels; channel += LANES)
            give(fusion, load(products + index * s.target_channels + channel),
                 static_cast<Pixel*>(out), to + channel, channel);
    }
}

// Products of rows, a multiple of kRows, with the weights of one class.
static void multiply_rows(const Sizes& s, const Places& pixels, const float* factors,
                          int64_t stride, const float* weights, float* products,
                          int64_t rows) {
    for (int64_t column = 0; column < s.target_channels; column += kColumns) {
        const float* panel = weights + (column * s.taps() + kColumns * pixels.first_tap) *
                                           s.channels;
        const int64_t depth = pixels.count * s.channels;
        const int64_t step = kColumns * kRows / rows;
        for (int64_t row = 0; row < rows; row += kRows)
            multiply_panel(factors + row * stride, stride, panel, depth,
                           products + row * s.target_channels + column,
                           s.target_channels,
                           panel + kColumns * s.taps() * s.channels +
                               row / kRows * step * depth,
                           step);
    }
}
