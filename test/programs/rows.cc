// Runs random lists of calls over disjoint rows, forward and backward, and compares them with the calls one after the
// other over gathered rows: every result has the same bits, nothing else is written, and the workspace is as large as
// its size says. The test links it with the objects of the addon.
//
//   rows SEED COUNT
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/problem.h"
#include "lily/cpu.h"

namespace {

uint64_t state;
int64_t below(int64_t count) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<int64_t>(state >> 33) % count;
}
bool happens(int64_t in) { return below(in) == 0; }
float unit() { return static_cast<float>(below(20001)) / 10000.0f - 1.0f; }

int64_t seed;
void expect(bool holds, const std::string &what) {
  if (holds) return;
  printf("list %lld: %s\n", static_cast<long long>(seed), what.c_str());
  exit(1);
}

constexpr unsigned char kUntouched = 0xff;

// A matrix whose padding nothing may read or write: NaNs.
struct Matrix {
  int32_t dtype = LILY_FLOAT32;
  int64_t rows = 0, columns = 0, pitch = 0;
  std::vector<unsigned char> bytes = {};

  Matrix() = default;
  Matrix(int64_t row_count, int64_t column_count, int32_t type, int64_t padding)
      : dtype(type), rows(row_count), columns(column_count), pitch(column_count + padding) {
    bytes.assign(static_cast<size_t>((rows * pitch + 1) * element()), kUntouched);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) set(i, j, unit());
    }
  }
  int64_t element() const { return lily::dtype_bytes(dtype); }
  unsigned char *at(int64_t row, int64_t column = 0) { return bytes.data() + (row * pitch + column) * element(); }
  float *floats() { return reinterpret_cast<float *>(bytes.data()); }
  void set(int64_t row, int64_t column, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const _Float16 half = static_cast<_Float16>(value);
    const uint16_t upper = static_cast<uint16_t>(bits >> 16);
    if (dtype == LILY_FLOAT32) memcpy(at(row, column), &value, 4);
    if (dtype == LILY_BFLOAT16) memcpy(at(row, column), &upper, 2);
    if (dtype == LILY_FLOAT16) memcpy(at(row, column), &half, 2);
  }
  lily_matrix operand(int32_t accumulate = 0) { return {rows == 0 ? nullptr : bytes.data(), pitch, dtype, accumulate}; }
  Matrix gathered(const std::vector<int32_t> &from) {
    Matrix result(static_cast<int64_t>(from.size()), columns, dtype, below(2) * 7);
    for (size_t i = 0; i < from.size(); ++i) {
      memcpy(result.at(static_cast<int64_t>(i)), at(from[i]), static_cast<size_t>(columns * element()));
    }
    return result;
  }
  void scatter(Matrix &part, const std::vector<int32_t> &to) {
    for (size_t i = 0; i < to.size(); ++i) {
      memcpy(at(to[i]), part.at(static_cast<int64_t>(i)), static_cast<size_t>(columns * element()));
    }
  }
};
Matrix any_pitch(int64_t rows, int64_t columns, int32_t dtype) {
  return {rows, columns, dtype, below(3) * below(20)};
}

// An adapter and what a call of it writes.
struct Adapter {
  lily_problem problem = {};
  std::vector<int32_t> rows, offsets;
  std::vector<uint8_t> mask;
  std::vector<float> scale;
  bool is_run = false;  // its rows are one run, given without a list
  int32_t accumulates = 0;
  Matrix a, router, b, hidden, probabilities, weights, da, d_router, db;

  // `alone`: over gathered rows.
  template <typename Call>
  Call call(bool alone) {
    Call call = {};
    call.problem = problem;
    if (!mask.empty()) call.tokens.mask = mask.data();
    if (!offsets.empty()) call.tokens.sequence_offsets = offsets.data();
    if (!scale.empty()) call.tokens.scale = scale.data();
    if (!alone && !is_run) call.tokens.rows = rows.data();
    call.a = a.operand();
    call.router = router.operand();
    call.b = b.operand();
    call.hidden = hidden.bytes.data();
    if (lily::keeps_probabilities(problem)) call.probabilities = probabilities.floats();
    if (lily::has_weights(problem)) call.weights = weights.floats();
    return call;
  }
  lily_matrix part(Matrix &matrix, int32_t adds = 0) {
    lily_matrix result = matrix.operand(adds);
    if (is_run) result.data = matrix.at(rows[0]);
    return result;
  }
};

