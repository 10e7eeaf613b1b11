// The decoders, one per family of instructions, each in the file of its name. table.cc assigns the opcodes to them.
#pragma once

#include "core/instruction.h"

namespace lily::emulator {

void decode_integer(Instruction &in, Modifiers &modifiers);         // integer.cc
void decode_bits(Instruction &in, Modifiers &modifiers);            // bits.cc
void decode_float(Instruction &in, Modifiers &modifiers);           // float.cc
void decode_convert(Instruction &in, Modifiers &modifiers);         // convert.cc
void decode_compare(Instruction &in, Modifiers &modifiers);         // compare.cc
void decode_move(Instruction &in, Modifiers &modifiers);            // move.cc
void decode_grid_control(Instruction &in, Modifiers &modifiers);    // core/dependent_launch.cc
void decode_memory(Instruction &in, Modifiers &modifiers);          // memory.cc
void decode_async_copy(Instruction &in, Modifiers &modifiers);      // async_copy.cc
void decode_warp(Instruction &in, Modifiers &modifiers);            // warp.cc
void decode_matrix_move(Instruction &in, Modifiers &modifiers);     // matrix_move.cc
void decode_matrix_product(Instruction &in, Modifiers &modifiers);  // matrix_product.cc
void decode_warpgroup(Instruction &in, Modifiers &modifiers);       // warpgroup_product.cc

}  // namespace lily::emulator
