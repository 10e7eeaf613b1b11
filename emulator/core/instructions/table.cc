// Assigns the opcodes to decoders. Control flow, barriers and fences are in core/control.cc.
#include "core/instructions/families.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

// Opcodes that exist for integers and floats are assigned by their first type.
std::optional<Type> first_type(const Instruction &in) {
  for (size_t dot = in.full_name.find('.'); dot != std::string::npos;) {
    const size_t end = in.full_name.find('.', dot + 1);
    const std::string_view word =
        std::string_view(in.full_name).substr(dot + 1, end == std::string::npos ? end : end - dot - 1);
    if (const std::optional<Type> type = type_named(word)) return type;
    dot = end;
  }
  return std::nullopt;
}

void decode_arithmetic(Instruction &in, Modifiers &modifiers) {
  const std::optional<Type> type = first_type(in);
  if (!type) refuse(in, "no supported type");
  is_float(*type) ? decode_float(in, modifiers) : decode_integer(in, modifiers);
}

constexpr OpcodeEntry kTable[] = {
    {"add", decode_arithmetic},
    {"sub", decode_arithmetic},
    {"mul", decode_arithmetic},
    {"mad", decode_integer},
    {"div", decode_arithmetic},
    {"rem", decode_integer},
    {"min", decode_arithmetic},
    {"max", decode_arithmetic},
    {"neg", decode_arithmetic},
    {"abs", decode_float},
    {"fma", decode_float},
    {"rcp", decode_float},
    {"sqrt", decode_float},
    {"ex2", decode_float},

    {"and", decode_bits},
    {"or", decode_bits},
    {"xor", decode_bits},
    {"not", decode_bits},
    {"shl", decode_bits},
    {"shr", decode_bits},
    {"bfi", decode_bits},
    {"popc", decode_bits},

    {"cvt", decode_convert},
    {"setp", decode_compare},
    {"selp", decode_compare},

    {"mov", decode_move},
    {"cvta", decode_move},
    {"griddepcontrol", decode_grid_control},

    {"ld", decode_memory},
    {"st", decode_memory},
    {"cp", decode_async_copy},

    {"shfl", decode_warp},
    {"vote", decode_warp},

    {"ldmatrix", decode_matrix_move},
    {"mma", decode_matrix_product},
    {"wgmma", decode_warpgroup},
};

}  // namespace

std::span<const OpcodeEntry> instruction_table() { return kTable; }

}  // namespace lily::emulator
