// One step of the whole decoder: token ids in, keys and values into the cache, logits out.
//
// The residual stream is float32 throughout. Everything that one row is multiplied by is read
// once a step for all rows.
#pragma once

#include "step.hpp"

#include <chrono>
#include <memory>
#include <new>
#include <vector>

#include "attention.hpp"
#include "bfloat16.hpp"
#include "int4.hpp"
#include "int8.hpp"
#include "pool.hpp"
#include "vectors.hpp"

namespace nestling {
// Of the one file that includes this: the compiler then knows every call, and inlines more.
namespace {

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(new (std::align_val_t{64}) T[static_cast<size_t>(count)]()) {}
  ~Buffer() { ::operator delete[](data_, std::align_val_t{64}); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return data_; }

 private:
  T* data_;
};

// Tokens of one sequence that one tile of attention takes together.
struct Tile {
  int row, tokens;
};

class Clock {
 public:
  Clock(int64_t* totals, bool is_counting) : totals_(is_counting ? totals : nullptr), last_(now()) {}
  void count(Part part) {
    if (totals_ == nullptr) return;
    const int64_t time = now();
    totals_[part] += time - last_;
    last_ = time;
  }

 private:
  static int64_t now() {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  }
  int64_t* totals_;
  int64_t last_;
};

class Model {
 public:
  Model(const Shape& shape, const ModelWeights& weights)
      : s_(shape),
        weights_(weights),
        layers_(weights.layers, weights.layers + shape.layers),
        group_(shape.heads / shape.kv_heads),
        qkv_width_((shape.heads + 2 * shape.kv_heads) * shape.head_dim),
        x_(int64_t{shape.max_rows} * shape.hidden),
        wide_(int64_t{shape.max_rows} * std::max(padded(qkv_width_), shape.inner)),
        mixed_(int64_t{shape.max_rows} * shape.hidden),
        queries_(int64_t{shape.max_rows} * shape.hidden),
        rows_(row_bytes()) {
    weights_.layers = layers_.data();
  }

  Outcome step(Pool& pool, const StepArguments& step) {
    if (!is_valid(step)) return kOutOfRange;
    find_tiles(step);
    pool.run([&](Team& team) {
      if (s_.format == kBf16) run<Bf16Matrix>(team, step);
      if (s_.format == kInt8) run<Int8Matrix>(team, step);
      if (s_.format == kInt4) run<Int4Matrix>(team, step);
    });
    return kDone;
  }

 private:
  static int padded(int outputs) { return (outputs + kPanel - 1) / kPanel * kPanel; }

  int64_t row_bytes() const {
    const int widest = std::max(s_.hidden, s_.inner);
    // Tiles of 4-bit products may be taller, but no more room is counted for them: see most_room.
    return 64 + std::max(Bf16Rows::bytes(s_.max_rows, widest), Int8Rows::bytes(s_.max_rows, widest));
  }

  // What would read or write past an array; everything else Python has checked.
  bool is_valid(const StepArguments& step) const {
    if (step.rows < 1 || step.rows > s_.max_rows) return false;
    if (step.logit_rows < 0 || step.logit_rows > step.rows) return false;
    if (step.max_tokens % kPanel || step.logits_stride < padded(s_.vocab)) return false;
    for (int row = 0; row < step.rows; ++row) {
      const int token = step.token_ids[row], position = step.positions[row];
      if (token < 0 || token >= s_.vocab || position < 0 || position >= s_.max_positions) return false;
      if (position >= step.max_tokens || step.slots[row] < 0 || step.slots[row] >= step.num_slots)
        return false;
    }
    for (int i = 0; i < step.logit_rows; ++i)
      if (step.logit_row[i] < 0 || step.logit_row[i] >= step.rows) return false;
    return true;
  }

