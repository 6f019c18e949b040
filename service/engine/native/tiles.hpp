// How activations and results of a matrix product are cut into tiles.
//
// A weight matrix [N, K] is packed in panels of 32 outputs (two vectors of 16 lanes); activations
// [M, K] in tiles of a few rows. A tile times a panel stays in registers. Each result is
// summed in the same order whatever the tile's height, so a row does not depend on its neighbours.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "pool.hpp"
#include "simd.hpp"

namespace nestling {

constexpr int kPanel = 32;

// Rows shared out evenly over tiles of at most `most`: 32 are 11, 11 and 10, not 12, 12 and 8.
struct Tiling {
  Tiling(int rows, int most) : rows(rows), count((rows + most - 1) / most) {
    height = count == 0 ? 1 : (rows + count - 1) / count;
    count = (rows + height - 1) / height;
  }
  // Rows that a buffer must have room for: whole tiles.
  static int most_room(int rows) { return rows + kMostRows; }
  int room() const { return count * height; }
  int rows_of(int tile) const { return std::min(height, rows - tile * height); }

  int rows, count, height;
};

// Place of 32-bit word `word` of a row, in a buffer where the rows of a tile lie interleaved: a
// kernel then reads one stream.
inline int64_t interleaved(const Tiling& tiling, int words_a_row, int row, int word) {
  const int tile = row / tiling.height;
  const int64_t start = static_cast<int64_t>(tile) * words_a_row;
  return (start + word) * tiling.height + row % tiling.height;
}

// Calls body(integral_constant<rows>) with rows, kRows at most, known to the compiler.
template <int kRows, class Body>
inline void with_rows(int rows, const Body& body) {
  if constexpr (kRows == 1) {
    body(std::integral_constant<int, 1>{});
  } else {
    if (rows == kRows)
      body(std::integral_constant<int, kRows>{});
    else
      with_rows<kRows - 1>(rows, body);
  }
}

// All tiles times all panels; emit(row, panel, first 16 outputs, second 16) takes the results.
template <class Matrix, class Emit>
void multiply(Team& team, const Matrix& weights, const typename Matrix::Rows& rows,
              const Emit& emit) {
  const Tiling& tiling = rows.tiling;
  team.for_each(weights.panels(), [&](int panel) {
    for (int tile = 0; tile < tiling.count; ++tile) {
      with_rows<Matrix::Rows::kMost>(tiling.rows_of(tile), [&](auto count) {
        constexpr int kRows = decltype(count)::value;
        F16 out[kRows][2];
        weights.template tile<kRows>(rows, tile, panel, out);
        for (int i = 0; i < kRows; ++i)
          emit(tile * tiling.height + i, panel, out[i][0], out[i][1]);
      });
    }
  });
}

}  // namespace nestling
