#pragma once

namespace arrow_quant {

// The value with at most `bits` significant binary digits (the leading 1 counts) that is nearest to x, ties to the even
// digit. bits in [1, 24]; 24 and more return x. Denormals count from their own leading 1. NaN, infinities, and a value
// that would round to infinity are returned unchanged, so a finite x stays finite.
float RoundToSignificantBits(float x, int bits);

// The same, away from zero: the smallest magnitude with `bits` digits that is not below |x|.
float RoundUpToSignificantBits(float x, int bits);

}  // namespace arrow_quant