  // Neighbouring tokens of a sequence go together as far as a tile of the product has rows.
  void find_tiles(const StepArguments& step) {
    const int most = std::max(1, kMaxRows / group_);
    tiles_.clear();
    for (int row = 0; row < step.rows; ++row) {
      const bool follows = row > 0 && step.slots[row] == step.slots[row - 1] &&
                           step.positions[row] == step.positions[row - 1] + 1;
      if (follows && tiles_.back().tokens < most)
        ++tiles_.back().tokens;
      else
        tiles_.push_back({row, 1});
    }
    // The longest first: whoever is done early finds something short.
    std::stable_sort(tiles_.begin(), tiles_.end(), [&](const Tile& a, const Tile& b) {
      return step.positions[a.row] * a.tokens > step.positions[b.row] * b.tokens;
    });
  }

  template <class Matrix>
  void run(Team& team, const StepArguments& step) {
    if (s_.head_format == kBf16)
      run<Matrix, Bf16Matrix>(team, step);
    else
      run<Matrix, Int8Matrix>(team, step);
  }

  template <class Matrix, class HeadMatrix>
  void run(Team& team, const StepArguments& step) {
    Clock clock(step.nanoseconds, team.is_caller());
    embed<HeadMatrix>(team, step);
    clock.count(kEmbed);
    for (int layer = 0; layer < s_.layers; ++layer) run_layer<Matrix>(team, step, layer, clock);
    head<HeadMatrix>(team, step);
    clock.count(kHead);
  }

  template <class HeadMatrix>
  void embed(Team& team, const StepArguments& step) {
    const HeadMatrix embedding(weights_.embedding, s_.vocab, s_.hidden);
    team.for_each(step.rows, [&](int row) { embedding.read_row(step.token_ids[row], x(row)); });
  }

  template <class Matrix>
  void run_layer(Team& team, const StepArguments& step, int layer, Clock& clock) {
    const LayerWeights& w = layers_[layer];
    const int hidden = s_.hidden, inner = s_.inner;
    const typename Matrix::Rows narrow(rows_.get(), step.rows, hidden);
    const typename Matrix::Rows broad(rows_.get(), step.rows, inner);
    const auto add = [&](int row, int panel, F16 first, F16 second) {
      float* out = x(row) + panel * kPanel;
      store(out, load(out) + first);
      store(out + kLanes, load(out + kLanes) + second);
    };

    write_rows(team, narrow, [&](int row) { return normalized(row, row, w.attention_norm); });
    clock.count(kNorm);
    multiply(team, Matrix(w.qkv, qkv_width_, hidden), narrow,
             [&](int row, int panel, F16 first, F16 second) {
               float* out = wide_.get() + int64_t{row} * padded(qkv_width_) + panel * kPanel;
               store(out, first);
               store(out + kLanes, second);
             });
    clock.count(kQkv);
    rotate_rows(team, step, layer);
    clock.count(kRotate);
    attend_tiles(team, step, layer);
    clock.count(kAttention);
    write_rows(team, narrow, [&](int row) { return mixed(row); });
    clock.count(kNorm);
    multiply(team, Matrix(w.output, hidden, hidden), narrow, add);
    clock.count(kOutput);
    write_rows(team, narrow, [&](int row) { return normalized(row, row, w.mlp_norm); });
    clock.count(kNorm);
    multiply(team, Matrix(w.gate_up, 2 * inner, hidden), narrow,
             [&](int row, int panel, F16 gate, F16 up) {
               store(wide_.get() + int64_t{row} * inner + panel * kLanes, silu(gate) * up);
             });
    clock.count(kGateUp);
    write_rows(team, broad, [&](int row) { return wide_.get() + int64_t{row} * inner; });
    clock.count(kNorm);
    multiply(team, Matrix(w.down, hidden, inner), broad, add);
    clock.count(kDown);
  }

  // Hands rows over to a product. Whole tiles, since their rows share cache lines.
  template <class Rows, class Source>
  static void write_rows(Team& team, const Rows& rows, const Source& source) {
    const Tiling& tiling = rows.tiling;
    team.for_each(tiling.count, [&](int tile) {
      const int first = tile * tiling.height;
      for (int row = first; row < first + tiling.rows_of(tile); ++row) rows.write(row, source(row));
    });
  }

