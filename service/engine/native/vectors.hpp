// What is done to single rows between the products: norm, rotation, SiLU.
#pragma once

#include <cmath>

#include "simd.hpp"

namespace nestling {

// out = x / rms(x) · weight (RMSNorm, arXiv:1910.07467).
inline void rms_norm(const float* x, const float* weight, int width, float epsilon, float* out) {
  F16 squares = zero();
  for (int k = 0; k < width; k += kLanes) squares = fma(load(x + k), load(x + k), squares);
  const float mean = sum_lanes(squares) / static_cast<float>(width);
  const F16 inverse = set1(1.0f / std::sqrt(mean + epsilon));
  for (int k = 0; k < width; k += kLanes)
    store(out + k, load(x + k) * inverse * load(weight + k));
}

// Rotates a head in the half-split layout (RoFormer, arXiv:2104.09864) and rounds it to bfloat16;
// cos and sin have width / 2 angles.
inline void rotate(const float* x, const float* cos, const float* sin, int width, uint16_t* out) {
  const int half = width / 2;
  for (int d = 0; d < half; d += kLanes) {
    const F16 first = load(x + d), second = load(x + half + d);
    const F16 c = load(cos + d), s = load(sin + d);
    store_bf16(out + d, first * c - second * s);
    store_bf16(out + half + d, second * c + first * s);
  }
}

inline F16 silu(F16 x) { return x / (set1(1.0f) + exp(zero() - x)); }

inline bool is_finite(const float* x, int width) {
  const I16 magnitude = set1(0x7fffffff);
  I16 largest = set1(0);
  for (int k = 0; k < width; k += kLanes)
    largest = max_unsigned(largest, bits(load(x + k)) & magnitude);
  return max_unsigned_lane(largest) < 0x7f800000u;
}

}  // namespace nestling
