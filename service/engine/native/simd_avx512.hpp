// Sixteen lanes as one ZMM register: AVX-512 with VNNI and BF16.
#pragma once

#include <immintrin.h>

#include "lanes.hpp"

namespace nestling {

constexpr int kMaxRows = 12;  // of a tile: 24 accumulators of 32 registers
constexpr int kMaxInt8Rows = 6;  // 12 accumulators of a group and 12 over all groups
constexpr int kMaxInt4Rows = 6;
// Halves of a panel that one pass over a tile of some rows takes.
constexpr int halves(int) { return 2; }
constexpr bool kUnsignedWeights = true;
constexpr bool flips(int) { return false; }

struct F16 {
  __m512 v;
};
struct I16 {
  // Of the type that the dot products take: with __m512i, GCC 12 copies every accumulator around.
  __v16si v;
  I16(__v16si v) : v(v) {}
  I16(__m512i v) : v(reinterpret_cast<__v16si>(v)) {}
  operator __m512i() const { return reinterpret_cast<__m512i>(v); }
  I16() = default;
};

inline F16 set1(float x) { return {_mm512_set1_ps(x)}; }
inline F16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
inline F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F16 operator*(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F16 operator/(F16 a, F16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F16 max(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F16 min(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F16 round(F16 a) { return {_mm512_roundscale_ps(a.v, 0)}; }

inline I16 set1(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I16 load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline I16 load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline I16 load_words(const int16_t* p) {
  return {_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store(int32_t* p, I16 a) { _mm512_storeu_si512(p, a); }
inline I16 operator+(I16 a, I16 b) { return {_mm512_add_epi32(a, b)}; }
inline I16 operator&(I16 a, I16 b) { return {_mm512_and_si512(a, b)}; }
inline I16 max_unsigned(I16 a, I16 b) { return {_mm512_max_epu32(a, b)}; }
template <int kBits>
inline I16 shift_left(I16 a) {
  return {_mm512_slli_epi32(a, kBits)};
}
template <int kBits>
inline I16 shift_right(I16 a) {
  return {_mm512_srli_epi32(a, kBits)};
}
inline F16 to_float(I16 a) { return {_mm512_cvtepi32_ps(a)}; }
inline I16 to_int(F16 a) { return {_mm512_cvtps_epi32(a.v)}; }
inline I16 bits(F16 a) { return {_mm512_castps_si512(a.v)}; }
inline F16 as_float(I16 a) { return {_mm512_castsi512_ps(a)}; }

// Lane i keeps a where i < count, else takes other.
inline F16 keep_first(F16 a, int count, F16 other) {
  const auto mask = static_cast<__mmask16>(count >= kLanes ? 0xffffu : (1u << count) - 1u);
  return {_mm512_mask_blend_ps(mask, other.v, a.v)};
}

// Four 8-bit weights a lane, as the dot product wants them for so many rows.
template <int kRows>
using Weights = I16;

// sum + the four products of each lane's bytes; weights are unsigned, or as kUnsignedWeights says.
inline I16 dot_bytes(I16 sum, I16 weights, I16 x) {
  return {_mm512_dpbusd_epi32(sum, weights, x)};
}

// Sums of products with nibbles.
using NibbleSum = I16;
inline NibbleSum no_nibbles() { return set1(0); }
inline NibbleSum dot_nibbles(NibbleSum sum, I16 nibbles, I16 x) {
  return dot_bytes(sum, nibbles, x);
}
inline I16 total(NibbleSum sum) { return sum; }

// sum + the two products of each lane's bfloat16 pair.
inline F16 dot_pairs(F16 sum, I16 a, I16 b) {
  return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(a.v),
                           reinterpret_cast<__m512bh>(b.v))};
}

// Low bytes of the lanes.
inline void store_bytes(int8_t* p, I16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}
// Lanes rounded to bfloat16, nearest even.
inline void store_bf16(uint16_t* p, F16 a) {
  const __m256bh rounded = _mm512_cvtneps_pbh(a.v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<const __m256i&>(rounded));
}
inline F16 load_bf16(const uint16_t* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}

inline int32_t sum_lanes(I16 a) { return _mm512_reduce_add_epi32(a); }
inline uint32_t max_unsigned_lane(I16 a) { return _mm512_reduce_max_epu32(a); }

// Lanes added by halves: i and i + 8, then i and i + 4, and so on, as all instruction sets do it.
inline float sum_lanes(F16 x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lanes(F16 x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace nestling
