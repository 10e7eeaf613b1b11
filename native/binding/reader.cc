#include "binding/reader.h"

#include <algorithm>
#include <utility>

#include "core/problem.h"
#include "lily/cpu.h"

namespace lily::binding {
namespace {

constexpr int64_t kMaxStep = int64_t{1} << 53;  // the largest number of a call

int64_t element_bytes(int64_t dtype) {
  if (dtype == kUint8) return 1;
  if (dtype == kInt32) return 4;
  return dtype >= LILY_FLOAT32 && dtype <= LILY_FLOAT16 ? dtype_bytes(static_cast<int32_t>(dtype)) : 0;
}

// The product of two counts of attention does not overflow.
constexpr int64_t kMaxCount = INT32_MAX;

std::string text(int64_t number) { return std::to_string(number); }

// A matrix as its numbers describe it.
struct Extent {
  int64_t offset, rows, columns, pitch, bytes;
  int32_t dtype;
  int64_t element_bytes;
};

// What a call may do with an operand of this use.
bool allows(Use use, int64_t access) {
  using namespace slot_access;
  switch (use) {
    case Use::output: return access == write || access == add;
    case Use::update: return access == read || access == add;
    default: return access == read;
  }
}

bool describe(const Slot &slot, const double *numbers, Extent *extent, Error *error) {
  using namespace slot_field;
  static constexpr const char *kNames[kCount] = {"byteOffset", "rows", "columns", "pitch", "dtype", "access"};
  static constexpr const char *kAccesses[] = {"read", "write or add", "read or add", "read"};  // in the order of Use
  const auto fail = [&](const char *code, const std::string &message) {
    *error = {code, slot.name + message};
    return false;
  };
  int64_t whole[kCount];
  for (int field = 0; field < kCount; ++field) {
    if (!to_whole(numbers[field], &whole[field])) {
      return fail("ERR_LILY_ARGUMENT", std::string(": its ") + kNames[field] + " is not a whole number");
    }
  }
  Extent &found = *extent;
  found = {whole[byteOffset],          whole[rows], whole[columns], whole[pitch], 0, static_cast<int32_t>(whole[dtype]),
           element_bytes(whole[dtype])};
  if (!allows(slot.use, whole[access])) {
    return fail("ERR_LILY_ARGUMENT", std::string(" must have access ") + kAccesses[static_cast<int>(slot.use)] +
                                         ", not " + text(whole[access]));
  }
  if (found.element_bytes == 0) return fail("ERR_LILY_DTYPE", " has an unknown dtype");
  int64_t elements = 0;
  const bool is_empty = found.rows == 0 || found.columns == 0;
  if (found.rows < 0 || found.columns < 0 || found.pitch > kMaxBytes ||
      (found.pitch < found.columns && found.rows > 1) ||
      (!is_empty && (__builtin_mul_overflow(found.rows - 1, found.pitch, &elements) ||
                     __builtin_add_overflow(elements, found.columns, &elements) ||
                     __builtin_mul_overflow(elements, found.element_bytes, &found.bytes) || found.bytes > kMaxBytes))) {
    return fail("ERR_LILY_SHAPE", " cannot have " + text(found.rows) + " rows of " + text(found.columns) +
                                      " elements with pitch " + text(found.pitch));
  }
  return true;
}

// Slots of a call and of an item of its list.
constexpr int most_slots() {
  int most = 0;
  for (const Table &table : kTables) most = std::max(most, table.slot_count + table.item_slot_count);
  return most;
}

// Reads the numbers and the operands of one call. After the first error the results mean nothing.
class Reader {
 public:
  explicit Reader(const Source &source) : source_(source), table_(*source.table) {
    sizes_[size::one] = 1;
    sizes_[size::four] = 4;
  }

  void read(Call *call, Lists *lists) {
    call->operation = static_cast<operation::Position>(source_.numbers[placement_field::operation]);
    call->backend = source_.backend;
    call->device = source_.device;
    call->memory_stream = static_cast<lily_stream>(whole(placement_field::memoryStream));
    switch (call->operation) {
      case operation::forward: read_forward(call->forward = {}); break;
      case operation::backward: read_backward(call->backward = {}); break;
      case operation::forwardRows: read_forward_rows(call->forward_rows = {}, lists->forwards); break;
      case operation::backwardRows: read_backward_rows(call->backward_rows = {}, lists->backwards); break;
      case operation::linear: read_linear(call->linear = {}); break;
      case operation::pack: read_pack(call->linear = {}); break;
      case operation::attention: read_attention(call->attention = {}); break;
      case operation::attentionBackward: read_attention_backward(call->attention_backward = {}); break;
      case operation::fold: read_fold(call->fold = {}, lists->layers); break;
      case operation::draw: read_draw(call->draw = {}); break;
      case operation::matmul: read_matmul(call->matmul = {}); break;
      case operation::elementwise: read_elementwise(call->elementwise = {}); break;
      default: read_adamw(call->adamw = {}, lists->parameters);
    }
    check_all_read(0, table_.slot_count);
  }

  size_t read_packed_bytes() {
    if (source_.numbers[placement_field::operation] != double{operation::pack}) {
      fail("ERR_LILY_ARGUMENT", "only a weight that is packed has a packed size");
      return 0;
    }
    lily_linear call = {};
    read_weight(call, pack_slot::weight);
    return packed_bytes(call.problem);
  }

