// How a call is written down: the numbers and the operands that lib/ passes to the binding, and in which order. This
// file has the only list of them. The preprocessor makes the enumerators and the tables from it, and
// scripts/generate-slots.js writes lib/binding/slots.ts: run that script after a change here. lib/ compares the text of
// the lists when it loads the addon.
//
// The numbers of a call are its fields, then the fields of each item of its list (a parameter of AdamW, a call of a
// list of calls), then the fields of each operand, slot by slot; the slots of the items of a list (layers of a fold,
// parameters, calls) follow the others. The operands are passed in the same order.
#pragma once

#include <stdint.h>

#include "lily/backend.h"

namespace lily::binding {

// clang-format off

// Numbers that every call begins with. The call runs in `stream`; its workspace belongs to `memoryStream`, a stream of the
// package.
#define LILY_PLACEMENT_FIELDS(X)   \
  X(operation)                     \
  X(backend)                       \
  X(device)                        \
  X(stream)                        \
  X(memoryStream)

// Numbers of a forward or backward call.
#define LILY_ADAPTER_FIELDS(X)   \
  LILY_PLACEMENT_FIELDS(X)       \
  X(routing)                     \
  X(pool)                        \
  X(activation)                  \
  X(precision)                   \
  X(activationDtype)             \
  X(parameterDtype)              \
  X(tokens)                      \
  X(dIn)                         \
  X(dOut)                        \
  X(rank)                        \
  X(experts)                     \
  X(groups)                      \
  X(scaling)                     \
  X(dropout)

// Numbers of calls over disjoint rows of one x: many adapters in one call. x has `tokens` rows, `listed` of them
// belong to the calls, and the operand `index` has `indices` elements.
#define LILY_ROWS_FIELDS(X)   \
  LILY_PLACEMENT_FIELDS(X)    \
  X(precision)                \
  X(activationDtype)          \
  X(parameterDtype)           \
  X(tokens)                   \
  X(dIn)                      \
  X(dOut)                     \
  X(listed)                   \
  X(indices)

// Numbers of one of these calls. Its `count` rows begin at `first`, or, if `first` is -1, the operand `index` lists them.
#define LILY_ROWS_ITEM_FIELDS(X)   \
  X(routing)                       \
  X(pool)                          \
  X(activation)                    \
  X(rank)                          \
  X(experts)                       \
  X(groups)                        \
  X(scaling)                       \
  X(count)                         \
  X(first)

// Numbers of a call of a frozen linear layer, and of the packing of its weight.
#define LILY_LINEAR_FIELDS(X)   \
  LILY_PLACEMENT_FIELDS(X)      \
  X(transposed)                 \
  X(precision)                  \
  X(activationDtype)            \
  X(parameterDtype)             \
  X(tokens)                     \
  X(dIn)                        \
  X(dOut)

// Numbers of a batched matrix product: a has matrices along the outer batches if aOuter is 1, and one if it is 0; and so on.
#define LILY_MATMUL_FIELDS(X)   \
  LILY_PLACEMENT_FIELDS(X)      \
  X(outer)                      \
  X(inner)                      \
  X(aOuter)                     \
  X(aInner)                     \
  X(bOuter)                     \
  X(bInner)                     \
  X(m)                          \
  X(k)                          \
  X(n)                          \
  X(transposeA)                 \
  X(transposeB)                 \
  X(precision)                  \
  X(activationDtype)

// Numbers of attention, forward and backward.
#define LILY_ATTENTION_FIELDS(X)   \
  LILY_PLACEMENT_FIELDS(X)         \
  X(batch)                         \
  X(tokens)                        \
  X(keys)                          \
  X(heads)                         \
  X(dHead)                         \
  X(scale)                         \
  X(causal)

// Numbers of a function of m x n elements: a has m rows if aRows is 1, and one if it is 0; and so on.
#define LILY_ELEMENTWISE_FIELDS(X)   \
  LILY_PLACEMENT_FIELDS(X)           \
  X(function)                        \
  X(m)                               \
  X(n)                               \
  X(aRows)                           \
  X(aColumns)                        \
  X(bRows)                           \
  X(bColumns)                        \
  X(scale)

// Numbers of a fold.
#define LILY_FOLD_FIELDS(X)   \
  LILY_PLACEMENT_FIELDS(X)    \
  X(dOut)                     \
  X(rank)                     \
  X(experts)

// Numbers of a step of AdamW.
#define LILY_ADAMW_FIELDS(X)   \
  LILY_PLACEMENT_FIELDS(X)     \
  X(step)                      \
  X(beta1)                     \
  X(beta2)                     \
  X(eps)                       \
  X(maxNorm)

// Numbers of one parameter.
#define LILY_ADAMW_ITEM_FIELDS(X)   \
  X(lr)                             \
  X(weightDecay)

// Numbers of one operand: rows x columns elements, `pitch` of them from one row to the next.
#define LILY_SLOT_FIELDS(X)   \
  X(byteOffset)               \
  X(rows)                     \
  X(columns)                  \
  X(pitch)                    \
  X(dtype)                    \
  X(access)

// What a call does with an operand. `none`: it is not given. `add`: the call adds to the old contents.
#define LILY_ACCESSES(X)   \
  X(none)                  \
  X(read)                  \
  X(write)                 \
  X(add)

// Operands: name, rows, columns, kind of type, and what the call does with it: `read`; `output`, write or add; `update`, read
// or add, as the problem says; or `copy`, read: kernels take addresses from it, so that on the host the binding copies it
// before it is checked. At most one operand of a call is copied.

// The parameters of an adapter, what forward keeps of it for backward, and the gradients.
#define LILY_PARAMETER_SLOTS(X)                              \
  X(a, rank, dIn, parameter, read)                           \
  X(router, experts, routerColumns, parameter, read)         \
  X(b, bRows, bColumns, parameter, read)

#define LILY_KEPT_OUTPUT_SLOTS(X)                            \
  X(hidden, tokens, rank, hidden, output)                    \
  X(probabilities, tokens, experts, float32, output)         \
  X(weights, groups, experts, float32, update)

#define LILY_KEPT_SLOTS(X)                                   \
  X(hidden, tokens, rank, hidden, read)                      \
  X(probabilities, tokens, experts, float32, read)           \
  X(weights, groups, experts, float32, read)

#define LILY_GRADIENT_SLOTS(X)                               \
  X(da, rank, dIn, gradient, output)                         \
  X(dRouter, experts, routerColumns, gradient, output)       \
  X(db, bRows, bColumns, gradient, output)

#define LILY_FORWARD_SLOTS(X)                                \
  X(x, tokens, dIn, activation, read)                        \
  LILY_PARAMETER_SLOTS(X)                                    \
  X(y, tokens, dOut, activation, output)                     \
  LILY_KEPT_OUTPUT_SLOTS(X)                                  \
  X(mask, one, tokens, uint8, read)                          \
  X(sequenceOffsets, one, offsets, int32, copy)              \
  X(uncheckedOffsets, one, offsets, int32, read)             \
  X(draw, one, four, int32, read)

#define LILY_BACKWARD_SLOTS(X)                               \
  X(dy, tokens, dOut, activation, read)                      \
  X(x, tokens, dIn, activation, read)                        \
  LILY_PARAMETER_SLOTS(X)                                    \
  LILY_KEPT_SLOTS(X)                                         \
  X(mask, one, tokens, uint8, read)                          \
  X(sequenceOffsets, one, offsets, int32, copy)              \
  X(dx, tokens, dIn, activation, output)                     \
  LILY_GRADIENT_SLOTS(X)                                     \
  X(dWeights, groups, experts, float32, output)              \
  X(deferredDb, partials, partial, float32, output)          \
  X(draw, one, four, int32, read)

// `index`: the rows of every call, call by call and ascending in each; then, of each call with sequences (sequence routing,
// and fixed routing with another number of groups than 1), groups + 1 offsets from 0 to its count; then the rows that no call
// has. `mask`, which calls with another routing than batch and sequence ignore, and `scale` have one element for each of the
// first `listed` elements of `index`.
#define LILY_FORWARD_ROWS_SLOTS(X)                           \
  X(x, tokens, dIn, activation, read)                        \
  X(y, tokens, dOut, activation, output)                     \
  X(index, one, indices, int32, copy)                        \
  X(mask, one, listed, uint8, read)                          \
  X(scale, one, listed, float32, read)

// `tokens` of a call is its count.
#define LILY_FORWARD_ROWS_ITEM_SLOTS(X)                      \
  LILY_PARAMETER_SLOTS(X)                                    \
  LILY_KEPT_OUTPUT_SLOTS(X)

#define LILY_BACKWARD_ROWS_SLOTS(X)                          \
  X(dy, tokens, dOut, activation, read)                      \
  X(x, tokens, dIn, activation, read)                        \
  X(dx, tokens, dIn, activation, output)                     \
  X(index, one, indices, int32, copy)                        \
  X(mask, one, listed, uint8, read)                          \
  X(scale, one, listed, float32, read)

#define LILY_BACKWARD_ROWS_ITEM_SLOTS(X)                     \
  LILY_PARAMETER_SLOTS(X)                                    \
  LILY_KEPT_SLOTS(X)                                         \
  LILY_GRADIENT_SLOTS(X)

#define LILY_DRAW_SLOTS(X)                  \
  X(state, one, four, int32, update)        \
  X(draw, one, four, int32, output)

// x is dy, and y is dx, if the call is transposed.
#define LILY_LINEAR_SLOTS(X)                \
  X(x, tokens, depth, activation, read)     \
  X(weight, dOut, dIn, parameter, read)     \
  X(packed, one, packed, float32, read)     \
  X(bias, one, width, gradient, read)        \
  X(y, tokens, width, activation, output)

#define LILY_PACK_SLOTS(X)                  \
  X(weight, dOut, dIn, parameter, read)     \
  X(packed, one, packed, float32, output)

#define LILY_ATTENTION_SLOTS(X)                                \
  X(q, queryRows, headColumns, activation, read)               \
  X(k, keyRows, headColumns, activation, read)                 \
  X(v, keyRows, headColumns, activation, read)                 \
  X(mask, batch, keys, uint8, read)                            \
  X(y, queryRows, headColumns, activation, output)             \
  X(statistics, headRows, statistics, float32, output)

#define LILY_ATTENTION_BACKWARD_SLOTS(X)                       \
  X(dy, queryRows, headColumns, activation, read)              \
  X(q, queryRows, headColumns, activation, read)               \
  X(k, keyRows, headColumns, activation, read)                 \
  X(v, keyRows, headColumns, activation, read)                 \
  X(mask, batch, keys, uint8, read)                            \
  X(y, queryRows, headColumns, activation, read)               \
  X(statistics, headRows, statistics, float32, read)           \
  X(dq, queryRows, headColumns, activation, output)            \
  X(dk, keyRows, headColumns, activation, output)              \
  X(dv, keyRows, headColumns, activation, output)

#define LILY_ELEMENTWISE_SLOTS(X)           \
  X(a, aRows, aColumns, float32, read)      \
  X(b, bRows, bColumns, float32, read)      \
  X(y, rows, width, float32, output)

#define LILY_FOLD_SLOTS(X)                  \
  X(db, bRows, bColumns, any, output)

// The matrices of one layer, and their weights; without them there is one matrix for each expert.
#define LILY_FOLD_ITEM_SLOTS(X)             \
  X(partials, partials, partial, float32, read)   \
  X(weights, partials, experts, float32, read)

#define LILY_ADAMW_SLOTS(X)                 \
  X(norm, one, one, float32, output)        \
  X(skipped, one, one, float32, update)

#define LILY_ADAMW_ITEM_SLOTS(X)            \
  X(value, one, elements, any, update)      \
  X(grad, one, elements, any, read)         \
  X(expAvg, one, elements, float32, update)     \
  X(expAvgSq, one, elements, float32, update)

// The matrices of an operand, one after the other.
#define LILY_MATMUL_SLOTS(X)                      \
  X(a, aRows, aColumns, activation, read)         \
  X(b, bRows, bColumns, activation, read)         \
  X(bias, one, width, activation, read)           \
  X(y, rows, width, activation, output)

#define LILY_NONE(X)

// Every operation with its fields and slots, and the fields and slots of its items.
#define LILY_TABLES(X)                                                                                  \
  X(forward, LILY_ADAPTER_FIELDS, LILY_NONE, LILY_FORWARD_SLOTS, LILY_NONE)                             \
  X(backward, LILY_ADAPTER_FIELDS, LILY_NONE, LILY_BACKWARD_SLOTS, LILY_NONE)                           \
  X(linear, LILY_LINEAR_FIELDS, LILY_NONE, LILY_LINEAR_SLOTS, LILY_NONE)                                \
  X(pack, LILY_LINEAR_FIELDS, LILY_NONE, LILY_PACK_SLOTS, LILY_NONE)                                    \
  X(matmul, LILY_MATMUL_FIELDS, LILY_NONE, LILY_MATMUL_SLOTS, LILY_NONE)                                \
  X(attention, LILY_ATTENTION_FIELDS, LILY_NONE, LILY_ATTENTION_SLOTS, LILY_NONE)                       \
  X(attentionBackward, LILY_ATTENTION_FIELDS, LILY_NONE, LILY_ATTENTION_BACKWARD_SLOTS, LILY_NONE)      \
  X(elementwise, LILY_ELEMENTWISE_FIELDS, LILY_NONE, LILY_ELEMENTWISE_SLOTS, LILY_NONE)                 \
  X(fold, LILY_FOLD_FIELDS, LILY_NONE, LILY_FOLD_SLOTS, LILY_FOLD_ITEM_SLOTS)                           \
  X(draw, LILY_PLACEMENT_FIELDS, LILY_NONE, LILY_DRAW_SLOTS, LILY_NONE)                                 \
  X(adamw, LILY_ADAMW_FIELDS, LILY_ADAMW_ITEM_FIELDS, LILY_ADAMW_SLOTS, LILY_ADAMW_ITEM_SLOTS)                       \
  X(forwardRows, LILY_ROWS_FIELDS, LILY_ROWS_ITEM_FIELDS, LILY_FORWARD_ROWS_SLOTS, LILY_FORWARD_ROWS_ITEM_SLOTS)      \
  X(backwardRows, LILY_ROWS_FIELDS, LILY_ROWS_ITEM_FIELDS, LILY_BACKWARD_ROWS_SLOTS, LILY_BACKWARD_ROWS_ITEM_SLOTS)

// Names of sizes and types of operands in the tables, forward and backward first. docs/math.md has the symbols.
#define LILY_SIZES(X)   \
  X(one)                \
  X(tokens)             \
  X(dIn)                \
  X(dOut)               \
  X(rank)               \
  X(experts)            \
  X(groups)             \
  X(offsets)            \
  X(bRows)              \
  X(bColumns)           \
  X(partials)           \
  X(partial)            \
  X(routerColumns)      \
  X(four)               \
  X(depth)              \
  X(width)              \
  X(packed)             \
  X(rows)               \
  X(aRows)              \
  X(aColumns)           \
  X(batch)              \
  X(keys)               \
  X(queryRows)          \
  X(keyRows)            \
  X(headColumns)        \
  X(headRows)           \
  X(statistics)         \
  X(elements)           \
  X(listed)             \
  X(indices)

// `gradient`: the type of the parameters, or float32. `any`: any of lily_dtype.
#define LILY_TYPES(X)   \
  X(activation)         \
  X(parameter)          \
  X(gradient)           \
  X(hidden)             \
  X(float32)            \
  X(uint8)              \
  X(int32)              \
  X(any)

#define LILY_NAME(name, ...) #name,
#define LILY_ENUMERATOR(name, ...) name,
#define LILY_DEFINE_ENUM(space, list) \
  namespace space {                   \
  enum Position { list(LILY_ENUMERATOR) kCount }; \
  }

LILY_DEFINE_ENUM(operation, LILY_TABLES)
LILY_DEFINE_ENUM(placement_field, LILY_PLACEMENT_FIELDS)
LILY_DEFINE_ENUM(adapter_field, LILY_ADAPTER_FIELDS)
LILY_DEFINE_ENUM(rows_field, LILY_ROWS_FIELDS)
LILY_DEFINE_ENUM(rows_item_field, LILY_ROWS_ITEM_FIELDS)
LILY_DEFINE_ENUM(linear_field, LILY_LINEAR_FIELDS)
LILY_DEFINE_ENUM(attention_field, LILY_ATTENTION_FIELDS)
LILY_DEFINE_ENUM(elementwise_field, LILY_ELEMENTWISE_FIELDS)
LILY_DEFINE_ENUM(fold_field, LILY_FOLD_FIELDS)
LILY_DEFINE_ENUM(adamw_field, LILY_ADAMW_FIELDS)
LILY_DEFINE_ENUM(adamw_item_field, LILY_ADAMW_ITEM_FIELDS)
LILY_DEFINE_ENUM(matmul_field, LILY_MATMUL_FIELDS)
LILY_DEFINE_ENUM(slot_field, LILY_SLOT_FIELDS)
LILY_DEFINE_ENUM(slot_access, LILY_ACCESSES)
LILY_DEFINE_ENUM(forward_slot, LILY_FORWARD_SLOTS)
LILY_DEFINE_ENUM(backward_slot, LILY_BACKWARD_SLOTS)
LILY_DEFINE_ENUM(forward_rows_slot, LILY_FORWARD_ROWS_SLOTS)
LILY_DEFINE_ENUM(forward_rows_item_slot, LILY_FORWARD_ROWS_ITEM_SLOTS)
LILY_DEFINE_ENUM(backward_rows_slot, LILY_BACKWARD_ROWS_SLOTS)
LILY_DEFINE_ENUM(backward_rows_item_slot, LILY_BACKWARD_ROWS_ITEM_SLOTS)
LILY_DEFINE_ENUM(linear_slot, LILY_LINEAR_SLOTS)
LILY_DEFINE_ENUM(pack_slot, LILY_PACK_SLOTS)
LILY_DEFINE_ENUM(attention_slot, LILY_ATTENTION_SLOTS)
LILY_DEFINE_ENUM(attention_backward_slot, LILY_ATTENTION_BACKWARD_SLOTS)
LILY_DEFINE_ENUM(elementwise_slot, LILY_ELEMENTWISE_SLOTS)
LILY_DEFINE_ENUM(draw_slot, LILY_DRAW_SLOTS)
LILY_DEFINE_ENUM(fold_slot, LILY_FOLD_SLOTS)
LILY_DEFINE_ENUM(fold_item_slot, LILY_FOLD_ITEM_SLOTS)
LILY_DEFINE_ENUM(adamw_slot, LILY_ADAMW_SLOTS)
LILY_DEFINE_ENUM(adamw_item_slot, LILY_ADAMW_ITEM_SLOTS)
LILY_DEFINE_ENUM(matmul_slot, LILY_MATMUL_SLOTS)
LILY_DEFINE_ENUM(size, LILY_SIZES)
LILY_DEFINE_ENUM(type, LILY_TYPES)
enum class Use { read, output, update, copy };

// Types of elements beside lily_dtype.
constexpr int32_t kUint8 = 3;
constexpr int32_t kInt32 = 4;

// A row of a table.
struct Slot {
  const char *name;
  size::Position rows, columns;
  type::Position type;
  Use use;
};

struct Table {
  const char *const *fields;  // the fields of an item follow
  int field_count, item_field_count;
  const Slot *slots;
  int slot_count;
  const Slot *item_slots;
  int item_slot_count;
};

#define LILY_SLOT(name, rows, columns, kind, use) Slot{#name, size::rows, size::columns, type::kind, Use::use},
#define LILY_ONE(...) + 1
// The last element is a place for lists without elements.
#define LILY_DEFINE_TABLE(operation, fields, item_fields, slots, item_slots)      \
  namespace operation##_table {                                                   \
  constexpr const char *kFields[] = {fields(LILY_NAME) item_fields(LILY_NAME) nullptr};  \
  constexpr Slot kSlots[] = {slots(LILY_SLOT) Slot{}};                            \
  constexpr Slot kItemSlots[] = {item_slots(LILY_SLOT) Slot{}};                   \
  }
