// Products in bfloat16 with float32 sums.
#pragma once

#include "tiles.hpp"

namespace nestling {

// out[i][j] = the products of row i with 16 columns of b, summed over pairs of k in their order.
// Words are bfloat16 pairs; a's rows and steps and b's steps lie so many words apart.
template <int kRows>
inline __attribute__((always_inline)) void multiply_pairs(
    const uint32_t* a, int64_t row_stride, int64_t step_stride, const uint32_t* b,
    int64_t b_stride, int steps, F16 (&out)[kRows][2]) {
  for (int i = 0; i < kRows; ++i) out[i][0] = out[i][1] = zero();
  for (int step = 0; step < steps; ++step) {
    const I16 first = load(reinterpret_cast<const int32_t*>(b));
    const I16 second = load(reinterpret_cast<const int32_t*>(b + kLanes));
    b += b_stride;
    for (int i = 0; i < kRows; ++i) {
      const I16 x = set1(load_quad(a + i * row_stride));
      out[i][0] = dot_pairs(out[i][0], first, x);
      out[i][1] = dot_pairs(out[i][1], second, x);
    }
    a += step_stride;
  }
}

struct Bf16Rows {
  static constexpr int kMost = kMaxRows;

  Bf16Rows(uint8_t* memory, int rows, int width)
      : words(reinterpret_cast<uint32_t*>(memory)), tiling(rows, kMost), width(width) {}

  // Stores a row, rounded.
  void write(int row, const float* x) const {
    uint32_t pairs[kLanes / 2];
    for (int k = 0; k < width; k += kLanes) {
      store_bf16(reinterpret_cast<uint16_t*>(pairs), load(x + k));
      uint32_t* out = words + interleaved(tiling, width / 2, row, k / 2);
      for (int i = 0; i < kLanes / 2; ++i) out[i * tiling.height] = pairs[i];
    }
  }

  static int64_t bytes(int rows, int width) {
    return int64_t{2} * Tiling::most_room(rows) * width;
  }

  uint32_t* words;
  Tiling tiling;
  int width;
};

// Weights [N, K]: panels of [K / 2][32] pairs.
struct Bf16Matrix {
  using Rows = Bf16Rows;

  Bf16Matrix(const uint8_t* data, int outputs, int inputs)
      : data(data), outputs(outputs), inputs(inputs) {}

  int panels() const { return (outputs + kPanel - 1) / kPanel; }
  static int64_t panel_bytes(int inputs) { return int64_t{2} * kPanel * inputs; }

  template <int kRows>
  void tile(const Rows& rows, int tile, int panel, F16 (&out)[kRows][2]) const {
    const auto* b = reinterpret_cast<const uint32_t*>(data + panel * panel_bytes(inputs));
    const int height = rows.tiling.height;
    const uint32_t* a = rows.words + int64_t{1} * tile * height * (inputs / 2);
    multiply_pairs<kRows>(a, 1, height, b, kPanel, inputs / 2, out);
  }

  // One output's weights, as embeddings want them.
  void read_row(int output, float* x) const {
    const auto* pairs = reinterpret_cast<const uint32_t*>(
        data + output / kPanel * panel_bytes(inputs));
    for (int k = 0; k < inputs; k += 2) {
      const uint32_t pair = pairs[k / 2 * kPanel + output % kPanel];
      const uint32_t low = pair << 16, high = pair & 0xffff0000u;
      std::memcpy(x + k, &low, sizeof low);
      std::memcpy(x + k + 1, &high, sizeof high);
    }
  }

  // Packs one output's float32 weights as row n of a panel that is zero so far.
  static void pack_row(const float* x, int inputs, int n, uint8_t* panel) {
    auto* pairs = reinterpret_cast<uint32_t*>(panel);
    for (int k = 0; k < inputs; k += kLanes) {
      uint32_t rounded[kLanes / 2];
      store_bf16(reinterpret_cast<uint16_t*>(rounded), load(x + k));
      for (int i = 0; i < kLanes / 2; ++i) pairs[(k / 2 + i) * kPanel + n] = rounded[i];
    }
  }

  const uint8_t* data;
  int outputs, inputs;
};

}  // namespace nestling
