// The gradient of the weights in tiles: the sum over pixels of outputs' gradient times
// images, 32 terms at a time, which are the same pixel of 32 images, or neighbouring
// pixels of fewer.

// Rows and columns of 16 x 16 words exchanged.
inline void transpose(Line (&rows)[16]) {
    Line pairs[16], fours[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + 2 + j]);
            fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + 2 + j]);
        }
    // lane k of fours[4 i + j] holds column 4 k + j of the rows 4 i .. 4 i + 3
    for (int j = 0; j < 4; j++) {
        const Line a = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0x88);
        const Line b = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0xdd);
        const Line c = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0x88);
        const Line d = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0xdd);
        rows[j] = _mm512_shuffle_i32x4(a, c, 0x88);
        rows[8 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
        rows[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
        rows[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

struct WeightGradient {
    static constexpr int64_t kTerms = 32;  // of one instruction
    static constexpr int64_t kSums = 4 * kTile / 2;  // of 32 channels out and 32 in

    Sizes s;
    const uint16_t *images, *outputs;
    int64_t block, run_length, margin, columns, runs, rows;

    WeightGradient(const Sizes& sizes, const uint16_t* from, const uint16_t* gradient)
        : s(sizes), images(from), outputs(gradient) {
        block = power_above(s.images, kTerms);
        run_length = kTerms / block;
        margin = run_length > 1 ? s.kernel / 2 : 0;
        runs = (s.target_width + run_length - 1) / run_length;
        columns = (run_length > 1 ? runs * run_length : s.width) + 2 * margin;
        const int64_t each = image_row() * s.stride + output_row();
        const int64_t fits = kGradientBytes / 2 - (s.kernel - 1) * image_row();
        rows = std::min(s.target_height, std::max<int64_t>(fits / each, 1));
    }

    // [row][16 channels][column][pair of images][channel][2]
    int64_t image_plane() const { return columns * block * 16; }
    int64_t image_row() const { return s.channels / 16 * image_plane(); }
    // [row][run of columns][16 channels][channel][term]
    int64_t output_row() const { return runs * s.target_channels / 16 * kTile; }
    int64_t panels_in() const { return s.channels / kChannels; }
    int64_t panels_out() const { return s.target_channels / kChannels; }

    struct Strip {
        int64_t image, first, last;
        Rows source;
    };

    void pack_images(const Strip& where, int64_t y, uint16_t* to) const {
        const int64_t count = std::min(block, s.images - where.image);
        uint16_t* row = to + (y - where.source.first) * image_row();
        if (run_length > 1)
            for (int64_t plane = 0; plane < s.channels / 16; plane++) {
                uint16_t* from = row + plane * image_plane();
                const int64_t before = margin * block * 16, inside = s.width * block * 16;
                std::memset(from, 0, 2 * before);
                std::memset(from + before + inside, 0,
                            2 * (image_plane() - before - inside));
            }
        for (int64_t image = 0; image < block; image += 2) {
            const int64_t step = s.height * s.width * s.channels;
            const uint16_t* from = images + (where.image + image) * step +
                                   y * s.width * s.channels;
            for (int64_t x = 0; x < s.width; x++)
                for (int64_t channel = 0; channel < s.channels; channel += kChannels) {
                    const uint16_t* pixel = from + x * s.channels + channel;
                    const Line first = image < count ? load_line(pixel) : Line{};
                    const Line second = image + 1 < count ? load_line(pixel + step) : Line{};
                    uint16_t* at = row + channel / 16 * image_plane() +
                                   ((x + margin) * block + image) * 16;
                    _mm512_store_si512(at, pairs_of(first, second, false));
                    _mm512_store_si512(at + image_plane(), pairs_of(first, second, true));
                }
        }
    }

    void pack_outputs(const Strip& where, int64_t y, uint16_t* to) const {
        const int64_t count = std::min(block, s.images - where.image);
        const int64_t step = s.target_height * s.target_width * s.target_channels;
        const uint16_t* row = outputs + where.image * step +
                              y * s.target_width * s.target_channels;
        uint16_t* at = to + (y - where.first) * output_row();
        for (int64_t index = 0; index < runs; index++)
            for (int64_t channel = 0; channel < s.target_channels; channel += kChannels) {
                Line low[16], high[16];
                for (int64_t pair = 0; pair < 16; pair++) {
                    const int64_t image = 2 * pair % block;
                    const int64_t x = index * run_length + 2 * pair / block;
                    const uint16_t* pixel =
                        row + image * step + x * s.target_channels + channel;
                    const bool inside = x < s.target_width;
                    const Line first = inside && image < count ? load_line(pixel) : Line{};
                    const Line second =
                        inside && image + 1 < count ? load_line(pixel + step) : Line{};
                    low[pair] = pairs_of(first, second, false);
                    high[pair] = pairs_of(first, second, true);
                }
                transpose(low);
                transpose(high);
                for (int64_t line = 0; line < 16; line++, at += kChannels) {
                    _mm512_store_si512(at, low[line]);
                    _mm512_store_si512(at + kTile, high[line]);
                }
                at += kTile;
            }
    }

    // Of 32 channels out and 32 in, for one row of the kernel.
    void multiply(const Strip& where, const uint16_t* packed_images,
                  const uint16_t* packed_outputs, int64_t panel_out, int64_t panel_in,
                  int64_t i, float* sums, bool is_first) const {
        for (int64_t j = 0; j < s.kernel; j++, sums += kSums) {
            if (is_first) {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            } else {
                _tile_loadd(0, sums, 64);
                _tile_loadd(1, sums + kTile / 2, 64);
                _tile_loadd(2, sums + kTile, 64);
                _tile_loadd(3, sums + kTile + kTile / 2, 64);
            }
            for (int64_t y = where.first; y < where.last; y++) {
                const int64_t row = s.source(y, i, s.height);
                if (row < 0) continue;
                const uint16_t* out = packed_outputs + (y - where.first) * output_row() +
                                      2 * panel_out * kTile;
                const uint16_t* in = packed_images +
                                     (row - where.source.first) * image_row() +
                                     2 * panel_in * image_plane();
                for (int64_t index = 0; index < runs; index++) {
                    const int64_t column = margin ? index * run_length + j
                                                  : s.source(index * run_length, j, s.width);
                    if (column < 0) continue;
                    const uint16_t* left = out + index * s.target_channels / 16 * kTile;
                    const uint16_t* right = in + column * block * 16;
                    _tile_loadd(4, left, 64);
                    _tile_loadd(5, left + kTile, 64);
                    _tile_loadd(6, right, 64);
                    _tile_loadd(7, right + image_plane(), 64);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
            _tile_stored(0, sums, 64);
            _tile_stored(1, sums + kTile / 2, 64);
            _tile_stored(2, sums + kTile, 64);
            _tile_stored(3, sums + kTile + kTile / 2, 64);
        }
    }

    // sums[panel out][panel in][tap] -> gradient[out][in][tap], of one panel out
    void finish(const float* sums, float* gradient, int64_t panel_out) const {
        const int64_t taps = s.taps();
        const Line places = _mm512_mullo_epi32(
            _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
            _mm512_set1_epi32(int(taps)));
        for (int64_t out = 0; out < kChannels; out++)
            for (int64_t in = 0; in < s.channels; in += 16) {
                float* to = gradient +
                            ((panel_out * kChannels + out) * s.channels + in) * taps;
                for (int64_t tap = 0; tap < taps; tap++) {
                    const float* from =
                        sums + ((panel_out * panels_in() + in / kChannels) * taps + tap) *
                                   kSums +
                        (out / 16 * 2 + in % kChannels / 16) * (kTile / 2) + out % 16 * 16;
                    _mm512_i32scatter_ps(to + tap, places, _mm512_load_ps(from), 4);
                }
            }
    }

    void run_strip(const Strip& where, float* sums, bool is_first, int threads) const {
        const int64_t sources = where.source.last - where.source.first;
        const int64_t targets = where.last - where.first;
        auto* packed_images = reinterpret_cast<uint16_t*>(kept_memory(
            kShared, (sources * image_row() + targets * output_row()) / 2));
        uint16_t* packed_outputs = packed_images + sources * image_row();
        in_parallel(sources + targets, threads, [&](int64_t index) {
            if (index < sources)
                pack_images(where, where.source.first + index, packed_images);
            else
                pack_outputs(where, where.first + index - sources, packed_outputs);
        });
        const int64_t in = panels_in();
        in_parallel(panels_out() * in * s.kernel, threads, [&](int64_t index) {
            const Tiles tiles;
            const int64_t pair = index / s.kernel, i = index % s.kernel;
            multiply(where, packed_images, packed_outputs, pair / in, pair % in, i,
                     sums + (pair * s.taps() + i * s.kernel) * kSums, is_first);
        });
    }

    void run(float* gradient, int threads) const {
        float* sums = kept_memory(::kSums, panels_out() * panels_in() * s.taps() * kSums);
        for (int64_t image = 0; image < s.images; image += block)
            for (int64_t first = 0; first < s.target_height; first += rows) {
                const int64_t last = std::min(first + rows, s.target_height);
                const Strip where{image, first, last, s.source_rows(first, last)};
                run_strip(where, sums, image == 0 && first == 0, threads);
            }
        in_parallel(panels_out(), threads,
                    [&](int64_t panel) { finish(sums, gradient, panel); });
    }
};