Adapter make_adapter(const lily_problem &common, const std::vector<int32_t> &rows, bool has_scale) {
  Adapter adapter;
  lily_problem &p = adapter.problem = common;
  p.tokens = static_cast<int64_t>(rows.size());
  p.rank = 1 + below(happens(2) ? 20 : happens(4) ? 300 : 90);
  p.routing = static_cast<int32_t>(below(LILY_ROUTING_LEARNED + 1));
  p.experts = p.routing == LILY_ROUTING_NONE ? 1 : 1 + below(5);
  p.groups = lily::may_have_groups(p) && p.tokens > 0 ? 1 + below(std::min<int64_t>(p.tokens, 4)) : 1;
  if (lily::has_router(p) && p.routing != LILY_ROUTING_TOKEN) p.pool = static_cast<int32_t>(below(2));
  p.activation = static_cast<int32_t>(below(2));
  p.scaling = 0.5f + 0.25f * static_cast<float>(below(4));
  adapter.rows = rows;
  adapter.rows.reserve(1);  // an empty list is not null
  if (p.groups > 1) {
    for (int64_t group = 1; group < p.groups; ++group) adapter.offsets.push_back(static_cast<int32_t>(below(p.tokens)));
    adapter.offsets.insert(adapter.offsets.end(), {0, static_cast<int32_t>(p.tokens)});
    std::sort(adapter.offsets.begin(), adapter.offsets.end());
  }
  const bool pools = p.routing == LILY_ROUTING_BATCH || p.routing == LILY_ROUTING_SEQUENCE;
  const bool keeps_some = !happens(4);
  for (int64_t t = 0; pools && happens(3) && t < p.tokens; ++t) adapter.mask.push_back(keeps_some && !happens(3));
  adapter.mask.resize(adapter.mask.empty() ? 0 : rows.size());
  for (int64_t t = 0; has_scale && t < p.tokens; ++t) adapter.scale.push_back(happens(2) ? 1.0f : 2.0f * unit());
  adapter.is_run = !rows.empty() && rows.back() - rows.front() + 1 == p.tokens && happens(2);
  adapter.accumulates = static_cast<int32_t>(below(2));
  const int32_t dtype = p.parameter_dtype;
  const bool is_lora = p.routing == LILY_ROUTING_NONE;
  const int64_t b_rows = is_lora ? p.d_out : p.experts * p.rank, b_columns = is_lora ? p.rank : p.d_out;
  adapter.a = any_pitch(p.rank, p.d_in, dtype);
  adapter.da = any_pitch(p.rank, p.d_in, dtype);
  adapter.b = any_pitch(b_rows, b_columns, dtype);
  adapter.db = any_pitch(b_rows, b_columns, dtype);
  const int64_t router_columns = lily::router_columns(p), router_rows = router_columns > 0 ? p.experts : 0;
  adapter.router = any_pitch(router_rows, router_columns, dtype);
  adapter.d_router = any_pitch(router_rows, router_columns, dtype);
  adapter.hidden = {p.tokens, p.rank, lily::hidden_dtype(p), 0};
  adapter.probabilities = {p.tokens, p.experts, LILY_FLOAT32, 0};
  adapter.weights = {p.groups, p.experts, LILY_FLOAT32, 0};
  return adapter;
}

