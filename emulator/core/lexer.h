// Splits PTX text into tokens and drops comments. Every token has its line number because .loc and .file end with their
// line.
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

// The last token is kEnd. `line` is the line number of the start of the text.
std::vector<Token> tokenize(std::string_view ptx, int line = 1);

// The text of a kernel, from its name to its closing brace.
struct KernelText {
  std::string name;
  std::string_view text;
  int line = 0;
};

// Separates the kernels from a module's text. `rest` keeps all line breaks and, of each kernel, .entry and the name.
struct ModuleText {
  std::string rest;
  std::vector<KernelText> kernels;
};
ModuleText separate_kernels(std::string_view ptx);

}  // namespace lily::emulator
