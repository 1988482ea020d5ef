// What the kernels share: vectors of LANES values that map onto the target's own.
// Every sum has a fixed order, so that all targets and the torch path agree bit by bit.
// Included once per TARGET by kernels.cpp: 2 is AVX-512, 1 is AVX2, 0 any other.

#define LANES (4 << TARGET)

#define INLINED __attribute__((always_inline))
#define INLINE static inline INLINED

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

constexpr int kBlock = 512;
constexpr uint32_t kMagnitude = 0x7fffffffu;
constexpr uint32_t kInfinity = 0x7f800000u;
constexpr uint32_t kNan = 0x7fc00000u;

template <class Vector, class Value>
INLINE Vector load(const Value* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

template <class Vector, class Value>
INLINE void store(Value* to, Vector vector) {
    std::memcpy(to, &vector, sizeof vector);
}

INLINE Words bits(Floats values) { return (Words)values; }

INLINE float as_float(uint32_t word) {
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

INLINE uint32_t as_word(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    return word;
}

INLINE bool finite(float value) { return (as_word(value) & kInfinity) != kInfinity; }

// bit l is set where rank l is at least `least`
INLINE uint32_t mask_reaching(Ints ranks, int32_t least) {
#if TARGET == 2
    return _mm512_cmpge_epi32_mask((__m512i)ranks, _mm512_set1_epi32(least));
#elif TARGET == 1
    return uint32_t(_mm256_movemask_ps((__m256)(ranks >= least)));
#else
    uint32_t mask = 0;
    for (int l = 0; l < LANES; l++) mask |= uint32_t(ranks[l] >= least) << l;
    return mask;
#endif
}

// stores the lanes whose bits are set, side by side; may write LANES values
INLINE void store_masked(int32_t* to, Ints values, uint32_t mask) {
#if TARGET == 2
    store(to, _mm512_maskz_compress_epi32(uint16_t(mask), (__m512i)values));
#else
    for (; mask; mask &= mask - 1) *to++ = values[__builtin_ctz(mask)];
#endif
}

// values * scale + residual at place i; the product is rounded before the sum
INLINE Floats corrected(const float* values, const float* residual, float scale, int i) {
    const Floats product = load<Floats>(values + i) * scale;
    return residual ? product + load<Floats>(residual + i) : product;
}

// Asks for a block before it is needed: between two blocks a codec works for long on what
// is at hand, and the processor's own prefetching sees no reason to go on.
template <int block>
INLINE void fetch(const float* from) {
    if (block > 1024) return;  // a long block is read in one go, and would not fit
    for (int i = 0; i < block; i += 16) __builtin_prefetch(from + i);
}

// Calls encode(values, residual, wire, new_residual, count, block index) block by block;
// a last, partly filled block goes through copies filled up with zeros.
template <int block, class Encode>
INLINE void for_blocks(const float* values, const float* residual, uint8_t* wire,
                       float* new_residual, int64_t count, int64_t block_bytes,
                       Encode encode) {
    const int64_t whole = count / block;
    for (int64_t b = 0; b < whole; b++) {
        const int64_t i = b * block;
        if (b + 1 < whole) {
            fetch<block>(values + i + block);
            if (residual) fetch<block>(residual + i + block);
        }
        encode(values + i, residual ? residual + i : nullptr, wire + b * block_bytes,
               new_residual ? new_residual + i : nullptr, block, b);
    }
    const int rest = int(count - whole * block);
    if (rest == 0) return;
    float last[block] = {}, last_residual[block] = {}, lost[block];
    std::memcpy(last, values + whole * block, rest * 4);
    if (residual) std::memcpy(last_residual, residual + whole * block, rest * 4);
    encode(last, residual ? last_residual : nullptr, wire + whole * block_bytes,
           new_residual ? lost : nullptr, rest, whole);
    if (new_residual) std::memcpy(new_residual + whole * block, lost, rest * 4);
}

// Values of an output that is longer than the caches near a core, and is written past
// them: a plain store first reads the line that it overwrites, which no one wants.
constexpr int64_t kStreamed = 1 << 20;

// a block at a whole number of cache lines, written past the caches
template <int block>
INLINE void stream(float* to, const float* from) {
#if TARGET == 2
    for (int i = 0; i < block; i += LANES)
        _mm512_stream_ps(to + i, (__m512)load<Floats>(from + i));
#elif TARGET == 1
    for (int i = 0; i < block; i += LANES)
        _mm256_stream_ps(to + i, (__m256)load<Floats>(from + i));
#else
    std::memcpy(to, from, block * 4);
#endif
}

// Calls decode(wire, out, count) block by block, the last one through a copy.
template <int block, class Decode>
INLINE void for_decoded(const uint8_t* wire, float* out, int64_t count,
                        int64_t block_bytes, Decode decode) {
    const int64_t whole = count / block;
    if (TARGET && count >= kStreamed && reinterpret_cast<uintptr_t>(out) % 64 == 0) {
        alignas(64) float one[block];
        for (int64_t b = 0; b < whole; b++) {
            decode(wire + b * block_bytes, one, block);
            stream<block>(out + b * block, one);
        }
#if TARGET
        _mm_sfence();
#endif
    } else {
        for (int64_t b = 0; b < whole; b++)
            decode(wire + b * block_bytes, out + b * block, block);
    }
    const int rest = int(count - whole * block);
    if (rest == 0) return;
    float last[block];
    decode(wire + whole * block_bytes, last, rest);
    std::memcpy(out + whole * block, last, rest * 4);
}
