// Products of 8-bit weights and 8-bit activations: exact sums of integers, scaled in float32.
//
// A weight is (byte - 128) · the scale of its output; an activation byte · the scale of its row
// and group of inputs. The offset of 128, which unsigned bytes need, is taken off by starting
// each sum at -128 times the sum of the activations.
#pragma once

#include "tiles.hpp"

namespace nestling {

constexpr int kSumGroup = 32;  // inputs whose activations are summed up for offsets

constexpr float kTiny = 1e-30f;  // 127 / kTiny is finite

// Inputs that share a scale of activations. Coarser groups let a few large values drown the others:
// 192 and 256 cost SmolLM2-135M 2.4% of perplexity on Shakespeare, 96 1.1%, 64 and 32 0.6%.
inline int scale_group(int inputs) { return inputs % 64 == 0 ? 64 : kSumGroup; }

// Rows in 8 bits, in tiles of at most so many.
template <int kMostInTile>
struct ByteRows {
  static constexpr int kMost = kMostInTile;

  ByteRows(uint8_t* memory, int rows, int width)
      : tiling(rows, kMost), width(width), group(scale_group(width)) {
    const int64_t room = tiling.room();
    words = reinterpret_cast<int32_t*>(memory);
    offsets = words + room * (width / 4);
    scales = reinterpret_cast<float*>(offsets + room * (width / group));
    scaled_sums = scales + room * (width / group);
  }

  static int64_t bytes(int rows, int width) {
    return int64_t{1} * Tiling::most_room(rows) *
           (width + 8 * (width / scale_group(width)) + 4 * (width / kSumGroup));
  }

  // Quantizes a row: scale = largest absolute value / 127 of each group, nearest even.
  // What is not finite stays so through the scale.
  void write(int row, const float* x) const {
    const I16 magnitude = set1(0x7fffffff);
    for (int g = 0; g < width / group; ++g) {
      I16 largest = set1(0);
      for (int k = 0; k < group; k += kLanes)
        largest = max_unsigned(largest, bits(load(x + g * group + k)) & magnitude);
      const float peak = largest_lane(largest), scale = peak / 127.0f;
      const F16 inverse = set1(peak > kTiny ? 127.0f / peak : 0.0f);
      int32_t total = 0;
      for (int k = g * group; k < (g + 1) * group; k += kSumGroup) {
        const I16 first = to_int(load(x + k) * inverse);
        const I16 second = to_int(load(x + k + kLanes) * inverse);
        put(row, k, first);
        put(row, k + kLanes, second);
        const int32_t sum = sum_lanes(first + second);
        scaled_sums[interleaved(tiling, width / kSumGroup, row, k / kSumGroup)] =
            scale * static_cast<float>(sum);
        total += sum;
      }
      const int64_t place = interleaved(tiling, width / group, row, g);
      scales[place] = scale;
      offsets[place] = kUnsignedWeights ? -128 * total : 0;
    }
  }

  Tiling tiling;
  int width, group;
  int32_t* words;      // four bytes each
  int32_t* offsets;    // what a group's sum starts at, for 8-bit weights
  float* scales;       // of a group
  float* scaled_sums;  // of 32 inputs, for 4-bit weights

 private:
  static float largest_lane(I16 a) {
    const uint32_t largest = max_unsigned_lane(a);
    float value;
    std::memcpy(&value, &largest, sizeof value);
    return value;
  }

  void put(int row, int k, I16 q) const {
    int8_t packed[kLanes];
    store_bytes(packed, q);
    int32_t* out = words + interleaved(tiling, width / 4, row, k / 4);
    for (int i = 0; i < 4; ++i) out[i * tiling.height] = load_quad(packed + 4 * i);
  }
};

using Int8Rows = ByteRows<kMaxInt8Rows>;

// Weights [N, K]: panels of [K / 4][32] quads and the panel's 32 scales. Where activations are flipped
// (simd_avx2.hpp) a group of inputs begins with 32 sums of the magnitudes of its negative weights, in
// 16 bits: a panel stays one stream, since a gap in what one row reads costs it half of its rate.
struct Int8Matrix {
  using Rows = Int8Rows;
  static constexpr int kSumBytes = flips(kMaxInt8Rows) ? 2 * kPanel : 0;  // of a group

  Int8Matrix(const uint8_t* data, int outputs, int inputs)
      : data(data), outputs(outputs), inputs(inputs) {}

  int panels() const { return (outputs + kPanel - 1) / kPanel; }
  static int64_t panel_bytes(int inputs) { return scales_at(inputs) + 4 * kPanel; }