  const Error &error() const { return error_; }

 private:
  // ---- Errors and numbers ----

  void fail(const char *code, std::string message) {
    if (error_.code == nullptr) error_ = {code, std::move(message)};
  }

  void check(const char *wrong) {
    if (wrong != nullptr) fail("ERR_LILY_ARGUMENT", wrong);
  }

  bool failed() const { return error_.code != nullptr; }

  // Apart from the functions that find an error, which are small enough to be inlined then.
  [[gnu::cold, gnu::noinline]] void fail_field(int64_t field, const std::string &message) {
    const int64_t of_items = field - table_.field_count;
    if (of_items >= 0) field = table_.field_count + of_items % table_.item_field_count;
    fail("ERR_LILY_ARGUMENT", table_.fields[field] + message);
  }

  int64_t whole(int64_t field) {
    int64_t number = 0;
    if (!to_whole(source_.numbers[field], &number)) fail_field(field, " is not a whole number");
    return number;
  }

  int64_t whole(int64_t field, int64_t least, int64_t most) {
    const int64_t number = whole(field);
    if (number < least || number > most) fail_field(field, " must be from " + text(least) + " to " + text(most));
    return number;
  }

  int32_t choice(int64_t field) { return static_cast<int32_t>(whole(field, INT32_MIN, INT32_MAX)); }
  lily_stream stream() { return static_cast<lily_stream>(whole(placement_field::stream)); }

  // ---- Operands ----

  bool has(int64_t slot) const { return source_.memory[slot].data != nullptr; }

  // The place of a slot in is_read_: the items of a list share theirs.
  int64_t position(int64_t slot) const {
    const int64_t of_items = slot - table_.slot_count;
    return of_items < 0 ? slot : table_.slot_count + of_items % table_.item_slot_count;
  }

  // WebAssembly copies every operand that is given, so none may be unchecked.
  void check_all_read(int64_t first, int64_t count) {
    for (int64_t slot = first; slot < first + count && !failed(); ++slot) {
      if (has(slot) && !is_read_[position(slot)]) {
        fail("ERR_LILY_ARGUMENT", std::string(source_.slot(slot).name) + " is not an operand of such a call");
      }
      is_read_[position(slot)] = false;
    }
  }

  const double *numbers_of(int64_t slot) const { return source_.slot_numbers(slot); }

  bool has_type(type::Position type, int32_t dtype) const {
    switch (type) {
      case type::activation: return dtype == activation_dtype_;
      case type::parameter: return dtype == parameter_dtype_;
      case type::gradient: return dtype == parameter_dtype_ || dtype == LILY_FLOAT32;
      case type::hidden: return dtype == hidden_dtype_;
      case type::float32: return dtype == LILY_FLOAT32;
      case type::uint8: return dtype == kUint8;
      case type::int32: return dtype == kInt32;
      default: return dtype <= LILY_FLOAT16;
    }
  }

  lily_matrix matrix(int64_t slot) {
    if (failed()) return {};
    const Slot &row = source_.slot(slot);
    const Memory &memory = source_.memory[slot];
    if (memory.data == nullptr) {
      fail("ERR_LILY_ARGUMENT", std::string(row.name) + " is not given");
      return {};
    }
    if (memory.bytes < 0) {
      fail("ERR_LILY_ARGUMENT", std::string(row.name) + " is not a typed array");
      return {};
    }
    is_read_[position(slot)] = true;
    Extent found;
    if (!describe(row, numbers_of(slot), &found, &error_)) return {};
    const int64_t rows = sizes_[row.rows], columns = sizes_[row.columns];
    if (found.rows != rows || found.columns != columns) {
      fail("ERR_LILY_SHAPE", std::string(row.name) + " must have " + text(rows) + " rows of " + text(columns) +
                                 " elements, not " + text(found.rows) + " of " + text(found.columns));
    } else if (check_bytes(row.name, memory, found.offset, found.bytes, found.element_bytes, &error_) &&
               !has_type(row.type, found.dtype)) {
      fail("ERR_LILY_DTYPE", std::string(row.name) + " has another dtype than the call gives its operands");
    }
    // An address beside the operand may not exist.
    if (failed()) return {};
    return {
        .data = memory.data + found.offset,
        // The pitch of a single row has no meaning, and may be anything: the address of the next row must not overflow.
        .pitch = sizes_[source_.slot(slot).rows] == 1 ? columns : std::max(found.pitch, columns),
        .dtype = found.dtype,
        .accumulate = numbers_of(slot)[slot_field::access] == double{slot_access::add} ? 1 : 0,
    };
  }

  // Whether rows that consist of whole vectors of 16 bytes begin elsewhere: the workspace has room for a copy then.
  bool is_unaligned(const lily_matrix &rows, int64_t columns) const {
    const int64_t bytes = dtype_bytes(rows.dtype), vector = 16;
    return source_.backend != lily_cpu_backend() && columns * bytes % vector == 0 &&
           (reinterpret_cast<uintptr_t>(rows.data) % vector != 0 || rows.pitch * bytes % vector != 0);
  }

  lily_matrix matrix_if_given(int64_t slot) { return has(slot) ? matrix(slot) : lily_matrix{}; }

