// topk: the k largest magnitudes of each block of 4096, exact, without a sort.
// See topk.py for the format.
//
// 256 strided groups of 16 give 256 maxima. A rank that k of those reach is reached by k
// values, so only values at or above it can be chosen: some 60 for k = 41. The exact k-th
// rank among these is found bit by bit, by counting.
#include "lanes.h"

constexpr int kSpan = 4096;
constexpr int kStrided = 256;
constexpr uint32_t kNanRank = kInfinity + 1;

INLINE Words ranks_of(Floats values) {
    const Words magnitude = bits(values) & kMagnitude;
    return magnitude > kNanRank ? Words{} + kNanRank : magnitude;
}

INLINE uint32_t rank_of(float value) {
    const uint32_t magnitude = as_word(value) & kMagnitude;
    return magnitude > kNanRank ? kNanRank : magnitude;
}

// how many of `padded` ranks (a multiple of 8) reach `least`; none may exceed 2^31
INLINE int reaching(const uint32_t* ranks, int padded, uint32_t least) {
    Ints counts = {};
    for (int i = 0; i < padded; i += 8)
        counts -= (Ints)(load<Ints>(ranks + i) >= (Ints{} + int32_t(least)));
    int sum = 0;
    for (int l = 0; l < 8; l++) sum += counts[l];
    return sum;
}

// a rank that at least k of them reach: the highest, or one that at most k + slack reach
INLINE uint32_t reached_by(const uint32_t* ranks, int padded, int k, int slack) {
    uint32_t rank = 0;
    for (uint32_t bit = 1u << 30; bit; bit >>= 1) {
        const int count = reaching(ranks, padded, rank | bit);
        if (count < k) continue;
        rank |= bit;
        if (count <= k + slack) break;
    }
    return rank;
}

struct Candidates {
    uint32_t ranks[kSpan + 8];
    uint16_t places[kSpan + 8];
    int count = 0;
    void add(uint32_t rank, int place, bool take) {
        ranks[count] = rank;
        places[count] = uint16_t(place);
        count += take;
    }
};

// the values that may be among the k largest of a whole block, in ascending place
INLINE void find(const float* inputs, const uint32_t* maxima, int k, Candidates& found) {
    const uint32_t least = reached_by(maxima, kStrided, k, k / 8);
    uint16_t groups[kStrided + 1];
    int num_groups = 0;
    for (int j = 0; j < kStrided; j++) {
        groups[num_groups] = uint16_t(j);
        num_groups += maxima[j] >= least;
    }
    for (int start = 0; start < kSpan; start += kStrided)
        for (int g = 0; g < num_groups; g++) {
            const uint32_t rank = rank_of(inputs[start + groups[g]]);
            found.add(rank, start + groups[g], rank >= least);
        }
}

INLINE void encode_block(const float* values, const float* residual, uint8_t* wire,
                         float* new_residual, float factor, int filled, int k) {
    alignas(32) float inputs[kSpan];
    alignas(32) uint32_t maxima[kStrided] = {};
    for (int start = 0; start < kSpan; start += kStrided)
        for (int j = 0; j < kStrided; j += 8) {
            const Floats x = corrected(values, residual, factor, start + j);
            const Ints rank = (Ints)ranks_of(x), most = load<Ints>(maxima + j);
            store(maxima + j, most > rank ? most : rank);
            store(inputs + start + j, x);
        }
    Candidates found;
    if (filled == kSpan && k <= kStrided)
        find(inputs, maxima, k, found);
    else
        for (int i = 0; i < filled; i++) found.add(rank_of(inputs[i]), i, true);
    int padded = found.count;
    while (padded % 8) found.ranks[padded++] = 0;
    const uint32_t last = reached_by(found.ranks, padded, k, 0);
    int above = 0;
    for (int c = 0; c < found.count; c++) above += found.ranks[c] > last;
    int ties = k - above, sent = 0;
    uint8_t* places = wire + 4 * k;
    for (int c = 0; c < found.count && sent < k; c++) {
        const bool tie = found.ranks[c] == last;
        if (found.ranks[c] < last || (tie && ties == 0)) continue;
        ties -= tie;
        float& input = inputs[found.places[c]];
        const float value = found.ranks[c] == kNanRank ? as_float(kNan) : input + 0.0f;
        std::memcpy(wire + 4 * sent, &value, 4);
        std::memcpy(places + 2 * sent, &found.places[c], 2);
        input -= value;
        sent++;
    }
    if (k % 2) std::memset(places + 2 * k, 0, 2);
    if (new_residual) std::memcpy(new_residual, inputs, kSpan * 4);
}

INLINE int64_t row_bytes(int k) { return 4 * k + 4 * ((k + 1) / 2); }

template <bool first>
INLINE void add_block(const uint8_t* wire, float* out, int filled, int k) {
    for (int s = 0; s < k; s++) {
        float value;
        uint16_t place;
        std::memcpy(&value, wire + 4 * s, 4);
        std::memcpy(&place, wire + 4 * k + 2 * s, 2);
        if (place >= filled) continue;  // never written by encode
        out[place] = first ? value : out[place] + value;
    }
}

KERNEL void topk_encode(const float* values, const float* residual, uint8_t* wire,
                        float* new_residual, int64_t count, float factor, int64_t kept,
                        int64_t kept_last) {
    for_blocks<kSpan>(values, residual, wire, new_residual, count, row_bytes(int(kept)),
                      [=](const float* v, const float* r, uint8_t* w, float* lost,
                          int filled, int64_t) INLINED {
                          const int64_t k = filled == kSpan ? kept : kept_last;
                          encode_block(v, r, w, lost, factor, filled, int(k));
                      });
}

KERNEL void topk_decode_mean(const uint8_t* wires, int64_t stride, int64_t workers,
                             float* out, int64_t count, float inverse, int64_t kept,
                             int64_t kept_last) {
    for_decoded<kSpan>(wires, out, count, row_bytes(int(kept)),
                       [=](const uint8_t* wire, float* o, int filled) INLINED {
                           const int k = int(filled == kSpan ? kept : kept_last);
                           std::memset(o, 0, kSpan * 4);
                           add_block<true>(wire, o, filled, k);
                           if (workers == 1) return;
                           for (int64_t w = 1; w < workers; w++)
                               add_block<false>(wire + w * stride, o, filled, k);
                           for (int i = 0; i < kSpan; i += 8)
                               store(o + i, load<Floats>(o + i) * inverse);
                       });
}