// Runs a call in a workspace of exactly the size that it asks for.
template <typename Call>
void run(Call call, size_t bytes, lily_status (*function)(const Call *)) {
  constexpr size_t kBeyond = 64;
  auto *const memory = static_cast<unsigned char *>(aligned_alloc(64, (bytes + 2 * kBeyond) / 64 * 64));
  memset(memory, kUntouched, bytes + kBeyond);
  call.workspace = memory;
  call.workspace_bytes = bytes;
  expect(function(&call) == LILY_OK, lily_cpu_backend()->last_error());
  expect(std::count(memory + bytes, memory + bytes + kBeyond, kUntouched) == kBeyond, "the workspace is too small");
  free(memory);
}
template <typename List>
void run_list(List list, lily_status (*size_of)(const List *, size_t *), lily_status (*function)(const List *)) {
  size_t bytes = 0;
  expect(size_of(&list, &bytes) == LILY_OK, lily_cpu_backend()->last_error());
  run(list, bytes, function);
}

void run_rows(lily_forward *calls, int64_t count, const lily_matrix &y, const std::vector<int32_t> &rest) {
  lily_forward_rows list = {};
  list.calls = calls;
  list.count = count;
  list.d_out = calls[0].problem.d_out;
  list.y = y;
  list.rest = rest.data();
  list.rest_count = static_cast<int64_t>(rest.size());
  run_list(list, lily_cpu_backend()->forward_rows_workspace, lily_cpu_backend()->forward_rows);
}
void run_rows(lily_backward *calls, int64_t count, const lily_matrix &dx, const std::vector<int32_t> &rest) {
  lily_backward_rows list = {};
  list.calls = calls;
  list.count = count;
  list.d_in = calls[0].problem.d_in;
  list.dx = dx;
  list.rest = rest.data();
  list.rest_count = static_cast<int64_t>(rest.size());
  run_list(list, lily_cpu_backend()->backward_rows_workspace, lily_cpu_backend()->backward_rows);
}

// The adapter of each row, `count` for the base: in turns, in runs, sorted or random.
std::vector<int64_t> make_pattern(int64_t tokens, int64_t count) {
  std::vector<int64_t> of(static_cast<size_t>(tokens));
  const int64_t pattern = below(4);
  int64_t number = 0, left = 0;
  for (size_t t = 0; t < of.size(); ++t, --left) {
    if (left == 0) left = pattern == 2 ? 1 + below(30) : 1, number = below(count);
    of[t] = pattern == 0 ? static_cast<int64_t>(t) % count : number;
  }
  if (pattern == 1) std::sort(of.begin(), of.end());
  return of;
}