  // Rows one after the other.
  template <typename T = float>
  T *array(int64_t slot) {
    const lily_matrix found = matrix(slot);
    const Slot &row = source_.slot(slot);
    if (!failed() && sizes_[row.rows] > 1 && found.pitch != sizes_[row.columns]) {
      fail("ERR_LILY_SHAPE", std::string(row.name) + " must be contiguous");
    }
    return static_cast<T *>(found.data);
  }

  template <typename T = float>
  T *array_if_given(int64_t slot) {
    return has(slot) ? array<T>(slot) : nullptr;
  }

  // ---- Adapters ----

  lily_problem read_problem() {
    using namespace adapter_field;
    lily_problem problem = {};
    problem.tokens = whole(tokens);
    problem.d_in = whole(dIn);
    problem.d_out = whole(dOut);
    problem.rank = whole(rank);
    problem.experts = whole(experts);
    problem.groups = whole(groups);
    problem.routing = choice(routing);
    problem.pool = choice(pool);
    problem.activation = choice(activation);
    problem.precision = choice(precision);
    problem.activation_dtype = choice(activationDtype);
    problem.parameter_dtype = choice(parameterDtype);
    problem.scaling = static_cast<float>(source_.numbers[scaling]);
    problem.dropout = static_cast<uint32_t>(whole(dropout, 0, kDropoutSteps - 1));
    problem.device = source_.device;
    check(problem_error(problem));
    if (!failed()) set_sizes(problem);
    return problem;
  }

  void set_sizes(const lily_problem &problem) {
    const bool lora = problem.routing == LILY_ROUTING_NONE;
    activation_dtype_ = problem.activation_dtype;
    parameter_dtype_ = problem.parameter_dtype;
    hidden_dtype_ = hidden_dtype(problem);
    sizes_[size::tokens] = problem.tokens;
    sizes_[size::dIn] = problem.d_in;
    sizes_[size::dOut] = problem.d_out;
    sizes_[size::rank] = problem.rank;
    sizes_[size::experts] = problem.experts;
    sizes_[size::groups] = problem.groups;
    sizes_[size::offsets] = problem.groups + 1;
    sizes_[size::bRows] = lora ? problem.d_out : problem.experts * problem.rank;
    sizes_[size::bColumns] = lora ? problem.rank : problem.d_out;
    sizes_[size::partials] = deferred_partials(problem);
    sizes_[size::partial] = problem.rank * problem.d_out;
    sizes_[size::routerColumns] = router_columns(problem);
  }

  // Offsets in host memory. In device memory the kernels clamp what they read.
  void check_offsets(const lily_problem &problem, const int32_t *first) {
    if (failed() || source_.backend != lily_cpu_backend()) return;
    if (first[0] != 0 || first[problem.groups] != problem.tokens ||
        !std::is_sorted(first, first + problem.groups + 1)) {
      fail("ERR_LILY_ARGUMENT", "sequenceOffsets do not ascend from 0 to the number of tokens");
    }
  }

  // Mask, sequence offsets and draw.
  lily_tokens read_tokens(const lily_problem &problem, int mask, int offsets, int draw) {
    lily_tokens tokens = {};
    tokens.mask = array_if_given<uint8_t>(mask);
    if (problem.dropout > 0) tokens.draw = array<uint32_t>(draw);
    if (!may_have_groups(problem)) return tokens;
    if (!has(offsets) && problem.routing == LILY_ROUTING_FIXED && problem.groups == 1) return tokens;
    tokens.sequence_offsets = array<int32_t>(offsets);
    check_offsets(problem, tokens.sequence_offsets);
    return tokens;
  }

  void read_forward(lily_forward &call) {
    using namespace forward_slot;
    const lily_problem problem = call.problem = read_problem();
    call.stream = stream();
    call.tokens = read_tokens(problem, mask, sequenceOffsets, draw);
    if (call.tokens.sequence_offsets != nullptr) call.unchecked_offsets = array_if_given<int32_t>(uncheckedOffsets);
    call.x = matrix(x);
    call.y = matrix(y);
    read_parameters(call, {a, router, b, hidden, probabilities, weights});
  }

  // The slots of the parameters of a call, and of what it keeps.
  struct ParameterSlots {
    int64_t a, router, b, hidden, probabilities, weights;
  };

  void read_parameters(lily_forward &call, const ParameterSlots &of) {
    lily_problem &problem = call.problem;
    call.a = matrix(of.a);
    if (router_columns(problem) > 0) call.router = matrix(of.router);
    call.b = matrix(of.b);
    problem.unaligned = is_unaligned(call.x, problem.d_in) || is_unaligned(call.a, problem.d_in) ||
                        is_unaligned(call.b, sizes_[size::bColumns]);
    call.hidden = array_if_given<void>(of.hidden);
    if (keeps_probabilities(problem)) call.probabilities = array_if_given(of.probabilities);
    if (has_weights(problem)) {
      call.weights = problem.routing == LILY_ROUTING_FIXED ? array(of.weights) : array_if_given(of.weights);
    }
  }

