// What the passes of blocked/ require of an engine: how operands are packed, and how one block of sums is multiplied.
// The translation unit defines LILY_ENGINE, the header with its engine: amx/engine.h or vector_engine.h.
//
// A product has a left operand of rows and a packed right operand of columns:
//
//   sums[i][j] (+)= sum_k lhs(i, k) * rhs(k, j)      i < block_rows, j < panel
//
//   rhs   [panel][step of k][panel_bytes], in whatever form the engine multiplies; padded with zeros
//   lhs   rows of a matrix, in place or copied; or packed [block of rows][step of k][block_bytes], for an operand
//         that had to be transposed
//   sums  float32, row-major. The order of the columns of a panel is the engine's where they belong to an
//         activation (Columns::kOfActivation), and the natural one where they are ranks or tokens (kInOrder)
//
// Packed operands are float pointers in the passes, whatever they hold; pitches are in floats.
//
//   static constexpr Blocking kBlocking
//   Scope                     an object of it exists while a task multiplies
//   Lhs                       a block of rows of a left operand
//   Row                       kRowColumns neighbouring columns of sums, in registers
//
// Right operands: `rows` x `columns` is the extent of the matrix that is packed.
//
//   pack<Columns>(in, rows, columns, scale, keeps, out, panel_pitch)       k counts the rows of `in`; a row counts as
//                                                                          zero where `keeps` is 0; null keeps all
//   pack_transposed<Columns>(in, rows, columns, scale, out, panel_pitch)   k counts the columns of `in`
//   pack_kept(in, rows, columns, mask, out, panel_pitch)                   as pack, for columns of an activation: the
//                                                                          elements that the mask keeps, and zeros
//   pack_few_tokens(in, tokens, begin, end, clears, out)                   if it exchanges: rows of an activation, k in
//                                                                          [begin, end), as one panel in order. If not
//                                                                          `clears`, `out` has had at least as many
//                                                                          steps before
//   pack_kept_tokens(in, tokens, columns, mask, clears, out)               the same from column 0 on, of the elements
//                                                                          that the mask keeps
//   pack_combined(stack, group, begin, columns, out)                       columns of s C, k counts r
//   pack_combined_transposed(stack, part, out, panel_pitch, scratch)       the transpose of a CombinedPart, k counts
//                                                                          d_out
//   combined_scratch_floats(columns)                                       of that `scratch`
//
// Left operands:
//
//   lhs(in, rows, columns, row, begin, steps, reused, copy)    the block from `row` on, k from `begin` on, in place or
//                                                              in `copy`; `reused`: more than two panels use it
//   kept_lhs(in, rows, columns, mask, copy)                    the first block, copied: the elements that the mask
//                                                              keeps, and zeros
//   lhs_floats(steps)                                          of `copy`
//   from_step(lhs, step)                                       the same rows, later k
//   pack_lhs(in, tokens, columns, out, block_pitch)            in^T, packed
//   packed_lhs(packed)                                         one block of it
//   copy_combined(stack, group, begin, columns, out)           if it exchanges: the rows of s C
//   combined_lhs(out, columns, row, begin)                     one block of them, k counts columns
//
// The product computes at least the rows and columns of a ProductShape, which may exceed the block. With few tokens the
// passes exchange the operands; the product then has the transposed bits (Order):
//
//   multiply<Columns, Order>(shape, lhs, rhs, sums, accumulate)
//
// Results:
//
//   with_activation(dtype, body), with_type(dtype, body)       call body(Element{}) with the type of an activation, or
//                                                              of a parameter or its gradient
//   adds_in_place(out, columns)                                whether `multiply` may add the sums of one chunk to rows
//                                                              of an activation, with the bits that write_row gives
//   load_sums(sums), load_row(row, count)                      a Row; of a matrix, zeros after `count` columns
//   write_row(row, factor, value, count, accumulate)           row (+)= factor * value
//   write_kept_row(row, kept, j, value, count, accumulate)     row (+)= value where the bits from j on are 1;
//                                                              elsewhere row = 0 if it does not accumulate
//   add_product(a, b, sum), sum_of(sum)                        sum += a * b, by column; the sum of the columns, double
//   kDotChains                                                 sums that a dot product uses in turn
//   write_transposed(rows, columns, sums, scale, out)          out[j][i] (+)= scale * sums[i][j] for one panel
#pragma once

#include "cpu/dropout.h"
#include "cpu/kernels.h"

namespace lily::cpu {
namespace {

enum class Columns { kInOrder, kOfActivation };
enum class Order { kOfProblem, kExchanged };

}  // namespace
}  // namespace lily::cpu

#include LILY_ENGINE

namespace lily::cpu {
namespace {

constexpr Blocking kBlocking = Engine::kBlocking;
constexpr int64_t kPanelFloats = kBlocking.panel_bytes / 4, kBlockFloats = kBlocking.block_bytes / 4;

// The steps of a packed operand, and the panels of its columns.
LILY_INLINE int64_t block_steps(int64_t depth) { return (depth + kBlocking.step_depth - 1) / kBlocking.step_depth; }
LILY_INLINE int64_t block_panels(int64_t columns) { return (columns + kBlocking.panel - 1) / kBlocking.panel; }

}  // namespace
}  // namespace lily::cpu
