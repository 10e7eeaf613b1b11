// Declarations of variables and parameters, such as `.align 16 .b8 name[4][8]`.
#pragma once

#include <string>

#include "core/kernel_code.h"
#include "core/token_stream.h"

namespace lily::emulator {

struct Declaration {
  std::string name;
  Type type = Type::kB8;
  size_t count = 1;
  size_t alignment = 1;
  bool unsized = false;  // name[]
  size_t bytes() const { return count * size_of(type); }
};

Declaration parse_declaration(TokenStream &tokens);

constexpr size_t align_up(size_t offset, size_t alignment) { return (offset + alignment - 1) / alignment * alignment; }

}  // namespace lily::emulator