  template <int kRows>
  void tile(const Rows& rows, int tile, int panel, F16 (&out)[kRows][2]) const {
    const uint8_t* b = data + panel * panel_bytes(inputs);
    const int height = rows.tiling.height, groups = inputs / rows.group;
    const int32_t* a = rows.words + int64_t{1} * tile * height * (inputs / 4);
    const int32_t* offsets = rows.offsets + tile * height * groups;
    const float* scales = rows.scales + tile * height * groups;
    for (int i = 0; i < kRows; ++i) out[i][0] = out[i][1] = zero();
    for (int g = 0; g < groups; ++g, offsets += height, scales += height) {
      for (int half = 0; half < 2; half += halves(kRows))
        add_group<kRows>(a, height, rows.group, b, offsets, scales, half, out);
      a += rows.group / 4 * height;
      b += kSumBytes + rows.group * kPanel;
    }
    const auto* weight_scales = reinterpret_cast<const float*>(b);
    for (int i = 0; i < kRows; ++i) {
      out[i][0] = out[i][0] * load(weight_scales);
      out[i][1] = out[i][1] * load(weight_scales + kLanes);
    }
  }

  void read_row(int output, float* x) const {
    const uint8_t* panel = data + output / kPanel * panel_bytes(inputs);
    float scale;
    std::memcpy(&scale, panel + scales_at(inputs) + 4 * (output % kPanel), sizeof scale);
    for (int k = 0; k < inputs; k += 4) {
      const uint8_t* quad = panel + quad_at(inputs, k, output % kPanel);
      for (int i = 0; i < 4; ++i) x[k + i] = static_cast<float>(quad[i] - 128) * scale;
    }
  }

  // Packs one output's float32 weights as row n of a panel that is zero so far.
  static void pack_row(const float* x, int inputs, int n, uint8_t* panel) {
    F16 largest = zero();
    for (int k = 0; k < inputs; k += kLanes)
      largest = max(largest, max(load(x + k), zero() - load(x + k)));
    const float peak = max_lanes(largest);
    const F16 inverse = set1(peak > kTiny ? 127.0f / peak : 0.0f);
    reinterpret_cast<float*>(panel + scales_at(inputs))[n] = peak / 127.0f;
    const int group = scale_group(inputs);
    F16 negative = zero();
    for (int k = 0; k < inputs; k += kLanes) {
      const I16 q = to_int(load(x + k) * inverse);
      int8_t bytes[kLanes];
      store_bytes(bytes, q);
      uint8_t* quads = panel + quad_at(inputs, k, n);
      for (int i = 0; i < kLanes; i += 4) {  // adding 128 to a byte flips its first bit
        const uint32_t quad = static_cast<uint32_t>(load_quad(bytes + i)) ^ 0x80808080u;
        std::memcpy(quads + i * kPanel, &quad, sizeof quad);
      }
      if (kSumBytes == 0) continue;
      negative = negative + max(zero() - to_float(q), zero());
      if ((k + kLanes) % group != 0) continue;
      auto* sums = reinterpret_cast<int16_t*>(panel + group_at(group, k / group));
      sums[n] = static_cast<int16_t>(sum_lanes(negative));
      negative = zero();
    }
  }

  const uint8_t* data;
  int outputs, inputs;

 private:
  // Places in a panel: of a group of inputs, of four inputs of an output, of the scales.
  static int64_t group_at(int group, int number) {
    return int64_t{number} * (kSumBytes + group * kPanel);
  }
  static int64_t quad_at(int inputs, int k, int n) {
    const int group = scale_group(inputs);
    return group_at(group, k / group) + kSumBytes + (k % group / 4 * kPanel + n) * 4;
  }
  static int64_t scales_at(int inputs) {
    return group_at(scale_group(inputs), inputs / scale_group(inputs));
  }

  // out += the products of a group of inputs, which begins at b, with halves(kRows) halves of the
  // panel, from the first on.
  template <int kRows>
  static inline __attribute__((always_inline)) void add_group(
      const int32_t* a, int height, int group, const uint8_t* b, const int32_t* offsets,
      const float* scales, int first, F16 (&out)[kRows][2]) {
    constexpr int kHalves = halves(kRows);
    const auto* missing = reinterpret_cast<const int16_t*>(b) + first * kLanes;
    if constexpr (kSumBytes > 0 && !flips(kRows)) __builtin_prefetch(b);
    b += kSumBytes + 64 * first;
    I16 sum[kRows][kHalves];
    for (int i = 0; i < kRows; ++i)
      for (int half = 0; half < kHalves; ++half)
        sum[i][half] = flips(kRows) ? load_words(missing + kLanes * half) : set1(offsets[i]);
    for (int quad = 0; quad < group / 4; ++quad, a += height, b += 4 * kPanel) {
      Weights<kRows> weights[kHalves];
      for (int half = 0; half < kHalves; ++half)
        weights[half] = Weights<kRows>(load_bytes(b + 64 * half));
      for (int i = 0; i < kRows; ++i) {
        const I16 x = set1(a[i]);
        for (int half = 0; half < kHalves; ++half)
          sum[i][half] = dot_bytes(sum[i][half], weights[half], x);
      }
    }
    for (int i = 0; i < kRows; ++i) {
      const F16 scale = set1(scales[i]);
      for (int half = 0; half < kHalves; ++half) {
        F16& result = out[i][first + half];
        result = fma(to_float(sum[i][half]), scale, result);
      }
    }
  }
};

}  // namespace nestling
