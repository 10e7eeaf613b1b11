// A cursor over tokens with the basic operations of the parsers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/emulator.h"
#include "core/lexer.h"

namespace lily::emulator {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token &peek(size_t ahead = 0) const { return tokens_[std::min(position_ + ahead, tokens_.size() - 1)]; }
  const Token &next() {
    const Token &token = peek();
    if (position_ + 1 < tokens_.size()) ++position_;
    return token;
  }
  bool at_end() const { return peek().kind == Token::Kind::kEnd; }
  bool accept(std::string_view text) {
    if (at_end() || !peek().is(text)) return false;
    ++position_;
    return true;
  }
  void expect(std::string_view text) {
    if (!accept(text)) fail("expected '" + std::string(text) + "', found '" + peek().text + "'");
  }
  std::string word() {
    if (peek().kind != Token::Kind::kWord) fail("expected a name, found '" + peek().text + "'");
    return next().text;
  }
  bool at_number() const {
    const std::string &text = peek().text;
    return peek().kind == Token::Kind::kWord && text[0] >= '0' && text[0] <= '9';
  }
  void skip_to(std::string_view text) {
    while (!at_end() && !peek().is(text)) next();
    expect(text);
  }
  void skip_line() {
    for (const int line = peek().line; !at_end() && peek().line == line;) next();
  }
  // Skips from `{` to the matching `}`.
  void skip_braces() {
    expect("{");
    for (int depth = 1; depth > 0;) {
      if (at_end()) fail("missing closing brace");
      const Token &token = next();
      depth += token.is("{") ? 1 : token.is("}") ? -1 : 0;
    }
  }
  int line() const { return peek().line; }
  [[noreturn]] void fail(const std::string &what) const {
    throw Error("PTX line " + std::to_string(line()) + ": " + what);
  }

 private:
  std::vector<Token> tokens_;
  size_t position_ = 0;
};

// Parses an unsigned literal: decimal, hexadecimal, octal, binary, 0f (bits of a float), 0d (bits of a double), or a
// number with a decimal point, which gives the bits of a double or a float.
uint64_t parse_number(const TokenStream &tokens, const std::string &text, bool as_double);

}  // namespace lily::emulator