  void read_backward(lily_backward &call) {
    using namespace backward_slot;
    const lily_problem problem = call.problem = read_problem();
    call.stream = stream();
    call.tokens = read_tokens(problem, mask, sequenceOffsets, draw);
    call.dy = matrix(dy);
    call.x = matrix(x);
    call.dx = matrix_if_given(dx);
    read_parameters(call, {a, router, b, hidden, probabilities, weights}, {da, dRouter, db});
    if (problem.routing == LILY_ROUTING_FIXED) call.d_weights = matrix_if_given(dWeights);
    if (!has(deferredDb)) return;
    if (problem.routing == LILY_ROUTING_NONE || has(db)) {
      fail("ERR_LILY_ARGUMENT", "deferredDb is for Lily, and without db");
    }
    call.deferred_db = array(deferredDb);
  }

  struct GradientSlots {
    int64_t da, d_router, db;
  };

  void read_parameters(lily_backward &call, const ParameterSlots &of, const GradientSlots &to) {
    lily_problem &problem = call.problem;
    call.a = matrix(of.a);
    call.b = matrix(of.b);
    call.hidden = array<void>(of.hidden);
    problem.unaligned = is_unaligned(call.dy, problem.d_out) || is_unaligned(call.x, problem.d_in) ||
                        is_unaligned(call.a, problem.d_in) || is_unaligned(call.b, sizes_[size::bColumns]) ||
                        is_unaligned({const_cast<void *>(call.hidden), problem.rank, hidden_dtype_, 0}, problem.rank);
    call.da = matrix_if_given(to.da);
    if (router_columns(problem) > 0) {
      call.router = matrix(of.router);
      call.d_router = matrix_if_given(to.d_router);
    }
    if (keeps_probabilities(problem)) call.probabilities = array(of.probabilities);
    if (has_weights(problem)) call.weights = array(of.weights);
    call.db = matrix_if_given(to.db);
  }

  // ---- Calls over disjoint rows ----

  // The problem that the calls of a list have in common; its tokens are all rows, and its rank belongs to no call.
  lily_problem read_rows_problem() {
    using namespace rows_field;
    lily_problem problem = {};
    problem.tokens = whole(tokens);
    problem.d_in = whole(dIn);
    problem.d_out = whole(dOut);
    problem.rank = problem.experts = problem.groups = 1;
    problem.routing = LILY_ROUTING_NONE;
    problem.precision = choice(precision);
    problem.activation_dtype = choice(activationDtype);
    problem.parameter_dtype = choice(parameterDtype);
    problem.device = source_.device;
    check(problem_error(problem));
    if (failed()) return problem;
    set_sizes(problem);
    sizes_[size::listed] = whole(listed, 0, problem.tokens);
    sizes_[size::indices] = whole(indices, problem.tokens, kMaxStep);
    return problem;
  }

  // The operand `index` and what has one element for each listed row.
  struct Rows {
    lily_problem problem;
    const int32_t *index;
    const uint8_t *mask;
    const float *scale;
    int64_t rest_count;
    int64_t listed = 0, offsets = 0;   // how many of each the calls read so far have
    std::vector<bool> is_listed = {};  // by row
  };

  Rows read_rows(const lily_problem &problem, int index, int mask, int scale) {
    return {.problem = problem,
            .index = array<int32_t>(index),
            .mask = array_if_given<uint8_t>(mask),
            .scale = array_if_given(scale),
            .rest_count = problem.tokens - sizes_[size::listed]};
  }

  // One row of the index on the host: every row is there once.
  bool take_row(Rows &rows, int32_t row) {
    if (row < 0 || row >= rows.problem.tokens || rows.is_listed[static_cast<size_t>(row)]) return false;
    rows.is_listed[static_cast<size_t>(row)] = true;
    return true;
  }

  // Where the rows of a call begin, and its tokens. `fields`: the first of the fields of this call.
  int64_t read_call_rows(Rows &rows, int64_t fields, lily_problem &problem, lily_tokens &tokens) {
    using namespace rows_item_field;
    problem = rows.problem;
    problem.routing = choice(fields + routing);
    problem.pool = choice(fields + pool);
    problem.activation = choice(fields + activation);
    problem.rank = whole(fields + rank);
    problem.experts = whole(fields + experts);
    problem.groups = whole(fields + groups);
    problem.scaling = static_cast<float>(source_.numbers[fields + scaling]);
    problem.tokens = whole(fields + count, 0, sizes_[size::listed] - rows.listed);
    const int64_t begin = whole(fields + first, -1, rows.problem.tokens - problem.tokens);
    check(problem_error(problem));
    if (failed()) return 0;
    set_sizes(problem);

    const int32_t *const listed = rows.index + rows.listed;
    if (begin < 0 && problem.tokens > 0) tokens.rows = listed;
    const bool pools = has_router(problem) && problem.routing != LILY_ROUTING_TOKEN;
    if (rows.mask != nullptr && pools) tokens.mask = rows.mask + rows.listed;
    if (rows.scale != nullptr) tokens.scale = rows.scale + rows.listed;
    rows.listed += problem.tokens;
    if (problem.routing == LILY_ROUTING_SEQUENCE || problem.groups != 1) {
      const int64_t at = sizes_[size::listed] + rows.offsets;
      rows.offsets += problem.groups + 1;
      if (sizes_[size::listed] + rows.offsets + rows.rest_count > sizes_[size::indices]) {
        fail("ERR_LILY_ARGUMENT", "index has no room for the sequences of its calls");
        return 0;
      }
      tokens.sequence_offsets = rows.index + at;
      check_offsets(problem, tokens.sequence_offsets);
    }
    if (source_.backend != lily_cpu_backend()) return std::max<int64_t>(begin, 0);
    for (int64_t t = 0; t < problem.tokens && !failed(); ++t) {
      if (!take_row(rows, listed[t])) {
        fail("ERR_LILY_ARGUMENT", "index must have each row once");
      } else if (begin >= 0 ? listed[t] != begin + t : t > 0 && listed[t] < listed[t - 1]) {
        fail("ERR_LILY_ARGUMENT",
             begin >= 0 ? "index does not have the rows from first on" : "the rows of a call do not ascend in index");
      }
    }
    return std::max<int64_t>(begin, 0);
  }

