// Sixteen lanes as two YMM registers: AVX2, and with VNNI where a YMM register has it.
#pragma once

#include <immintrin.h>

#include <type_traits>

#include "lanes.hpp"

namespace nestling {

#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define NESTLING_VNNI 1
#endif

constexpr int kMaxRows = 3;  // 12 accumulators of 16 registers
// Halves of a panel that one pass over a tile of some rows takes, as the registers allow.
constexpr int halves(int rows) { return rows <= 2 ? 2 : 1; }
#ifdef NESTLING_VNNI
constexpr int kMaxInt8Rows = 6;  // 12 accumulators, which hide the dot product's latency
#ifdef __AVX512VL__
constexpr int kMaxInt4Rows = 8;  // of 32 registers 16 are sums
#else
constexpr int kMaxInt4Rows = 6;
#endif
constexpr bool kUnsignedWeights = true;
constexpr bool flips(int) { return false; }
#else
constexpr int kMaxInt8Rows = 4;  // 8 accumulators, magnitudes and signs of the weights
constexpr int kMaxInt4Rows = 8;  // some sums in memory: unpacking nibbles for more rows is worth it
constexpr bool kUnsignedWeights = false;
// From three rows on, activations are multiplied by magnitudes of weights.
constexpr bool flips(int rows) { return rows > 2; }
#endif

struct F16 {
  __m256 a, b;
};
struct I16 {
  __m256i a, b;
};

inline F16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F16 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline F16 operator+(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F16 operator-(F16 x, F16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F16 operator*(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F16 operator/(F16 x, F16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F16 max(F16 x, F16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F16 min(F16 x, F16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F16 fma(F16 x, F16 y, F16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F16 round(F16 x) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kNearest), _mm256_round_ps(x.b, kNearest)};
}

inline I16 set1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I16 load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
inline I16 load(const int32_t* p) { return load_bytes(reinterpret_cast<const uint8_t*>(p)); }
inline I16 load_words(const int16_t* p) {
  const auto* words = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepi16_epi32(_mm_loadu_si128(words)),
          _mm256_cvtepi16_epi32(_mm_loadu_si128(words + 1))};
}
inline void store(int32_t* p, I16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
inline I16 operator+(I16 x, I16 y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
inline I16 operator&(I16 x, I16 y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
inline I16 max_unsigned(I16 x, I16 y) {
  return {_mm256_max_epu32(x.a, y.a), _mm256_max_epu32(x.b, y.b)};
}
template <int kBits>
inline I16 shift_left(I16 x) {
  return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)};
}
template <int kBits>
inline I16 shift_right(I16 x) {
  return {_mm256_srli_epi32(x.a, kBits), _mm256_srli_epi32(x.b, kBits)};
}
inline F16 to_float(I16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I16 to_int(F16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline I16 bits(F16 x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline F16 as_float(I16 x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }

inline F16 keep_first(F16 x, int count, F16 other) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i first = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
  const __m256i second = _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), lane);
  return {_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(first)),
          _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(second))};
}

// Keeps a sum in registers: left alone, GCC 12 computes the products of all rows first, and then has
// to store and load the sums in each round.
inline __m256i settled(__m256i sum) {
  asm volatile("" : "+x"(sum));
  return sum;
}

#ifdef NESTLING_VNNI

inline __m256i dot_quads(__m256i sum, __m256i u, __m256i s) {
#ifdef __AVXVNNI__
  return settled(_mm256_dpbusd_avx_epi32(sum, u, s));
#else
  return settled(_mm256_dpbusd_epi32(sum, u, s));
#endif
}

// Four 8-bit weights a lane, as the dot product wants them for so many rows: unsigned.
template <int kRows>
using Weights = I16;
// sum + the four products of each lane's bytes; weights are as kUnsignedWeights says.
inline I16 dot_bytes(I16 sum, I16 weights, I16 x) {
  return {dot_quads(sum.a, weights.a, x.a), dot_quads(sum.b, weights.b, x.b)};
}

// Sums of products with nibbles.
using NibbleSum = I16;
inline NibbleSum no_nibbles() { return set1(0); }
inline NibbleSum dot_nibbles(NibbleSum sum, I16 nibbles, I16 x) {
  return dot_bytes(sum, nibbles, x);
}
inline I16 total(NibbleSum sum) { return sum; }

#else

// Sums of neighbouring 16-bit numbers.
inline __m256i sum_pairs(__m256i x) { return _mm256_madd_epi16(x, _mm256_set1_epi16(1)); }

// sum + the four products of each lane's bytes: vpmaddubsw adds two in 16 bits and saturates there,
// where 255 · 127 would not fit twice, but 127 · 128 does.
inline __m256i dot_quads(__m256i sum, __m256i u, __m256i s) {
  return _mm256_add_epi32(sum, sum_pairs(_mm256_maddubs_epi16(u, s)));
}
inline __m256i flipped(__m256i raw) {
  return _mm256_xor_si256(raw, _mm256_set1_epi8(static_cast<char>(0x80)));
}

// Four 8-bit weights a lane, for a row or two: magnitudes of activations, weights with their signs.
struct SignedWeights {
  SignedWeights() = default;
  explicit SignedWeights(I16 raw) : w{flipped(raw.a), flipped(raw.b)} {}
  I16 w;
};
inline I16 dot_bytes(I16 sum, const SignedWeights& weights, I16 x) {
  const I16& w = weights.w;
  return {dot_quads(sum.a, _mm256_abs_epi8(x.a), _mm256_sign_epi8(w.a, x.a)),
          dot_quads(sum.b, _mm256_abs_epi8(x.b), _mm256_sign_epi8(w.b, x.b))};
}

// For more rows: magnitudes of weights, activations whose bits are flipped where the weight is
// negative. |w| · ~x = w · x - |w|, and what is missing is one number for an output and a group: it is
// packed with the weights. Moving a sign for each row takes one of the two units that multiply.
struct FlippingWeights {
  FlippingWeights() = default;
  explicit FlippingWeights(I16 raw) {
    const I16 w = {flipped(raw.a), flipped(raw.b)};
    const __m256i zero = _mm256_setzero_si256();
    magnitude = {_mm256_abs_epi8(w.a), _mm256_abs_epi8(w.b)};
    is_negative = {_mm256_cmpgt_epi8(zero, w.a), _mm256_cmpgt_epi8(zero, w.b)};
  }
  I16 magnitude, is_negative;
};
inline I16 dot_bytes(I16 sum, const FlippingWeights& w, I16 x) {
  return {settled(dot_quads(sum.a, w.magnitude.a, _mm256_xor_si256(x.a, w.is_negative.a))),
          settled(dot_quads(sum.b, w.magnitude.b, _mm256_xor_si256(x.b, w.is_negative.b)))};
}
template <int kRows>
using Weights = std::conditional_t<flips(kRows), FlippingWeights, SignedWeights>;

// Sums of products with nibbles, in 16 bits: 32 inputs of 15 · 127 at most are two of 30,480.
struct NibbleSum {
  __m256i a, b;
};
inline NibbleSum no_nibbles() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline NibbleSum dot_nibbles(NibbleSum sum, I16 nibbles, I16 x) {
  return {settled(_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(nibbles.a, x.a))),
          settled(_mm256_add_epi16(sum.b, _mm256_maddubs_epi16(nibbles.b, x.b)))};
}
inline I16 total(NibbleSum sum) { return {sum_pairs(sum.a), sum_pairs(sum.b)}; }

#endif

// sum + the two products of each lane's bfloat16 pair.
inline __m256 low_half(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
inline __m256 high_half(__m256i x) {
  return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(~0xffff)));
}
inline __m256 dot_pairs(__m256 sum, __m256i x, __m256i y) {
  sum = _mm256_fmadd_ps(high_half(x), high_half(y), sum);
  return _mm256_fmadd_ps(low_half(x), low_half(y), sum);
}
inline F16 dot_pairs(F16 sum, I16 x, I16 y) {
  return {dot_pairs(sum.a, x.a, y.a), dot_pairs(sum.b, x.b, y.b)};
}

inline void store_bytes(int8_t* p, I16 x) {
  // Packing works in halves of 128 bits: the permutation puts the quads back in order.
  const __m256i words = _mm256_packs_epi32(x.a, x.b);
  const __m256i bytes = _mm256_packs_epi16(words, words);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
  const __m256i ordered = _mm256_permutevar8x32_epi32(bytes, order);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(ordered));
}
inline __m256i rounded_to_bf16(__m256 x) {
  const __m256i raw = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(raw, 16), _mm256_set1_epi32(1));
  const __m256i nearest = _mm256_add_epi32(raw, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(raw, _mm256_set1_epi32(0x400000));
  const __m256 is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  return _mm256_srli_epi32(
      _mm256_blendv_epi8(nearest, quiet, _mm256_castps_si256(is_nan)), 16);
}
inline void store_bf16(uint16_t* p, F16 x) {
  const __m256i packed = _mm256_packus_epi32(rounded_to_bf16(x.a), rounded_to_bf16(x.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
inline F16 load_bf16(const uint16_t* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  const __m256i first = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves));
  const __m256i second = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves + 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(first, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(second, 16))};
}

inline int32_t sum_lanes(I16 x) {
  int32_t lanes[kLanes];
  store(lanes, x);
  int32_t sum = 0;
  for (int32_t lane : lanes) sum += lane;
  return sum;
}
inline uint32_t max_unsigned_lane(I16 x) {
  uint32_t lanes[kLanes], largest = 0;
  store(reinterpret_cast<int32_t*>(lanes), x);
  for (uint32_t lane : lanes) largest = lane > largest ? lane : largest;
  return largest;
}

// Lanes added by halves: i and i + 8, then i and i + 4, and so on, as all instruction sets do it.
inline float sum_lanes(F16 x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lanes(F16 x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace nestling
