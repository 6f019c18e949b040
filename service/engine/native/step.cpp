// The C functions that Python calls. Pointers and sizes are its responsibility, except where a
// step's numbers index arrays. No exception leaves them: they say so, and Python names it.
#include "step.hpp"

#include <exception>

#include "model.hpp"
#include "packing.hpp"

namespace nestling {
namespace {

// Calls body(matrix type's value) for a format; false for an unknown one.
template <class Body>
bool with_format(int32_t format, const uint8_t* packed, int outputs, int inputs, const Body& body) {
  switch (format) {
    case kBf16: body(Bf16Matrix(packed, outputs, inputs)); return true;
    case kInt8: body(Int8Matrix(packed, outputs, inputs)); return true;
    case kInt4: body(Int4Matrix(packed, outputs, inputs)); return true;
    default: return false;
  }
}

template <class Matrix>
void multiply_alone(Pool& pool, const Matrix& weights, const float* x, int count, float* out) {
  const Buffer<uint8_t> memory(Matrix::Rows::bytes(count, weights.inputs));
  const typename Matrix::Rows rows(memory.get(), count, weights.inputs);
  for (int row = 0; row < count; ++row) rows.write(row, x + int64_t{row} * weights.inputs);
  const int64_t stride = int64_t{weights.panels()} * kPanel;
  pool.run([&](Team& team) {
    multiply(team, weights, rows, [&](int row, int panel, F16 first, F16 second) {
      store(out + row * stride + panel * kPanel, first);
      store(out + row * stride + panel * kPanel + kLanes, second);
    });
  });
}

// What body returns, or `failed` where it throws: memory or threads ran out.
template <class Result, class Body>
Result guarded(Result failed, const Body& body) {
  try {
    return body();
  } catch (const std::exception&) {
    return failed;
  }
}

}  // namespace
}  // namespace nestling

extern "C" {

// Bytes of the structures that Python has too, in the order of library.py; 0 past the last.
int32_t nestling_structure_bytes(int32_t which) {
  using namespace nestling;
  constexpr int32_t kBytes[] = {sizeof(PackArguments), sizeof(LayerWeights), sizeof(Shape),
                                sizeof(ModelWeights), sizeof(StepArguments)};
  return which >= 0 && which < int32_t{std::size(kBytes)} ? kBytes[which] : 0;
}

// Null if the threads cannot be had.
void* nestling_pool_new(int32_t num_threads) {
  return nestling::guarded<void*>(nullptr, [&] { return new nestling::Pool(num_threads); });
}
void nestling_pool_free(void* pool) { delete static_cast<nestling::Pool*>(pool); }

// Bytes of a packed matrix [outputs, inputs]; -1 for an unknown format.
int64_t nestling_packed_bytes(int32_t format, int32_t outputs, int32_t inputs) {
  int64_t bytes = -1;
  nestling::with_format(format, nullptr, outputs, inputs, [&](const auto& matrix) {
    bytes = matrix.panels() * matrix.panel_bytes(inputs);
  });
  return bytes;
}

// Packs some rows of a matrix whose memory was zero, on so many threads of its own; an Outcome.
int32_t nestling_pack(int32_t format, const nestling::PackArguments* rows, int32_t threads) {
  using namespace nestling;
  return guarded<int32_t>(kNoResources, [&] {
    const bool is_known = with_format(format, nullptr, 0, 0, [&](const auto& matrix) {
      pack_rows<std::decay_t<decltype(matrix)>>(*rows, threads);
    });
    return is_known ? kDone : kOutOfRange;
  });
}

// out [rows, outputs rounded up to 32] = x [rows, inputs] times a packed matrix: one product alone,
// for tests and benchmarks; an Outcome.
int32_t nestling_multiply(void* pool, int32_t format, const uint8_t* packed, int32_t outputs,
                          int32_t inputs, const float* x, int32_t rows, float* out) {
  using namespace nestling;
  return guarded<int32_t>(kNoResources, [&] {
    const bool is_known = with_format(format, packed, outputs, inputs, [&](const auto& matrix) {
      multiply_alone(*static_cast<Pool*>(pool), matrix, x, rows, out);
    });
    return is_known ? kDone : kOutOfRange;
  });
}

// Null if the memory cannot be had.
void* nestling_model_new(const nestling::Shape* shape, const nestling::ModelWeights* weights) {
  return nestling::guarded<void*>(nullptr, [&] { return new nestling::Model(*shape, *weights); });
}
void nestling_model_free(void* model) { delete static_cast<nestling::Model*>(model); }

// An Outcome; kOutOfRange if a number of the step would index past an array.
int32_t nestling_step(void* model, void* pool, const nestling::StepArguments* step) {
  using namespace nestling;
  return guarded<int32_t>(kNoResources, [&] {
    return static_cast<Model*>(model)->step(*static_cast<Pool*>(pool), *step);
  });
}
}
