#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace {

struct Rows {
    int64_t first, last;
};

// A convolution, or its adjoint: from source images to target images.
struct Sizes {
    int64_t images, height, width, channels;                       // of the source
    int64_t target_height, target_width, target_channels;
    int64_t kernel, stride;
    bool adjoint;

    // All sizes are those of the convolution.
    Sizes(int64_t count, int64_t rows, int64_t columns, int64_t in, int64_t out,
          int64_t side, int64_t step, bool backwards)
        : images(count),
          height(rows),
          width(columns),
          channels(in),
          target_height((rows + step - 1) / step),
          target_width((columns + step - 1) / step),
          target_channels(out),
          kernel(side),
          stride(step),
          adjoint(backwards) {
        if (!adjoint) return;
        std::swap(height, target_height);
        std::swap(width, target_width);
        std::swap(channels, target_channels);
    }

    int64_t taps() const { return kernel * kernel; }
    // The source's row (or column) that a tap takes for a target's, or -1.
    int64_t source(int64_t target, int64_t tap, int64_t extent) const {
        const int64_t padding = kernel / 2;
        int64_t place = adjoint ? target + padding - tap : target * stride + tap - padding;
        if (adjoint && stride > 1) {
            if (place % stride) return -1;
            place /= stride;
        }
        return place >= 0 && place < extent ? place : -1;
    }
    // The source's rows that the target's rows first .. last - 1 take.
    Rows source_rows(int64_t first, int64_t last) const {
        Rows found{height, 0};
        for (int64_t y = first; y < last; y++)
            for (int64_t tap = 0; tap < kernel; tap++) {
                const int64_t row = source(y, tap, height);
                if (row < 0) continue;
                found = {std::min(found.first, row), std::max(found.last, row + 1)};
            }
        return found;
    }
};

// Of an adjoint, pixels that take the same taps, as their row and column leave the same
// rests modulo the stride; of a convolution, all of them.
struct Places {
    int64_t down, across;     // the first one's row and column
    int64_t rows, columns;    // of such pixels in an image
    int64_t taps[9], count;   // their numbers in the kernel
    int64_t first_tap;        // how many taps the classes before this one have
};

int64_t classes_of(const Sizes& s, Places* to) {
    const int64_t step = s.adjoint ? s.stride : 1;
    int64_t count = 0, taps = 0;
    for (int64_t down = 0; down < step; down++)
        for (int64_t across = 0; across < step; across++) {
            Places& found = to[count++];
            found = {down, across, (s.target_height - down + step - 1) / step,
                     (s.target_width - across + step - 1) / step, {}, 0, taps};
            const auto fits = [&](int64_t place, int64_t tap) {
                return (place + s.kernel / 2 - tap) % step == 0;
            };
            for (int64_t i = 0; i < s.kernel; i++)
                for (int64_t j = 0; j < s.kernel; j++)
                    if (fits(down, i) && fits(across, j))
                        found.taps[found.count++] = i * s.kernel + j;
            taps += found.count;
        }
    return count;
}

}  // namespace
