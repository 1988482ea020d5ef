// topk: the k largest magnitudes of each block of 16384, exact, without a sort.
// See topk.py for the format.
//
// A block is cut into 1024 groups of 16. A rank that k of the groups' maxima reach is
// reached by k values, so only values at or above it can be chosen: some 200 for k = 164.
// The k-th largest among these is found bit by bit, by counting.

constexpr int kSpan = 16384;
constexpr int kMaxima = kSpan / 16;
constexpr uint32_t kNanRank = kInfinity + 1;

INLINE Ints ranks_of(Floats values) {
    const Ints magnitude = (Ints)(bits(values) & kMagnitude);
    return magnitude > int32_t(kNanRank) ? Ints{} + int32_t(kNanRank) : magnitude;
}

// how many of `padded` ranks, a multiple of 16, reach `least`
INLINE int reaching(const int32_t* ranks, int padded, int32_t least) {
    int count = 0;
    for (int i = 0; i < padded; i += LANES)
        count += __builtin_popcount(mask_reaching(load<Ints>(ranks + i), least));
    return count;
}

// the highest rank that at least k of them reach, or one that at most k + slack reach
INLINE int32_t reached_by(const int32_t* ranks, int padded, int k, int slack) {
    int32_t rank = 0;
    for (int32_t bit = 1 << 30; bit; bit >>= 1) {
        const int count = reaching(ranks, padded, rank | bit);
        if (count < k) continue;
        rank |= bit;
        if (count <= k + slack) break;
    }
    return rank;
}

struct Candidates {
    int32_t ranks[kSpan + 16];
    int32_t places[kSpan + 16];
    int count;
};

// the values of a block whose rank is at least `least`, in ascending place
INLINE void collect(const float* inputs, int filled, int32_t least, Candidates& found) {
    int count = 0;
    Ints places;
    for (int l = 0; l < LANES; l++) places[l] = l;
    for (int i = 0; i < filled; i += LANES, places += LANES) {
        const Ints ranks = ranks_of(load<Floats>(inputs + i));
        uint32_t mask = mask_reaching(ranks, least);
        if (filled - i < LANES) mask &= (1u << (filled - i)) - 1;
        store_masked(found.ranks + count, ranks, mask);
        store_masked(found.places + count, places, mask);
        count += __builtin_popcount(mask);
    }
    for (int i = count; i < count + 15; i++) found.ranks[i] = -1;
    found.count = count;
}

INLINE void topk_encode_block(const float* values, const float* residual, uint8_t* wire,
                              float* lost, float factor, int filled, int k) {
    alignas(64) int32_t maxima[kMaxima];
    for (int start = 0; start < kSpan; start += 256) {
        Ints most[16 / LANES] = {};
        for (int i = start; i < start + 256; i += 16)
            for (int p = 0; p < 16 / LANES; p++) {
                const int j = i + p * LANES;
                const Floats x = corrected(values, residual, factor, j);
                const Ints rank = ranks_of(x);
                most[p] = most[p] > rank ? most[p] : rank;
                store(lost + j, x);
            }
        for (int p = 0; p < 16 / LANES; p++)
            store(maxima + start / 16 + p * LANES, most[p]);
    }
    const bool bounded = filled == kSpan && k <= kMaxima;
    const int32_t least = bounded ? reached_by(maxima, kMaxima, k, k / 8) : 0;
    Candidates found;
    collect(lost, filled, least, found);
    const int padded = (found.count + 15) / 16 * 16;
    const int32_t last = reached_by(found.ranks, padded, k, 0);
    const int32_t above = reaching(found.ranks, padded, last + 1);
    int ties = k - above, sent = 0;
    uint8_t* places = wire + 4 * k;
    for (int c = 0; sent < k; c++) {
        const int32_t rank = found.ranks[c];
        const bool tie = rank == last;
        const bool take = rank > last || (tie && ties > 0);
        ties -= tie;
        float& input = lost[found.places[c]];
        const bool nan = rank == int32_t(kNanRank);
        const float value = nan ? as_float(kNan) : input + 0.0f;  // no negative zeros
        const uint16_t place = uint16_t(found.places[c]);
        std::memcpy(wire + 4 * sent, &value, 4);  // stays only if it is taken
        std::memcpy(places + 2 * sent, &place, 2);
        input = take ? input - value : input;
        sent += take;
    }
    if (k % 2) std::memset(places + 2 * k, 0, 2);
}

INLINE int64_t row_bytes(int64_t k) { return 4 * k + 4 * ((k + 1) / 2); }

template <bool add>
INLINE void scatter(const uint8_t* wire, float* out, int filled, int k) {
    for (int s = 0; s < k; s++) {
        float value;
        uint16_t place;
        std::memcpy(&value, wire + 4 * s, 4);
        std::memcpy(&place, wire + 4 * k + 2 * s, 2);
        if (place >= filled) continue;  // no payload of ours; stay inside the block
        out[place] = add ? out[place] + value : value;
    }
}

static void topk_encode(const float* values, const float* residual, uint8_t* wire,
                        float* new_residual, int64_t count, float factor, int64_t kept,
                        int64_t kept_last) {
    for_blocks<kSpan>(values, residual, wire, new_residual, count, row_bytes(kept),
                      [=](const float* v, const float* r, uint8_t* w, float* lost,
                          int filled, int64_t) INLINED {
                          float unused[kSpan];
                          const int64_t k = filled == kSpan ? kept : kept_last;
                          topk_encode_block(v, r, w, lost ? lost : unused, factor,
                                            filled, int(k));
                      });
}

static void topk_decode(const uint8_t* wires, int64_t stride, int64_t workers, float* out,
                        int64_t count, float inverse, int64_t kept, int64_t kept_last) {
    for_decoded<kSpan>(wires, out, count, row_bytes(kept),
                       [=](const uint8_t* wire, float* o, int filled) INLINED {
                           const int k = int(filled == kSpan ? kept : kept_last);
                           std::memset(o, 0, kSpan * 4);
                           scatter<false>(wire, o, filled, k);
                           if (workers == 1) return;
                           for (int64_t w = 1; w < workers; w++)
                               scatter<true>(wire + w * stride, o, filled, k);
                           for (int i = 0; i < kSpan; i += LANES)
                               store(o + i, load<Floats>(o + i) * inverse);
                       });
}
