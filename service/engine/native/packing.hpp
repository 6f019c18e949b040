// Packs rows of published weights, on several threads.
#pragma once

#include <algorithm>
#include <exception>
#include <thread>
#include <type_traits>
#include <vector>

#include "int4.hpp"
#include "step.hpp"
#include "tiles.hpp"

namespace nestling {

// Packs rows [begin, end) of those handed over.
template <class Matrix>
void pack_rows(const PackArguments& rows, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    const int row = rows.first_row + i;
    const int output = rows.first_output + row / rows.run * rows.stride + row % rows.run;
    Matrix::pack_row(rows.weights + int64_t{1} * i * rows.inputs, rows.inputs, output % kPanel,
                     rows.matrix + output / kPanel * Matrix::panel_bytes(rows.inputs));
  }
}

// Numbers whose packing takes a thread half a millisecond or more: starting it for fewer costs more
// than it saves. A checkpoint comes in pieces of 4 MiB, which only 4 bits take long enough for.
template <class Matrix>
constexpr int64_t kShare = std::is_same_v<Matrix, Int4Matrix> ? 1 << 17 : 1 << 21;

// Packs all rows on up to so many threads, which end with it and have the caller's priority; on
// fewer where the system has no more. An output's bytes are its own, so nobody writes another's.
template <class Matrix>
void pack_rows(const PackArguments& rows, int threads) {
  const int64_t shares = int64_t{1} * rows.count * rows.inputs / kShare<Matrix>;
  threads = static_cast<int>(std::min<int64_t>(threads, shares));
  const int each = (rows.count / std::max(threads, 1) + kPanel) / kPanel * kPanel;
  std::vector<std::thread> others;
  others.reserve(std::max(threads, 1));
  int begin = 0;
  try {
    for (; begin + each < rows.count; begin += each)
      others.emplace_back([&rows, begin, each] { pack_rows<Matrix>(rows, begin, begin + each); });
  } catch (const std::exception&) {  // what is left is the caller's
  }
  pack_rows<Matrix>(rows, begin, rows.count);
  for (auto& other : others) other.join();
}

}  // namespace nestling
