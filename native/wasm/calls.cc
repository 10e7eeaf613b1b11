// Calls of the module: JavaScript writes their numbers and operands to its memory.
#include "binding/reader.h"
#include "lily/cpu.h"
#include "wasm/module.h"

using namespace lily::binding;

namespace {

Error error;
Lists lists;

const char *report(Error found) {
  error = std::move(found);
  return error.code;
}

// Calls `read` with a source whose numbers exist.
template <typename Read>
const char *with_source(const double *numbers, int32_t number_count, const Memory *memory, int32_t memory_count,
                        Read read) {
  int64_t needed = 1;
  const Table *const table =
      number_count < 1 ? nullptr : table_of(numbers[placement_field::operation], memory_count, &needed);
  if (table == nullptr && number_count >= 1) {
    return report(
        {"ERR_LILY_ARGUMENT", "the descriptor is of no operation with " + std::to_string(memory_count) + " operands"});
  }
  // JavaScript finds the numbers of an operand from their end.
  if (number_count != needed) {
    return report({"ERR_LILY_ARGUMENT", "the descriptor must have " + std::to_string(needed) + " numbers"});
  }
  if (numbers[placement_field::backend] != 0.0 || numbers[placement_field::device] != 0.0) {
    return report({"ERR_LILY_BACKEND_UNAVAILABLE", "on WebAssembly there is only the cpu backend, with device 0"});
  }
  const double *const slots = numbers + needed - memory_count * slot_field::kCount;
  return report(read(Source{table, numbers, slots, memory, memory_count, lily_cpu_backend(), 0}));
}

}  // namespace

const char *lily_wasm_signature() { return kSignature; }

size_t lily_wasm_call_bytes() { return sizeof(Call); }

const char *lily_wasm_read(const double *numbers, int32_t number_count, const Memory *memory, int32_t memory_count,
                           Call *call) {
  return with_source(numbers, number_count, memory, memory_count,
                     [&](const Source &source) { return read_call(source, call, &lists); });
}

const char *lily_wasm_packed_bytes(const double *numbers, int32_t number_count, const Memory *memory,
                                   int32_t memory_count, size_t *bytes) {
  return with_source(numbers, number_count, memory, memory_count,
                     [&](const Source &source) { return read_packed_bytes(source, bytes); });
}

const char *lily_wasm_message() { return error.message.c_str(); }

lily_status lily_wasm_workspace_bytes(const Call *call, size_t *bytes) { return call->workspace_bytes(bytes); }

void lily_wasm_give_workspace(Call *call, void *workspace, size_t bytes) { call->give_workspace(workspace, bytes); }

lily_status lily_wasm_run(const Call *call) { return call->run(); }

const char *lily_wasm_last_error() { return lily_cpu_backend()->last_error(); }

lily_status lily_wasm_ready() { return lily_cpu_backend()->device_ready(0); }

lily_status lily_wasm_measure_roof(int32_t roof, size_t bytes, double *rate) {
  return lily_cpu_backend()->measure_roof(0, roof, bytes, rate);
}