void compare_list() {
  // Activations, parameters, precision.
  constexpr int32_t kTypes[][3] = {{0, 0, 0}, {0, 0, 1}, {0, 0, 2}, {1, 1, 0},
                                   {1, 0, 0}, {1, 0, 1}, {2, 2, 0}, {2, 0, 0}};
  const auto &types = kTypes[below(8)];
  lily_problem common = {};
  common.d_in = 1 + below(happens(2) ? 40 : 600);
  common.d_out = 1 + below(happens(2) ? 40 : 600);
  common.activation_dtype = types[0];
  common.parameter_dtype = types[1];
  common.precision = types[2];
  const int64_t count = 1 + below(6), tokens = 1 + below(happens(6) ? 700 : 60), has_base = below(2);
  const bool has_scale = happens(3);

  std::vector<std::vector<int32_t>> rows(static_cast<size_t>(count + 1));
  const std::vector<int64_t> of = make_pattern(tokens, count + has_base);
  for (int32_t t = 0; t < tokens; ++t) rows[static_cast<size_t>(of[static_cast<size_t>(t)])].push_back(t);
  std::vector<Adapter> adapters;
  for (int64_t k = 0; k < count; ++k) adapters.push_back(make_adapter(common, rows[static_cast<size_t>(k)], has_scale));
  const std::vector<int32_t> &rest = rows.back();

  Matrix x = any_pitch(tokens, common.d_in, types[0]), y = any_pitch(tokens, common.d_out, types[0]);
  Matrix dy = any_pitch(tokens, common.d_out, types[0]), dx = any_pitch(tokens, common.d_in, types[0]);
  const int32_t y_adds = static_cast<int32_t>(below(2)), dx_adds = static_cast<int32_t>(below(2));

  // The calls alone.
  std::vector<Adapter> alone = adapters;
  Matrix y_alone = y, dx_alone = dx;
  for (Adapter &adapter : alone) {
    Matrix x_part = x.gathered(adapter.rows), y_part = y.gathered(adapter.rows);
    Matrix dy_part = dy.gathered(adapter.rows), dx_part = dx.gathered(adapter.rows);
    lily_forward forward = adapter.call<lily_forward>(true);
    forward.x = x_part.operand();
    forward.y = y_part.operand(y_adds);
    lily_backward backward = adapter.call<lily_backward>(true);
    backward.dy = dy_part.operand();
    backward.x = x_part.operand();
    backward.dx = dx_part.operand(dx_adds);
    backward.da = adapter.da.operand(adapter.accumulates);
    backward.d_router = adapter.d_router.operand(adapter.accumulates);
    backward.db = adapter.db.operand(adapter.accumulates);
    if (has_scale) {
      run_rows(&forward, 1, forward.y, {});
      run_rows(&backward, 1, backward.dx, {});
    } else {
      size_t bytes = 0;
      lily_cpu_backend()->forward_workspace(&adapter.problem, &bytes);
      run(forward, bytes, lily_cpu_backend()->forward);
      lily_cpu_backend()->backward_workspace(&adapter.problem, &bytes);
      run(backward, bytes, lily_cpu_backend()->backward);
    }
    y_alone.scatter(y_part, adapter.rows);
    dx_alone.scatter(dx_part, adapter.rows);
  }
  for (const int32_t row : rest) {
    if (y_adds == 0) memset(y_alone.at(row), 0, static_cast<size_t>(y.columns * y.element()));
    if (dx_adds == 0) memset(dx_alone.at(row), 0, static_cast<size_t>(dx.columns * dx.element()));
  }

  // The list.
  std::vector<lily_forward> forwards;
  std::vector<lily_backward> backwards;
  for (Adapter &adapter : adapters) {
    lily_forward forward = adapter.call<lily_forward>(false);
    forward.x = adapter.part(x);
    forward.y = adapter.part(y, y_adds);
    forwards.push_back(forward);
    lily_backward backward = adapter.call<lily_backward>(false);
    backward.dy = adapter.part(dy);
    backward.x = adapter.part(x);
    backward.dx = adapter.part(dx, dx_adds);
    backward.da = adapter.da.operand(adapter.accumulates);
    backward.d_router = adapter.d_router.operand(adapter.accumulates);
    backward.db = adapter.db.operand(adapter.accumulates);
    backwards.push_back(backward);
  }
  run_rows(forwards.data(), count, y.operand(y_adds), rest);
  run_rows(backwards.data(), count, dx.operand(dx_adds), rest);

  expect(y.bytes == y_alone.bytes, "y");
  expect(dx.bytes == dx_alone.bytes, "dx");
  for (size_t k = 0; k < adapters.size(); ++k) {
    const Adapter &one = adapters[k], &other = alone[k];
    const std::string name = "adapter " + std::to_string(k) + ", routing " + std::to_string(one.problem.routing) + ": ";
    expect(one.hidden.bytes == other.hidden.bytes, name + "hidden");
    expect(one.probabilities.bytes == other.probabilities.bytes, name + "probabilities");
    expect(one.weights.bytes == other.weights.bytes, name + "weights");
    expect(one.da.bytes == other.da.bytes, name + "da");
    expect(one.d_router.bytes == other.d_router.bytes, name + "dRouter");
    expect(one.db.bytes == other.db.bytes, name + "db");
  }
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  const int64_t first = atoll(argv[1]), count = atoll(argv[2]);
  for (seed = first; seed < first + count; ++seed) {
    state = static_cast<uint64_t>(seed) * 7919 + 1;
    for (int i = 0; i < 5; ++i) below(2);
    compare_list();
  }
  lily_device_info info;
  lily_cpu_backend()->device_info(0, &info);
  printf("%lld lists, %s\n", static_cast<long long>(count), info.detail);
}
