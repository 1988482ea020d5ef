// int8 and int4: blocks of 512 scaled by their maximum, rounded stochastically.
// See quantize.py for the format and random_bits.py for the hash.
#include <cfloat>

#include "lanes.h"

constexpr int kHalf = kBlock / 2;

template <int width>
struct Format;

template <>
struct Format<8> {
    static constexpr int levels = 127, bytes = 4 + kBlock;
};

template <>
struct Format<4> {
    static constexpr int levels = 7, bytes = 4 + kHalf;
};

INLINE Words hashed(Words counter, uint32_t key_1, uint32_t key_2) {
    Words x = counter ^ key_1;
    x = (x ^ (x >> 16)) * 0x21f0aaadu;
    x = (x ^ (x >> 15)) + key_2;
    x *= 0xd35a2d97u;
    return x ^ (x >> 15);
}

INLINE Floats uniform(Words half) {
    return (__builtin_convertvector((Ints)half, Floats) + 0.5f) * 0x1p-16f;
}

INLINE Ints rounded(Floats scaled, Floats draw, int levels) {
    const Floats sum = scaled + draw;
    Ints level = __builtin_convertvector(sum, Ints);
    level += (Ints)(sum < __builtin_convertvector(level, Floats));  // floor
    level = level > levels ? Ints{} + levels : level;
    return level < -levels ? Ints{} - levels : level;
}

// levels of values j (low half of the block) and j + 256 as bytes or half bytes
template <int width>
INLINE void pack(const int32_t* levels, uint8_t* codes) {
    if (width == 8) {
        for (int j = 0; j < kBlock; j++) codes[j] = uint8_t(levels[j]);
    } else {
        for (int j = 0; j < kHalf; j++)
            codes[j] = uint8_t((levels[j] + 8) | ((levels[j + kHalf] + 8) << 4));
    }
}

template <int width>
INLINE void unpack(const uint8_t* codes, float scale, float* out) {
    if (width == 8) {
        for (int j = 0; j < kBlock; j++) out[j] = float(int8_t(codes[j])) * scale;
    } else {
        for (int j = 0; j < kHalf; j++) out[j] = float((codes[j] & 15) - 8) * scale;
        for (int j = 0; j < kHalf; j++)
            out[j + kHalf] = float((codes[j] >> 4) - 8) * scale;
    }
}

template <int width>
INLINE void encode_block(const float* values, const float* residual, uint8_t* wire,
                         float* new_residual, float factor, uint32_t counter,
                         uint32_t key_1, uint32_t key_2) {
    constexpr int top = Format<width>::levels;
    alignas(32) float inputs[kBlock];
    alignas(32) int32_t levels[kBlock];
    Ints largest = {};
    for (int i = 0; i < kBlock; i += 8) {
        const Floats x = corrected(values, residual, factor, i);
        const Ints magnitude = (Ints)(bits(x) & kMagnitude);
        largest = largest > magnitude ? largest : magnitude;
        store(inputs + i, x);
    }
    int32_t most = 0;
    for (int l = 0; l < 8; l++) most = most > largest[l] ? most : largest[l];
    float scale = as_float(uint32_t(most)) * (1.0f / top);
    float per_level = 0.0f;
    if (!finite(scale))
        scale = as_float(kNan);
    else if (scale < FLT_MIN)
        scale = 0.0f;
    else
        per_level = top / as_float(uint32_t(most));
    if (per_level == 0.0f) {
        std::memset(levels, 0, sizeof levels);
    } else {
        const Words lanes = {0, 1, 2, 3, 4, 5, 6, 7};
        for (int j = 0; j < kHalf; j += 8) {
            const Words random = hashed(lanes + (counter + j), key_1, key_2);
            const Floats low = load<Floats>(inputs + j) * per_level;
            const Floats high = load<Floats>(inputs + j + kHalf) * per_level;
            store(levels + j, rounded(low, uniform(random & 0xffffu), top));
            store(levels + j + kHalf, rounded(high, uniform(random >> 16), top));
        }
    }
    std::memcpy(wire, &scale, 4);
    pack<width>(levels, wire + 4);
    if (!new_residual) return;
    for (int i = 0; i < kBlock; i += 8) {
        const Floats level = __builtin_convertvector(load<Ints>(levels + i), Floats);
        store(new_residual + i, load<Floats>(inputs + i) - level * scale);
    }
}

template <int width>
INLINE void encode(const float* values, const float* residual, uint8_t* wire,
                   float* new_residual, int64_t count, float factor, int64_t first_block,
                   uint32_t key_1, uint32_t key_2) {
    for_blocks<kBlock>(values, residual, wire, new_residual, count,
                       Format<width>::bytes,
                       [=](const float* v, const float* r, uint8_t* w, float* lost, int,
                           int64_t b) INLINED {
                           const uint32_t counter = uint32_t((first_block + b) * kHalf);
                           encode_block<width>(v, r, w, lost, factor, counter, key_1,
                                               key_2);
                       });
}

template <int width>
INLINE void decode_block(const uint8_t* wire, float* out) {
    float scale;
    std::memcpy(&scale, wire, 4);
    unpack<width>(wire + 4, scale, out);
}

template <int width>
INLINE void decode(const uint8_t* wire, float* out, int64_t count) {
    for_decoded<kBlock>(
        wire, out, count, Format<width>::bytes,
        [](const uint8_t* w, float* o, int) INLINED { decode_block<width>(w, o); });
}

template <int width>
INLINE void decode_mean(const uint8_t* wires, int64_t stride, int64_t workers, float* out,
                        int64_t count, float inverse) {
    for_decoded<kBlock>(
        wires, out, count, Format<width>::bytes,
        [=](const uint8_t* wire, float* o, int) INLINED {
            alignas(32) float one[kBlock];
            decode_block<width>(wire, o);
            for (int64_t w = 1; w < workers; w++) {
                decode_block<width>(wire + w * stride, one);
                for (int i = 0; i < kBlock; i += 8)
                    store(o + i, load<Floats>(o + i) + load<Floats>(one + i));
            }
            for (int i = 0; i < kBlock; i += 8)
                store(o + i, load<Floats>(o + i) * inverse);
        });
}

#define QUANTIZER(width)                                                                 \
    KERNEL void int##width##_encode(const float* values, const float* residual,          \
                                    uint8_t* wire, float* new_residual, int64_t count,   \
                                    float factor, int64_t first_block, uint32_t key_1,   \
                                    uint32_t key_2) {                                    \
        encode<width>(values, residual, wire, new_residual, count, factor, first_block,  \
                      key_1, key_2);                                                     \
    }                                                                                    \
    KERNEL void int##width##_decode(const uint8_t* wire, float* out, int64_t count) {    \
        decode<width>(wire, out, count);                                                 \
    }                                                                                    \
    KERNEL void int##width##_decode_mean(const uint8_t* wires, int64_t stride,           \
                                         int64_t workers, float* out, int64_t count,     \
                                         float inverse) {                                \
        decode_mean<width>(wires, stride, workers, out, count, inverse);                 \
    }

QUANTIZER(8)
QUANTIZER(4)
