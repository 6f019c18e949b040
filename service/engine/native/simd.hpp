// Sixteen lanes, whatever the registers are: one ZMM with AVX-512, two YMM with AVX2.
//
// All kernels are written in terms of these few operations. Lanes, and so the order of every sum,
// are the same on both instruction sets. A library is compiled for one of them alone.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace nestling {

constexpr int kLanes = 16;

#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)

constexpr int kMaxRows = 12;  // of a tile: 24 accumulators of 32 registers
constexpr int kMaxInt8Rows = 6;  // 12 accumulators of a group and 12 over all groups
constexpr bool kUnsignedWeights = true;

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

// sum + the four products of each lane's bytes; weights are unsigned, or as kUnsignedWeights says.
inline I16 dot_bytes(I16 sum, I16 weights, I16 x) {
  return {_mm512_dpbusd_epi32(sum, weights, x)};
}
inline I16 dot_nibbles(I16 sum, I16 weights, I16 x) { return dot_bytes(sum, weights, x); }

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

#elif defined(__AVX2__) && defined(__FMA__)

constexpr int kMaxRows = 3;  // 12 accumulators of 16 registers
constexpr int kMaxInt8Rows = 2;
// vpmaddubsw adds two products in 16 bits and saturates there. Bytes of -127 to 127 fit if their
// signs are moved to the activations; 255 would not.
constexpr bool kUnsignedWeights = false;

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

// sum + the four products of each lane's bytes: unsigned u times signed s, each pair below 2^15.
inline __m256i dot_quads(__m256i sum, __m256i u, __m256i s) {
  const __m256i pairs = _mm256_maddubs_epi16(u, s);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline __m256i dot_signed(__m256i sum, __m256i weights, __m256i x) {
  const __m256i w = _mm256_xor_si256(weights, _mm256_set1_epi8(static_cast<char>(0x80)));
  return dot_quads(sum, _mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
}
inline I16 dot_bytes(I16 sum, I16 weights, I16 x) {
  return {dot_signed(sum.a, weights.a, x.a), dot_signed(sum.b, weights.b, x.b)};
}
inline I16 dot_nibbles(I16 sum, I16 weights, I16 x) {
  return {dot_quads(sum.a, weights.a, x.a), dot_quads(sum.b, weights.b, x.b)};
}

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

#else
#error "compile for AVX-512 (VNNI and BF16) or for AVX2 with FMA"
#endif

inline F16 zero() { return set1(0.0f); }

inline float sum_lanes(F16 a) {
  float lanes[kLanes];
  store(lanes, a);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}
inline float max_lanes(F16 a) {
  float lanes[kLanes];
  store(lanes, a);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}
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
