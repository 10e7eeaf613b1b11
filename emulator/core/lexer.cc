// Splits PTX text into tokens and separates a module's kernels from the rest.
#include "core/lexer.h"

#include <algorithm>
#include <cctype>

#include "core/emulator.h"

namespace lily::emulator {
namespace {

bool is_word_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.';
}

// End of the comment or string that begins at i; i if none begins there.
inline size_t end_of_comment_or_string(std::string_view ptx, size_t i) {
  const auto end_of = [&](std::string_view what, size_t from) {
    const size_t found = ptx.find(what, from);
    return found == std::string_view::npos ? ptx.size() : found + what.size();
  };
  if (ptx[i] == '"') return end_of("\"", i + 1);
  if (ptx[i] != '/') return i;
  if (ptx.substr(i, 2) == "/*") return end_of("*/", i + 2);
  if (ptx.substr(i, 2) != "//") return i;
  return std::min(ptx.find('\n', i), ptx.size());
}

// Position after the brace that closes the first one at or after i.
size_t end_of_body(std::string_view ptx, size_t i) {
  for (int depth = 0; i < ptx.size(); ++i) {
    if (ptx[i] == '{') ++depth;
    if (ptx[i] == '}' && --depth == 0) return i + 1;
    if (const size_t end = end_of_comment_or_string(ptx, i); end != i) i = end - 1;
  }
  return ptx.size();
}

}  // namespace

ModuleText separate_kernels(std::string_view ptx) {
  constexpr std::string_view kEntry = ".entry";
  ptx = ptx.substr(0, ptx.find('\0'));
  ModuleText result;
  int line = 1;
  size_t i = 0;
  const auto keep_to = [&](size_t end) {
    result.rest += ptx.substr(i, end - i);
    line += static_cast<int>(std::count(ptx.begin() + i, ptx.begin() + end, '\n'));
    i = end;
  };
  while (i < ptx.size()) {
    if (const size_t end = end_of_comment_or_string(ptx, i); end != i) {
      keep_to(end);
    } else if (!is_word_character(ptx[i])) {
      keep_to(i + 1);
    } else {
      const auto end_of_word = [&](size_t from) {
        while (from < ptx.size() && is_word_character(ptx[from])) ++from;
        return from;
      };
      const bool is_entry = ptx.substr(i, end_of_word(i) - i) == kEntry;
      keep_to(end_of_word(i));
      if (!is_entry) continue;
      while (i < ptx.size() && std::isspace(static_cast<unsigned char>(ptx[i]))) keep_to(i + 1);
      const size_t name_end = end_of_word(i), end = end_of_body(ptx, name_end);
      const std::string_view text = ptx.substr(i, end - i);
      result.kernels.push_back({std::string(ptx.substr(i, name_end - i)), text, line});
      keep_to(name_end);
      const auto lines = static_cast<size_t>(std::count(ptx.begin() + i, ptx.begin() + end, '\n'));
      result.rest.append(lines, '\n');
      line += static_cast<int>(lines);
      i = end;
    }
  }
  return result;
}

std::vector<Token> tokenize(std::string_view ptx, int line) {
  std::vector<Token> tokens;
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
        // Inline assembly may join directives without a space: .reg.b16
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
