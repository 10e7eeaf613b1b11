// The tokenizer.
#include "core/lexer.h"

#include <cctype>

#include "core/emulator.h"

namespace lily::emulator {
namespace {

bool is_word_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.';
}

}  // namespace

std::vector<Token> tokenize(std::string_view ptx) {
  std::vector<Token> tokens;
  int line = 1;
  size_t i = 0;
  const auto at = [&](size_t k) { return k < ptx.size() ? ptx[k] : '\0'; };
  while (i < ptx.size() && ptx[i] != '\0') {
    const char c = ptx[i];
    if (c == '\n') ++line;
    if (std::isspace(static_cast<unsigned char>(c))) {
      ++i;
    } else if (c == '/' && at(i + 1) == '/') {
      while (i < ptx.size() && ptx[i] != '\n') ++i;
    } else if (c == '/' && at(i + 1) == '*') {
      for (i += 2; i < ptx.size() && !(ptx[i] == '*' && at(i + 1) == '/'); ++i) line += ptx[i] == '\n';
      i += 2;
    } else if (c == '"') {
      const size_t end = ptx.find('"', i + 1);
      if (end == std::string_view::npos) throw Error("PTX line " + std::to_string(line) + ": unterminated string");
      tokens.push_back({Token::Kind::kString, std::string(ptx.substr(i + 1, end - i - 1)), line});
      i = end + 1;
    } else if (is_word_character(c)) {
      const size_t start = i;
      // `::` belongs to a modifier (.L2::128B); a single colon ends a label.
      while (is_word_character(at(i)) || (at(i) == ':' && at(i + 1) == ':' && is_word_character(at(i + 2)))) {
        i += ptx[i] == ':' ? 2 : 1;
        // Inline assembly may join directives: .reg.b16
        if (c == '.' && at(i) == '.') break;
      }
      tokens.push_back({Token::Kind::kWord, std::string(ptx.substr(start, i - start)), line});
    } else {
      tokens.push_back({Token::Kind::kPunctuation, std::string(1, c), line});
      ++i;
    }
  }
  tokens.push_back({Token::Kind::kEnd, "end of file", line});
  return tokens;
}

}  // namespace lily::emulator
