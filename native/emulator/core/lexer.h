// Splits PTX text into tokens. Comments vanish; every token knows its line, because .loc and .file end with theirs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lily::emulator {

struct Token {
  enum class Kind { kWord, kString, kPunctuation, kEnd };
  Kind kind = Kind::kEnd;
  std::string text;  // a word: names, directives, numbers, opcodes with their modifiers
  int line = 0;
  bool is(std::string_view what) const { return kind != Kind::kString && text == what; }
};

// The last token is kEnd.
std::vector<Token> tokenize(std::string_view ptx);

}  // namespace lily::emulator
