// From the numbers and the memory of a call to the structs of the C ABI, with every number, size, type, alignment and
// byte length checked: a mistake in lib/ becomes an error here and never an access out of bounds. It is compiled into
// the addon and into the WebAssembly module.
#pragma once

#include "binding/call.h"

namespace lily::binding {

// No operand has more bytes: more than the address space of any processor. Products of sizes that pass this limit fit
// into an int64.
constexpr int64_t kMaxBytes = int64_t{1} << 48;

// A call as it is written down. Nothing here changes while it is read.
struct Source {
  const Table *table;
  const double *numbers;
  // The fields of the operands, and their memory: one for each slot.
  const double *slots;
  const Memory *memory;
  int64_t memory_count;
  // Backend and device as the numbers name them; both exist.
  const lily_backend *backend;
  int32_t device;

  const Slot &slot(int64_t index) const {
    if (index < table->slot_count) return table->slots[index];
    return table->item_slots[(index - table->slot_count) % table->item_slot_count];
  }
  const double *slot_numbers(int64_t index) const { return slots + index * slot_field::kCount; }
};

// Whole numbers of a double: up to 2^53.
inline bool to_whole(double number, int64_t *whole) {
  constexpr double kLimit = 9007199254740992.0;
  if (!(number >= -kLimit && number <= kLimit)) return false;
  *whole = static_cast<int64_t>(number);
  return static_cast<double>(*whole) == number;
}

// The table of an operation with so many operands, and how many numbers such a call has. Null: there is none.
const Table *table_of(double operation, int64_t memory_count, int64_t *number_count);

// Whether an operand is given.
inline bool is_given(const double *slot_numbers) {
  return slot_numbers[slot_field::access] != double{slot_access::none};
}

// The bytes of an operand from `offset` on. False: they are wrong; `error` says how.
bool find_extent(const Slot &slot, const double *numbers, int64_t *offset, int64_t *bytes, Error *error);

// Whether `bytes` bytes from `offset` on are in memory, and begin at a multiple of `alignment`.
bool check_bytes(const char *name, const Memory &memory, int64_t offset, int64_t bytes, int64_t alignment,
                 Error *error);

// The code of the error of a status that is not LILY_OK.
const char *error_code(lily_status status);

// Reads a call that has as many numbers as table_of says. `lists` must outlive it.
Error read_call(const Source &source, Call *call, Lists *lists);

// The size of the packed form of the weight of a call of `pack`, whose `packed` is not read; 0: there is none.
Error read_packed_bytes(const Source &source, size_t *bytes);

}  // namespace lily::binding
