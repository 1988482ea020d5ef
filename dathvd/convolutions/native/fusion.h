// What is done to pixels while a convolution reads and writes them, which saves passes
// over memory. Pointers that are null ask for nothing.
#pragma once

#include <cstdint>

namespace {

struct Fusion {
    // An image's pixel counts as zero where the mask's, of the same place, is not positive.
    const void* mask;
    // Of each channel in, float32: a pixel v counts as max(0, scale * v + shift). Pixels
    // beyond the images' border are zero after it.
    const float* scale_in;
    const float* shift_in;
    // Of each channel out, float32, added to the sums.
    const float* bias;
    // Like the outputs, with a scale and shift of each channel out, float32: an output
    // counts scale times where scale * gate + shift is positive, and else as zero.
    const void* gate;
    const float* scale_out;
    const float* shift_out;
    // Like the outputs, and added to them.
    const void* residual;
    // Outputs below zero are zero.
    int64_t rectified;
};

}  // namespace
