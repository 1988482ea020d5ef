// int8 and int4: blocks of 512 scaled by their maximum, rounded stochastically.
// See quantize.py for the format and random_bits.py for the hash.

constexpr int kHalf = kBlock / 2;
constexpr float kLeastScale = 0x1p-110f;  // keeps 2^16 / scale inside float

template <int width>
struct Format {
    static constexpr int levels = width == 8 ? 127 : 7;
    static constexpr int bytes = 4 + kBlock * width / 8;
};

// 32 random bits for each counter
INLINE Words hashed(Words counter, uint32_t key_1, uint32_t key_2) {
    Words x = counter ^ key_1;
    x = (x ^ (x >> 16)) * 0x21f0aaadu;
    x = (x ^ (x >> 15)) + key_2;
    x *= 0xd35a2d97u;
    return x ^ (x >> 15);
}

// floor((2^16 steps of a level + 16 random bits) / 2^16), within the levels
INLINE Ints rounded(Floats steps, Words random, int levels) {
    const Ints level = (__builtin_convertvector(steps, Ints) + (Ints)random) >> 16;
    const Ints below = level > levels ? Ints{} + levels : level;
    return below < -levels ? Ints{} - levels : below;
}

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
INLINE void quantize_decode_block(const uint8_t* wire, float* out) {
    const uint8_t* codes = wire + 4;
    float scale;
    std::memcpy(&scale, wire, 4);
    if (width == 8) {
        for (int j = 0; j < kBlock; j++) out[j] = float(int8_t(codes[j])) * scale;
    } else {
        for (int j = 0; j < kHalf; j++) {
            out[j] = float((codes[j] & 15) - 8) * scale;
            out[j + kHalf] = float((codes[j] >> 4) - 8) * scale;
        }
    }
}

template <int width>
INLINE void quantize_block(const float* values, const float* residual, uint8_t* wire,
                           float* new_residual, float factor, uint32_t counter,
                           uint32_t key_1, uint32_t key_2) {
    constexpr int top = Format<width>::levels;
    alignas(64) float inputs[kBlock];
    alignas(64) int32_t levels[kBlock];
    Ints largest = {};
    for (int i = 0; i < kBlock; i += LANES) {
        const Floats x = corrected(values, residual, factor, i);
        const Ints magnitude = (Ints)(bits(x) & kMagnitude);
        largest = largest > magnitude ? largest : magnitude;
        store(inputs + i, x);
    }
    int32_t most = 0;
    for (int l = 0; l < LANES; l++) most = most > largest[l] ? most : largest[l];
    float scale = as_float(uint32_t(most)) * (1.0f / top);
    float steps = 0.0f;  // a value's worth of 1, in 2^-16 of a level
    if (!finite(scale))
        scale = as_float(kNan);
    else if (scale < kLeastScale)
        scale = 0.0f;
    else
        steps = top / as_float(uint32_t(most)) * 65536.0f;
    Words counters = Words{} + counter;
    for (int l = 0; l < LANES; l++) counters[l] += l;
    if (steps == 0.0f) {
        std::memset(levels, 0, sizeof levels);
    } else {
        for (int j = 0; j < kHalf; j += LANES) {
            const Words random = hashed(counters, key_1, key_2);
            const Floats low = load<Floats>(inputs + j) * steps;
            const Floats high = load<Floats>(inputs + j + kHalf) * steps;
            store(levels + j, rounded(low, random & 0xffffu, top));
            store(levels + j + kHalf, rounded(high, random >> 16, top));
            counters += LANES;
        }
    }
    std::memcpy(wire, &scale, 4);
    pack<width>(levels, wire + 4);
    if (!new_residual) return;
    for (int i = 0; i < kBlock; i += LANES) {
        const Floats level = __builtin_convertvector(load<Ints>(levels + i), Floats);
        store(new_residual + i, load<Floats>(inputs + i) - level * scale);
    }
}

template <int width>
static void quantize_encode(const float* values, const float* residual, uint8_t* wire,
                            float* new_residual, int64_t count, float factor,
                            int64_t first_block, uint32_t key_1, uint32_t key_2) {
    for_blocks<kBlock>(values, residual, wire, new_residual, count,
                       Format<width>::bytes,
                       [=](const float* v, const float* r, uint8_t* w, float* lost, int,
                           int64_t b) INLINED {
                           const uint32_t counter = uint32_t((first_block + b) * kHalf);
                           quantize_block<width>(v, r, w, lost, factor, counter, key_1,
                                                 key_2);
                       });
}

template <int width>
static void quantize_decode(const uint8_t* wires, int64_t stride, int64_t workers,
                            float* out, int64_t count, float inverse) {
    for_decoded<kBlock>(
        wires, out, count, Format<width>::bytes,
        [=](const uint8_t* wire, float* o, int) INLINED {
            alignas(64) float one[kBlock];
            quantize_decode_block<width>(wire, o);
            if (workers == 1) return;
            for (int64_t w = 1; w < workers; w++) {
                quantize_decode_block<width>(wire + w * stride, one);
                for (int i = 0; i < kBlock; i += LANES)
                    store(o + i, load<Floats>(o + i) + load<Floats>(one + i));
            }
            for (int i = 0; i < kBlock; i += LANES)
                store(o + i, load<Floats>(o + i) * inverse);
        });
}
