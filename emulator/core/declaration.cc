// Parses numbers and declarations.
#include "core/declaration.h"

#include <bit>
#include <cstdlib>

namespace lily::emulator {

uint64_t parse_number(const TokenStream &tokens, const std::string &text, bool as_double) {
  char *end = nullptr;
  uint64_t value = 0;
  const char second = text.size() > 2 && text[0] == '0' ? text[1] : '\0';
  if (second == 'f' || second == 'F' || second == 'd' || second == 'D') {
    value = std::strtoull(text.c_str() + 2, &end, 16);
  } else if (second == 'b' || second == 'B') {
    value = std::strtoull(text.c_str() + 2, &end, 2);
  } else if (text.find('.') != std::string::npos) {
    const double number = std::strtod(text.c_str(), &end);
    value = as_double ? std::bit_cast<uint64_t>(number) : std::bit_cast<uint32_t>(static_cast<float>(number));
  } else {
    value = std::strtoull(text.c_str(), &end, 0);
    if (*end == 'U') ++end;
  }
  if (*end != '\0') tokens.fail("invalid number: " + text);
  return value;
}

Declaration parse_declaration(TokenStream &tokens) {
  Declaration declaration;
  bool has_type = false;
  while (tokens.peek().kind == Token::Kind::kWord && tokens.peek().text[0] == '.') {
    const std::string word = tokens.word().substr(1);
    if (word == "align") {
      declaration.alignment = parse_number(tokens, tokens.word(), false);
    } else if (word == "ptr") {
      // Properties of a pointer parameter's target, `.ptr .global .align 16`, do not affect execution.
      for (const char *space : {".global", ".shared", ".const", ".local", ".param"}) tokens.accept(space);
      if (tokens.accept(".align")) tokens.word();
    } else if (const std::optional<Type> type = type_named(word)) {
      declaration.type = *type;
      has_type = true;
    } else {
      tokens.fail("unsupported directive in a declaration: ." + word);
    }
  }
  declaration.name = tokens.word();
  if (!has_type) tokens.fail("no type in the declaration of " + declaration.name);
  while (tokens.accept("[")) {
    if (tokens.accept("]")) {
      declaration.unsized = true;
    } else {
      declaration.count *= parse_number(tokens, tokens.word(), false);
      tokens.expect("]");
    }
  }
  declaration.alignment = std::max<size_t>(declaration.alignment, size_of(declaration.type));
  return declaration;
}

}  // namespace lily::emulator
