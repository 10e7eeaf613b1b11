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
  if (*type == Type::kF32) return decode_float32(in, modifiers);
  if (*type == Type::kF64) return decode_float64(in, modifiers);
  if (is_float(*type)) return decode_half(in, modifiers);
  decode_integer(in, modifiers);
}

void decode_float(Instruction &in, Modifiers &modifiers) {
  if (!is_float(first_type(in).value_or(Type::kNone))) refuse(in, "requires a floating-point type");
  decode_arithmetic(in, modifiers);
}

constexpr OpcodeEntry kTable[] = {
    {"add", decode_arithmetic},
    {"sub", decode_arithmetic},
    {"mul", decode_arithmetic},
    {"mad", decode_arithmetic},
    {"div", decode_arithmetic},
    {"min", decode_arithmetic},
    {"max", decode_arithmetic},
    {"abs", decode_arithmetic},
    {"neg", decode_arithmetic},

    {"addc", decode_integer},
    {"subc", decode_integer},
    {"madc", decode_integer},
    {"mul24", decode_integer},
    {"mad24", decode_integer},
    {"rem", decode_integer},
    {"sad", decode_integer},
    {"dp4a", decode_integer},
    {"dp2a", decode_integer},

    {"fma", decode_float},
    {"rcp", decode_float},
    {"sqrt", decode_float},
    {"rsqrt", decode_float},
    {"ex2", decode_float},
    {"lg2", decode_float},
    {"sin", decode_float},
    {"cos", decode_float},
    {"tanh", decode_float},
    {"copysign", decode_float},
    {"testp", decode_test},

    {"and", decode_bits},
    {"or", decode_bits},
    {"xor", decode_bits},
    {"not", decode_bits},
    {"cnot", decode_bits},
    {"lop3", decode_bits},
    {"shl", decode_bits},
    {"shr", decode_bits},
    {"shf", decode_bits},
    {"bfe", decode_bits},
    {"bfi", decode_bits},
    {"bfind", decode_bits},
    {"clz", decode_bits},
    {"popc", decode_bits},
    {"brev", decode_bits},
    {"prmt", decode_bits},

    {"cvt", decode_convert},
    {"setp", decode_compare},
    {"set", decode_compare},
    {"selp", decode_compare},
    {"slct", decode_compare},

    {"mov", decode_move},
    {"cvta", decode_move},
    {"isspacep", decode_move},
    {"prefetch", decode_hint},
    {"prefetchu", decode_hint},
    {"createpolicy", decode_hint},
    {"griddepcontrol", decode_grid_control},

    {"ld", decode_memory},
    {"ldu", decode_memory},
    {"st", decode_memory},
    {"atom", decode_atomic},
    {"red", decode_atomic},
    {"cp", decode_async_copy},

    {"shfl", decode_warp},
    {"vote", decode_warp},
    {"match", decode_warp},
    {"redux", decode_warp},
    {"elect", decode_warp},

    {"ldmatrix", decode_matrix_move},
    {"stmatrix", decode_matrix_move},
    {"movmatrix", decode_matrix_move},
    {"mma", decode_matrix_product},
    {"wgmma", decode_warpgroup},
};

}  // namespace

std::span<const OpcodeEntry> instruction_table() { return kTable; }

}  // namespace lily::emulator