LILY_TABLES(LILY_DEFINE_TABLE)

#define LILY_TABLE(operation, fields, item_fields, slots, item_slots)                                   \
  Table{operation##_table::kFields, 0 fields(LILY_ONE), 0 item_fields(LILY_ONE),                        \
        operation##_table::kSlots, 0 slots(LILY_ONE), operation##_table::kItemSlots, 0 item_slots(LILY_ONE)},
constexpr Table kTables[operation::kCount] = {LILY_TABLES(LILY_TABLE)};

// The text of all tables, and the version of the ABI, which has the enumerations: lib/ and the binding have the same one
// if they are of one version.
#define LILY_TEXT_OF(...) #__VA_ARGS__ ";"
#define LILY_EXPANDED_TEXT_OF(...) LILY_TEXT_OF(__VA_ARGS__)
#define LILY_TABLE_TEXT(operation, fields, item_fields, slots, item_slots)                              \
  #operation ":" fields(LILY_TEXT_OF) item_fields(LILY_TEXT_OF) slots(LILY_TEXT_OF) item_slots(LILY_TEXT_OF)
constexpr const char *kSignature =
    LILY_TABLES(LILY_TABLE_TEXT) LILY_SLOT_FIELDS(LILY_TEXT_OF) LILY_ACCESSES(LILY_TEXT_OF)
        LILY_EXPANDED_TEXT_OF(LILY_ABI_VERSION);

#undef LILY_TABLE_TEXT
#undef LILY_EXPANDED_TEXT_OF
#undef LILY_TEXT_OF
#undef LILY_TABLE
#undef LILY_DEFINE_TABLE
#undef LILY_ONE
#undef LILY_SLOT
#undef LILY_DEFINE_ENUM
#undef LILY_ENUMERATOR
#undef LILY_NAME

// clang-format on

}  // namespace lily::binding