  // The rows that no call has.
  const int32_t *read_rest(Rows &rows) {
    if (failed()) return nullptr;
    if (rows.listed != sizes_[size::listed]) fail("ERR_LILY_ARGUMENT", "the calls do not have the listed rows");
    const int64_t used = rows.listed + rows.offsets;
    if (used + rows.rest_count != sizes_[size::indices]) {
      fail("ERR_LILY_ARGUMENT", "indices must be " + text(used + rows.rest_count));
    }
    if (failed()) return nullptr;
    const int32_t *const rest = rows.index + used;
    if (source_.backend != lily_cpu_backend()) return rest;
    for (int64_t i = 0; i < rows.rest_count && !failed(); ++i) {
      if (!take_row(rows, rest[i])) fail("ERR_LILY_ARGUMENT", "index must have each row once");
    }
    return rest;
  }

  // The rows from `begin` on.
  static lily_matrix rows_from(lily_matrix all, int64_t begin) {
    if (begin > 0) all.data = static_cast<char *>(all.data) + begin * all.pitch * dtype_bytes(all.dtype);
    return all;
  }

  // Reads what lists of both directions have in common, and the calls of the list. `read` completes each call from the
  // row where it begins and its first slot.
  template <typename List, typename Item, typename Read>
  void read_list(List &list, std::vector<Item> &calls, Rows &rows, Read read) {
    if (failed()) return;
    if (source_.backend == lily_cpu_backend()) rows.is_listed.resize(static_cast<size_t>(rows.problem.tokens));
    list.tokens = rows.problem.tokens;
    list.d_in = rows.problem.d_in;
    list.d_out = rows.problem.d_out;
    list.device = source_.device;
    list.stream = stream();
    list.rest_count = rows.rest_count;
    list.count = item_count();
    calls.assign(static_cast<size_t>(list.count), {});
    for (int64_t i = 0; i < list.count && !failed(); ++i) {
      Item &call = calls[static_cast<size_t>(i)];
      const int64_t begin =
          read_call_rows(rows, table_.field_count + i * table_.item_field_count, call.problem, call.tokens);
      if (failed()) return;
      call.stream = list.stream;
      const int64_t slot = table_.slot_count + i * table_.item_slot_count;
      read(call, begin, slot);
      check_all_read(slot, table_.item_slot_count);
    }
    list.calls = calls.data();
    list.rest = read_rest(rows);
  }

  void read_forward_rows(lily_forward_rows &list, std::vector<lily_forward> &calls) {
    using namespace forward_rows_slot;
    const lily_problem problem = read_rows_problem();
    list.x = matrix(x);
    list.y = matrix(y);
    Rows rows = read_rows(problem, index, mask, scale);
    read_list(list, calls, rows, [&](lily_forward &call, int64_t begin, int64_t slot) {
      using namespace forward_rows_item_slot;
      call.x = rows_from(list.x, begin);
      call.y = rows_from(list.y, begin);
      read_parameters(call, {slot + a, slot + router, slot + b, slot + hidden, slot + probabilities, slot + weights});
    });
  }

  void read_backward_rows(lily_backward_rows &list, std::vector<lily_backward> &calls) {
    using namespace backward_rows_slot;
    const lily_problem problem = read_rows_problem();
    list.dy = matrix(dy);
    list.x = matrix(x);
    list.dx = matrix_if_given(dx);
    Rows rows = read_rows(problem, index, mask, scale);
    read_list(list, calls, rows, [&](lily_backward &call, int64_t begin, int64_t slot) {
      using namespace backward_rows_item_slot;
      call.dy = rows_from(list.dy, begin);
      call.x = rows_from(list.x, begin);
      call.dx = rows_from(list.dx, begin);
      read_parameters(call, {slot + a, slot + router, slot + b, slot + hidden, slot + probabilities, slot + weights},
                      {slot + da, slot + dRouter, slot + db});
    });
  }

  // ---- Frozen linear layers ----

  void read_weight(lily_linear &call, int slot) {
    using namespace linear_field;
    lily_linear_problem &problem = call.problem;
    problem.tokens = whole(tokens);
    problem.d_in = whole(dIn);
    problem.d_out = whole(dOut);
    problem.transposed = choice(transposed);
    problem.precision = choice(precision);
    problem.activation_dtype = choice(activationDtype);
    problem.parameter_dtype = choice(parameterDtype);
    problem.device = source_.device;
    call.stream = stream();
    check(problem_error(problem));
    activation_dtype_ = problem.activation_dtype;
    parameter_dtype_ = problem.parameter_dtype;
    sizes_[size::tokens] = problem.tokens;
    sizes_[size::dIn] = problem.d_in;
    sizes_[size::dOut] = problem.d_out;
    sizes_[size::depth] = problem.transposed != 0 ? problem.d_out : problem.d_in;
    sizes_[size::width] = problem.transposed != 0 ? problem.d_in : problem.d_out;
    call.weight = matrix(slot);
  }

