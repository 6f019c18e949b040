// Sixteen lanes, whatever the registers are: one ZMM with AVX-512, two YMM with AVX2, four of NEON.
//
// All kernels are written in terms of these few operations. Lanes, and so the order of every sum,
// are the same on all instruction sets. A library is compiled for one of them alone.
#pragma once

#include <algorithm>

#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)
#include "simd_avx512.hpp"
#elif defined(__AVX2__) && defined(__FMA__)
#include "simd_avx2.hpp"
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD)
#include "simd_neon.hpp"
#else
#error "compile for AVX-512 (VNNI and BF16), for AVX2 with FMA, or for NEON with dot products"
#endif

namespace nestling {

constexpr int kMostRows = std::max({kMaxRows, kMaxInt8Rows, kMaxInt4Rows});

inline F16 zero() { return set1(0.0f); }

// e^x within 2 units in the last place, for x up to 88; below -87 it stays at e^-87.
// Cephes' polynomial (netlib.org/cephes, expf).
inline F16 exp(F16 x) {
  x = min(max(x, set1(-87.0f)), set1(88.0f));
  const F16 n = round(x * set1(1.44269504f));
  F16 r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  F16 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r + set1(1.0f));
  return as_float(bits(p) + shift_left<23>(to_int(n)));
}

inline int32_t load_quad(const void* p) {
  int32_t quad;
  std::memcpy(&quad, p, sizeof quad);
  return quad;
}

}  // namespace nestling
