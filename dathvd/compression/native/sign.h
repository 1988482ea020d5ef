// sign: 68 bytes a block of 512 (scale, then 16 words; bit g of word l is the sign of
// value 16 g + l). See sign.py for the format and sources.

constexpr int kSignBytes = 68;
constexpr int kGroups = 32;
constexpr int kParts = 16 / LANES;  // vectors that hold one group of 16 values

// the 16 sums in halves: lane l takes lane l + 8, then l + 4, l + 2, l + 1
INLINE float folded(const Floats* sums) {
    float lanes[16];
    for (int p = 0; p < kParts; p++) store(lanes + p * LANES, sums[p]);
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return lanes[0];
}

// value 16 g + l of a block is the scale with the sign bit that word l has at g
INLINE Floats signed_scale(Words words, uint32_t scale, int g) {
    return (Floats)(((words << (31 - g)) & 0x80000000u) | scale);
}

INLINE void sign_encode_block(const float* values, const float* residual, uint8_t* wire,
                              float* new_residual, float factor, float inverse_count) {
    alignas(64) float inputs[kBlock];
    Floats sums[kParts] = {};
    Words words[kParts] = {};
    for (int g = 0; g < kGroups; g++)
        for (int p = 0; p < kParts; p++) {
            const int i = 16 * g + LANES * p;
            const Floats x = corrected(values, residual, factor, i);
            sums[p] += (Floats)(bits(x) & kMagnitude);
            words[p] |= (bits(x) >> 31) << g;
            store(inputs + i, x);
        }
    uint32_t scale = as_word(folded(sums) * inverse_count);
    if ((scale & kInfinity) == kInfinity) {
        scale = kNan;
        for (int p = 0; p < kParts; p++) words[p] = Words{};
    }
    std::memcpy(wire, &scale, 4);
    for (int p = 0; p < kParts; p++) store(wire + 4 + 4 * LANES * p, words[p]);
    if (!new_residual) return;
    for (int g = 0; g < kGroups; g++)
        for (int p = 0; p < kParts; p++) {
            const int i = 16 * g + LANES * p;
            const Floats x = load<Floats>(inputs + i);
            store(new_residual + i, x - signed_scale(words[p], scale, g));
        }
}

// writes, or adds, the decoded block
template <bool add>
INLINE void sign_decode_block(const uint8_t* wire, float* out) {
    uint32_t scale;
    std::memcpy(&scale, wire, 4);
    Words words[kParts];
    for (int p = 0; p < kParts; p++) words[p] = load<Words>(wire + 4 + 4 * LANES * p);
    for (int g = 0; g < kGroups; g++)
        for (int p = 0; p < kParts; p++) {
            const int i = 16 * g + LANES * p;
            const Floats value = signed_scale(words[p], scale, g);
            store(out + i, add ? load<Floats>(out + i) + value : value);
        }
}

static void sign_encode(const float* values, const float* residual, uint8_t* wire,
                        float* new_residual, int64_t count, float factor) {
    for_blocks<kBlock>(values, residual, wire, new_residual, count, kSignBytes,
                       [=](const float* v, const float* r, uint8_t* w, float* lost,
                           int filled, int64_t) INLINED {
                           const float inverse_count = 1.0f / float(filled);
                           sign_encode_block(v, r, w, lost, factor, inverse_count);
                       });
}

static void sign_decode(const uint8_t* wires, int64_t stride, int64_t workers, float* out,
                        int64_t count, float inverse) {
    for_decoded<kBlock>(wires, out, count, kSignBytes,
                        [=](const uint8_t* wire, float* o, int) INLINED {
                            sign_decode_block<false>(wire, o);
                            if (workers == 1) return;
                            for (int64_t w = 1; w < workers; w++)
                                sign_decode_block<true>(wire + w * stride, o);
                            for (int i = 0; i < kBlock; i += LANES)
                                store(o + i, load<Floats>(o + i) * inverse);
                        });
}