  // The weight has been read, so that the size does not overflow.
  size_t packed_bytes(const lily_linear_problem &problem) {
    size_t bytes = 0;
    if (failed()) return bytes;
    if (const lily_status status = source_.backend->linear_packed_bytes(&problem, &bytes)) {
      fail(error_code(status), source_.backend->last_error());
    }
    return bytes;
  }

  void *read_packed(const lily_linear_problem &problem, int slot) {
    sizes_[size::packed] = static_cast<int64_t>(packed_bytes(problem) / sizeof(float));
    return array<void>(slot);
  }

  void read_linear(lily_linear &call) {
    using namespace linear_slot;
    read_weight(call, weight);
    if (has(packed)) call.packed = read_packed(call.problem, packed);
    call.x = matrix(x);
    call.problem.unaligned = is_unaligned(call.x, sizes_[size::depth]) || is_unaligned(call.weight, call.problem.d_in);
    call.bias = matrix_if_given(bias);
    // The cpu backend adds it in both directions: the product of a weight that is stored as W^T is the transposed one.
    if (has(bias) && source_.backend != lily_cpu_backend() && call.problem.transposed != 0) {
      fail("ERR_LILY_ARGUMENT", "bias is for the forward direction on a device");
    }
    call.y = matrix(y);
  }

  void read_pack(lily_linear &call) {
    read_weight(call, pack_slot::weight);
    call.packed = read_packed(call.problem, pack_slot::packed);
  }

  // ---- Batched matrix products ----

  // The number of rows of batches of matrices; 0 after an error.
  int64_t row_count(int64_t outer, int64_t inner, int64_t rows) {
    int64_t count = 0;
    if (__builtin_mul_overflow(outer, inner, &count) || __builtin_mul_overflow(count, rows, &count) ||
        count > kMaxBytes) {
      fail("ERR_LILY_SHAPE", "no operand has " + text(outer) + " x " + text(inner) + " x " + text(rows) + " rows");
      return 0;
    }
    return count;
  }

  void read_matmul(lily_matmul &call) {
    using namespace matmul_field;
    if (source_.backend != lily_cpu_backend())
      return fail("ERR_LILY_DEVICE", "only the cpu backend multiplies matrices");
    lily_matmul_problem &problem = call.problem;
    problem.outer = whole(outer, 0, kMaxDimension);
    problem.inner = whole(inner, 0, kMaxDimension);
    problem.m = whole(m, 0, kMaxDimension);
    problem.k = whole(k, 0, kMaxDimension);
    problem.n = whole(n, 0, kMaxDimension);
    problem.transpose_a = static_cast<int32_t>(whole(transposeA, 0, 1));
    problem.transpose_b = static_cast<int32_t>(whole(transposeB, 0, 1));
    problem.precision = static_cast<int32_t>(whole(precision, LILY_PRECISION_DEFAULT, LILY_PRECISION_TF32));
    problem.dtype = activation_dtype_ = static_cast<int32_t>(whole(activationDtype, LILY_FLOAT32, LILY_FLOAT16));
    const bool a_outer = whole(aOuter, 0, 1) != 0, a_inner = whole(aInner, 0, 1) != 0;
    const bool b_outer = whole(bOuter, 0, 1) != 0, b_inner = whole(bInner, 0, 1) != 0;
    if (failed()) return;
    const int64_t a_rows = problem.transpose_a != 0 ? problem.k : problem.m;
    const int64_t b_rows = problem.transpose_b != 0 ? problem.n : problem.k;
    const int64_t a_count = a_inner ? problem.inner : 1, b_count = b_inner ? problem.inner : 1;
    sizes_[size::rows] = row_count(problem.outer, problem.inner, problem.m);
    sizes_[size::width] = problem.n;
    sizes_[size::aRows] = row_count(a_outer ? problem.outer : 1, a_count, a_rows);
    sizes_[size::aColumns] = problem.transpose_a != 0 ? problem.m : problem.k;
    sizes_[size::bRows] = row_count(b_outer ? problem.outer : 1, b_count, b_rows);
    sizes_[size::bColumns] = problem.transpose_b != 0 ? problem.k : problem.n;
    call.a = matrix(matmul_slot::a);
    call.b = matrix(matmul_slot::b);
    call.bias = matrix_if_given(matmul_slot::bias);
    call.y = matrix(matmul_slot::y);
    call.a_strides[0] = a_outer ? a_count * a_rows * call.a.pitch : 0;
    call.a_strides[1] = a_inner ? a_rows * call.a.pitch : 0;
    call.b_strides[0] = b_outer ? b_count * b_rows * call.b.pitch : 0;
    call.b_strides[1] = b_inner ? b_rows * call.b.pitch : 0;
  }

  // ---- Functions of each element ----