  // A row of the residual stream, normalised into the scratch row `out`.
  const float* normalized(int row, int out, const float* weight) const {
    rms_norm(x(row), weight, s_.hidden, s_.epsilon, mixed(out));
    return mixed(out);
  }

  // Rotates queries and keys and puts keys and values into the cache.
  void rotate_rows(Team& team, const StepArguments& step, int layer) const {
    const Cache cache = cache_of(step);
    const int width = s_.head_dim;
    team.for_each(step.rows, [&](int row) {
      const float* heads = wide_.get() + int64_t{row} * padded(qkv_width_);
      const int position = step.positions[row], slot = step.slots[row];
      const float* cos = weights_.cos + int64_t{position} * (width / 2);
      const float* sin = weights_.sin + int64_t{position} * (width / 2);
      for (int head = 0; head < s_.heads; ++head)
        rotate(heads + head * width, cos, sin, width,
               query(step, head / group_, row) + head % group_ * width);
      alignas(64) uint16_t rounded[kMaxWidth];
      for (int head = 0; head < s_.kv_heads; ++head) {
        rotate(heads + (s_.heads + head) * width, cos, sin, width, rounded);
        cache.write_key(layer, slot, head, position, rounded);
        const float* value = heads + (s_.heads + s_.kv_heads + head) * width;
        for (int d = 0; d < width; d += kLanes) store_bf16(rounded + d, load(value + d));
        cache.write_value(layer, slot, head, position, rounded);
      }
    });
  }

  void attend_tiles(Team& team, const StepArguments& step, int layer) const {
    const Cache cache = cache_of(step);
    team.for_each(static_cast<int>(tiles_.size()) * s_.kv_heads, [&](int item) {
      const Tile& tile = tiles_[item / s_.kv_heads];
      const int head = item % s_.kv_heads, row = tile.row;
      const Queries queries{query(step, head, row), tile.tokens, group_, step.positions[row]};
      attend(cache, layer, step.slots[row], head, queries,
             mixed(row) + head * group_ * s_.head_dim, s_.hidden);
    });
  }

  // Logits of the wanted rows; every row is looked at for numbers that overflowed.
  template <class HeadMatrix>
  void head(Team& team, const StepArguments& step) {
    team.for_each(step.rows,
                  [&](int row) { step.finite[row] = is_finite(x(row), s_.hidden) ? 1 : 0; });
    if (step.logit_rows == 0) return;
    const typename HeadMatrix::Rows rows(rows_.get(), step.logit_rows, s_.hidden);
    write_rows(team, rows,
               [&](int i) { return normalized(step.logit_row[i], i, weights_.final_norm); });
    multiply(team, HeadMatrix(weights_.head, s_.vocab, s_.hidden), rows,
             [&](int row, int panel, F16 first, F16 second) {
               float* out = step.logits + row * step.logits_stride + panel * kPanel;
               store(out, first);
               store(out + kLanes, second);
             });
  }

  Cache cache_of(const StepArguments& step) const {
    return {step.keys, step.values, step.num_slots, s_.kv_heads, step.max_tokens, s_.head_dim};
  }
  float* x(int row) const { return x_.get() + int64_t{row} * s_.hidden; }
  float* mixed(int row) const { return mixed_.get() + int64_t{row} * s_.hidden; }
  // Queries of a row that look at one key head: [kv_heads][rows][group][head_dim].
  uint16_t* query(const StepArguments& step, int kv_head, int row) const {
    return queries_.get() + (int64_t{kv_head} * step.rows + row) * group_ * s_.head_dim;
  }

  const Shape s_;
  ModelWeights weights_;
  const std::vector<LayerWeights> layers_;
  const int group_, qkv_width_;
  Buffer<float> x_;             // the residual stream [rows, hidden]
  Buffer<float> wide_;          // query, key and value, or the MLP's inner values
  Buffer<float> mixed_;         // what attention gives, or a normalised row [rows, hidden]
  Buffer<uint16_t> queries_;    // rotated
  Buffer<uint8_t> rows_;        // what the next product multiplies
  std::vector<Tile> tiles_;
};

}  // namespace
}  // namespace nestling
