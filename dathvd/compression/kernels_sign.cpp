// sign: 68 bytes a block of 512 (scale, then 16 words; bit g of word l is the sign of
// value 16 g + l). See sign.py for the format and sources.
#include "lanes.h"

constexpr int kBytes = 68;
constexpr int kGroups = 32;

INLINE float folded(Floats low, Floats high) {
    float lanes[8];
    store(lanes, low + high);
    for (int half = 4; half; half /= 2)
        for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return lanes[0];
}

// value 16 g + l of a block is the scale with the sign bit of word l at g
INLINE Floats decoded(Words words, uint32_t scale, int g) {
    return (Floats)(((words << (31 - g)) & 0x80000000u) | scale);
}

INLINE void encode_block(const float* values, const float* residual, uint8_t* wire,
                         float* new_residual, float factor, float inverse_count) {
    alignas(32) float inputs[kBlock];
    Floats sum0 = {}, sum1 = {};
    Words words0 = {}, words1 = {};
    for (int g = 0; g < kGroups; g++) {
        const Floats x0 = corrected(values, residual, factor, 16 * g);
        const Floats x1 = corrected(values, residual, factor, 16 * g + 8);
        sum0 += (Floats)(bits(x0) & kMagnitude);
        sum1 += (Floats)(bits(x1) & kMagnitude);
        words0 |= (bits(x0) >> 31) << g;
        words1 |= (bits(x1) >> 31) << g;
        store(inputs + 16 * g, x0);
        store(inputs + 16 * g + 8, x1);
    }
    uint32_t scale = as_word(folded(sum0, sum1) * inverse_count);
    if ((scale & kInfinity) == kInfinity) {
        scale = kNan;
        words0 = words1 = Words{};
    }
    std::memcpy(wire, &scale, 4);
    store(wire + 4, words0);
    store(wire + 36, words1);
    if (!new_residual) return;
    for (int g = 0; g < kGroups; g++) {
        const int i = 16 * g;
        store(new_residual + i, load<Floats>(inputs + i) - decoded(words0, scale, g));
        store(new_residual + i + 8,
              load<Floats>(inputs + i + 8) - decoded(words1, scale, g));
    }
}

INLINE void decode_block(const uint8_t* wire, float* out) {
    uint32_t scale;
    std::memcpy(&scale, wire, 4);
    const Words words0 = load<Words>(wire + 4), words1 = load<Words>(wire + 36);
    for (int g = 0; g < kGroups; g++) {
        store(out + 16 * g, decoded(words0, scale, g));
        store(out + 16 * g + 8, decoded(words1, scale, g));
    }
}

INLINE void add_block(const uint8_t* wire, float* sum) {
    uint32_t scale;
    std::memcpy(&scale, wire, 4);
    const Words words0 = load<Words>(wire + 4), words1 = load<Words>(wire + 36);
    for (int g = 0; g < kGroups; g++) {
        const int i = 16 * g;
        store(sum + i, load<Floats>(sum + i) + decoded(words0, scale, g));
        store(sum + i + 8, load<Floats>(sum + i + 8) + decoded(words1, scale, g));
    }
}

KERNEL void sign_encode(const float* values, const float* residual, uint8_t* wire,
                        float* new_residual, int64_t count, float factor) {
    for_blocks<kBlock>(values, residual, wire, new_residual, count, kBytes,
                       [=](const float* v, const float* r, uint8_t* w, float* lost,
                           int filled, int64_t) INLINED {
                           encode_block(v, r, w, lost, factor, 1.0f / float(filled));
                       });
}

KERNEL void sign_decode(const uint8_t* wire, float* out, int64_t count) {
    for_decoded<kBlock>(wire, out, count, kBytes,
                        [](const uint8_t* w, float* o, int) INLINED { decode_block(w, o); });
}

KERNEL void sign_decode_mean(const uint8_t* wires, int64_t stride, int64_t workers,
                             float* out, int64_t count, float inverse) {
    for_decoded<kBlock>(wires, out, count, kBytes,
                        [=](const uint8_t* wire, float* o, int) INLINED {
                            decode_block(wire, o);
                            for (int64_t w = 1; w < workers; w++)
                                add_block(wire + w * stride, o);
                            for (int i = 0; i < kBlock; i += 8)
                                store(o + i, load<Floats>(o + i) * inverse);
                        });
}