  void read_elementwise(lily_elementwise &call) {
    using namespace elementwise_field;
    if (source_.backend != lily_cpu_backend())
      return fail("ERR_LILY_DEVICE", "only the cpu backend computes functions of elements");
    call.function = static_cast<int32_t>(whole(function, LILY_ELEMENTWISE_ADD, LILY_ELEMENTWISE_ROW_SUM));
    call.rows = whole(m, 0, kMaxDimension);
    call.columns = whole(n, 0, kMaxDimension);
    call.scale = static_cast<float>(source_.numbers[scale]);
    const bool a_rows = whole(aRows, 0, 1) != 0, a_columns = whole(aColumns, 0, 1) != 0;
    const bool b_rows = whole(bRows, 0, 1) != 0, b_columns = whole(bColumns, 0, 1) != 0;
    if (failed()) return;
    const bool sums = call.function == LILY_ELEMENTWISE_ROW_SUM;
    if (sums && !(a_rows && a_columns)) return fail("ERR_LILY_ARGUMENT", "a of sums has all rows and columns");
    sizes_[size::rows] = call.rows;
    sizes_[size::width] = sums ? 1 : call.columns;
    sizes_[size::aRows] = a_rows ? call.rows : 1;
    sizes_[size::aColumns] = a_columns ? call.columns : 1;
    sizes_[size::bRows] = b_rows ? call.rows : 1;
    sizes_[size::bColumns] = b_columns ? call.columns : 1;
    call.a = matrix(elementwise_slot::a);
    if (call.function < LILY_ELEMENTWISE_SIGMOID) call.b = matrix(elementwise_slot::b);
    call.y = matrix(elementwise_slot::y);
    if (call.y.accumulate != 0) fail("ERR_LILY_ARGUMENT", "y of elements is overwritten");
    if (!a_rows) call.a.pitch = 0;
    if (!b_rows) call.b.pitch = 0;
    call.a_repeats = a_columns ? 0 : 1;
    call.b_repeats = b_columns ? 0 : 1;
  }

  // ---- Attention ----

  lily_cpu_attention_problem read_attention_problem() {
    using namespace attention_field;
    lily_cpu_attention_problem problem = {};
    if (source_.backend != lily_cpu_backend()) fail("ERR_LILY_DEVICE", "only the cpu backend computes attention");
    problem.batch = whole(batch, 0, kMaxCount);
    problem.tokens = whole(tokens, 0, kMaxCount);
    problem.keys = whole(keys, 0, kMaxCount);
    problem.heads = whole(heads, 1, kMaxCount);
    problem.d_head = whole(dHead, 1, kMaxCount);
    problem.scale = static_cast<float>(source_.numbers[scale]);
    problem.causal = static_cast<int32_t>(whole(causal, 0, 1));
    if (failed()) return problem;
    activation_dtype_ = LILY_FLOAT32;
    sizes_[size::batch] = problem.batch;
    sizes_[size::keys] = problem.keys;
    sizes_[size::queryRows] = problem.batch * problem.tokens;
    sizes_[size::keyRows] = problem.batch * problem.keys;
    sizes_[size::headColumns] = problem.heads * problem.d_head;
    sizes_[size::headRows] = problem.batch * problem.heads;
    sizes_[size::statistics] = 2 * problem.tokens;
    return problem;
  }

  void read_attention(lily_cpu_attention &call) {
    using namespace attention_slot;
    call.problem = read_attention_problem();
    call.q = matrix(q);
    call.k = matrix(k);
    call.v = matrix(v);
    call.mask = array_if_given<uint8_t>(mask);
    call.y = matrix(y);
    call.statistics = array_if_given(statistics);
  }

  void read_attention_backward(lily_cpu_attention_backward &call) {
    using namespace attention_backward_slot;
    call.problem = read_attention_problem();
    call.dy = matrix(dy);
    call.q = matrix(q);
    call.k = matrix(k);
    call.v = matrix(v);
    call.mask = array_if_given<uint8_t>(mask);
    call.y = matrix(y);
    call.statistics = array(statistics);
    call.dq = matrix_if_given(dq);
    call.dk = matrix_if_given(dk);
    call.dv = matrix_if_given(dv);
  }

  // ---- Lists ----

  int64_t item_count() const { return (source_.memory_count - table_.slot_count) / table_.item_slot_count; }

  void read_fold(lily_fold &call, std::vector<lily_deferred> &layers) {
    using namespace fold_field;
    call.rank = whole(rank);
    call.experts = whole(experts);
    call.d_out = whole(dOut);
    call.device = source_.device;
    call.stream = stream();
    check(stack_error(call.rank, call.experts, call.d_out));
    if (failed()) return;
    sizes_[size::experts] = call.experts;
    sizes_[size::bRows] = call.experts * call.rank;
    sizes_[size::bColumns] = call.d_out;
    sizes_[size::partial] = call.rank * call.d_out;
    call.db = matrix(fold_slot::db);
    layers.resize(static_cast<size_t>(item_count()));
    for (int64_t i = 0; i < item_count() && !failed(); ++i) {
      const int64_t first = fold_slot::kCount + i * fold_item_slot::kCount;
      const int64_t partials = first + fold_item_slot::partials, weights = first + fold_item_slot::weights;
      int64_t count = -1;
      to_whole(numbers_of(partials)[slot_field::rows], &count);
      if (count < 0 || count > kMaxExperts || (!has(weights) && count != call.experts)) {
        fail("ERR_LILY_ARGUMENT", "the number of partials does not match the weights and experts");
      }
      sizes_[size::partials] = count;
      layers[static_cast<size_t>(i)] = {
          .partial = array(partials), .weights = array_if_given(weights), .groups = count};
    }
    call.layers = layers.data();
    call.layer_count = item_count();
  }

