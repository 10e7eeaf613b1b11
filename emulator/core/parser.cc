// Parses directives at module level.
#include "core/parser.h"

#include "core/declaration.h"
#include "core/kernel_parser.h"

namespace lily::emulator {
namespace {

void parse_shared(TokenStream &tokens, ModuleContents &module, bool external) {
  const Declaration declaration = parse_declaration(tokens);
  module.variables[declaration.name] = {declaration.bytes(), declaration.alignment, external || declaration.unsized};
  tokens.expect(";");
}

// Device functions are skipped; a call of one is rejected when the calling kernel is parsed.
void skip_function(TokenStream &tokens) {
  while (!tokens.at_end() && !tokens.peek().is("{") && !tokens.peek().is(";")) tokens.next();
  if (!tokens.accept(";")) tokens.skip_braces();
}

void parse_file(TokenStream &tokens, ModuleContents &module) {
  const int line = tokens.line();
  const int number = static_cast<int>(parse_number(tokens, tokens.word(), false));
  if (tokens.peek().kind != Token::Kind::kString) tokens.fail("expected a file name");
  module.files[number] = tokens.next().text;
  if (tokens.line() == line) tokens.skip_line();
}

}  // namespace

std::unique_ptr<ModuleContents> parse_module(std::string_view ptx) {
  auto module = std::make_unique<ModuleContents>();
  module->text = ptx;
  ModuleText separated = separate_kernels(module->text);
  for (KernelText &kernel : separated.kernels) module->kernels[kernel.name].text = std::move(kernel);
  TokenStream tokens(tokenize(separated.rest));
  while (!tokens.at_end()) {
    bool external = false;
    while (tokens.peek().is(".visible") || tokens.peek().is(".extern") || tokens.peek().is(".weak") ||
           tokens.peek().is(".common")) {
      external |= tokens.next().is(".extern");
    }
    const int line = tokens.line();
    if (tokens.accept(".version") || tokens.accept(".address_size")) {
      if (tokens.line() == line) tokens.skip_line();
    } else if (tokens.accept(".target")) {
      module->target = tokens.word();
      if (tokens.line() == line) tokens.skip_line();
    } else if (tokens.accept(".file")) {
      parse_file(tokens, *module);
    } else if (tokens.accept(".section")) {
      while (!tokens.at_end() && !tokens.peek().is("{")) tokens.next();
      tokens.skip_braces();
    } else if (tokens.accept(".shared")) {
      parse_shared(tokens, *module, external);
    } else if (tokens.accept(".entry")) {
      tokens.word();  // the name; the body was separated before
    } else if (tokens.accept(".func")) {
      skip_function(tokens);
    } else if (tokens.accept(".pragma")) {
      tokens.skip_to(";");
    } else {
      tokens.fail("unsupported directive: " + tokens.peek().text);
    }
  }
  return module;
}

}  // namespace lily::emulator