  void read_draw(lily_draw &call) {
    if (source_.backend->draw == nullptr) return fail("ERR_LILY_DEVICE", "this backend takes no draws");
    call.state = array<uint32_t>(draw_slot::state);
    call.draw = array<uint32_t>(draw_slot::draw);
    call.device = source_.device;
    call.stream = stream();
  }

  void read_adamw(lily_adamw &call, std::vector<lily_adamw_parameter> &parameters) {
    using namespace adamw_field;
    call.beta1 = source_.numbers[beta1];
    call.beta2 = source_.numbers[beta2];
    call.eps = source_.numbers[eps];
    call.step = whole(step, 1, kMaxStep);
    call.max_norm = static_cast<float>(source_.numbers[maxNorm]);
    call.norm = array_if_given(adamw_slot::norm);
    call.skipped = array_if_given(adamw_slot::skipped);
    call.device = source_.device;
    call.stream = stream();
    parameters.resize(static_cast<size_t>(item_count()));
    for (int64_t i = 0; i < item_count() && !failed(); ++i) {
      const int64_t first = adamw_slot::kCount + i * adamw_item_slot::kCount;
      const double *const fields = source_.numbers + adamw_field::kCount + i * adamw_item_field::kCount;
      int64_t count = 0;
      to_whole(numbers_of(first + adamw_item_slot::value)[slot_field::columns], &count);
      sizes_[size::elements] = count;
      const lily_matrix value = matrix(first + adamw_item_slot::value), grad = matrix(first + adamw_item_slot::grad);
      if (grad.dtype != value.dtype && grad.dtype != LILY_FLOAT32) {
        fail("ERR_LILY_DTYPE", "a gradient has its value's dtype or float32");
      }
      parameters[static_cast<size_t>(i)] = {
          .value = value.data,
          .grad = grad.data,
          .exp_avg = array(first + adamw_item_slot::expAvg),
          .exp_avg_sq = array(first + adamw_item_slot::expAvgSq),
          .count = count,
          .value_dtype = value.dtype,
          .grad_dtype = grad.dtype,
          .lr = fields[adamw_item_field::lr],
          .weight_decay = fields[adamw_item_field::weightDecay],
      };
    }
    call.parameters = parameters.data();
    call.parameter_count = item_count();
  }

  const Source &source_;
  const Table &table_;
  int64_t sizes_[size::kCount] = {};
  // Whether the call, or its item, has read these slots.
  bool is_read_[most_slots()] = {};
  int32_t activation_dtype_ = 0, parameter_dtype_ = 0, hidden_dtype_ = 0;
  Error error_;
};

}  // namespace

const Table *table_of(double operation, int64_t memory_count, int64_t *number_count) {
  int64_t index = -1;
  if (!to_whole(operation, &index) || index < 0 || index >= operation::kCount) return nullptr;
  const Table &table = kTables[index];
  const int64_t rest = memory_count - table.slot_count;
  if (rest < 0 || (table.item_slot_count == 0 ? rest != 0 : rest % table.item_slot_count != 0)) return nullptr;
  const int64_t items = table.item_slot_count == 0 ? 0 : rest / table.item_slot_count;
  *number_count = table.field_count + items * table.item_field_count + memory_count * slot_field::kCount;
  return &table;
}

bool find_extent(const Slot &slot, const double *numbers, int64_t *offset, int64_t *bytes, Error *error) {
  Extent extent = {};
  if (!describe(slot, numbers, &extent, error)) return false;
  *offset = extent.offset;
  *bytes = extent.bytes;
  return true;
}

bool check_bytes(const char *name, const Memory &memory, int64_t offset, int64_t bytes, int64_t alignment,
                 Error *error) {
  if (bytes < 0 || offset < 0 || offset > memory.bytes || bytes > memory.bytes - offset) {
    *error = {"ERR_LILY_SHAPE", std::string(name) + " has no " + text(bytes) + " bytes from offset " + text(offset) +
                                    ": it has " + text(memory.bytes)};
    return false;
  }
  if (reinterpret_cast<uintptr_t>(memory.data + offset) % static_cast<uintptr_t>(alignment) != 0) {
    *error = {"ERR_LILY_ARGUMENT", std::string(name) + " must begin at a multiple of " + text(alignment) + " bytes"};
    return false;
  }
  return true;
}

Error read_call(const Source &source, Call *call, Lists *lists) {
  Reader reader(source);
  reader.read(call, lists);
  return reader.error();
}

Error read_packed_bytes(const Source &source, size_t *bytes) {
  Reader reader(source);
  *bytes = reader.read_packed_bytes();
  return reader.error();
}

const char *error_code(lily_status status) {
  switch (status) {
    case LILY_ERROR_UNAVAILABLE: return "ERR_LILY_BACKEND_UNAVAILABLE";
    case LILY_ERROR_OUT_OF_MEMORY: return "ERR_LILY_OUT_OF_MEMORY";
    case LILY_ERROR_DEVICE: return "ERR_LILY_CUDA";
    default: return "ERR_LILY_ARGUMENT";
  }
}

}  // namespace lily::binding
