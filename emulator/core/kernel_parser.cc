// Parses the body of a kernel: labels, directives, instructions.
#include "core/kernel_parser.h"

#include <unordered_map>

#include "core/kernel_symbols.h"
#include "core/operand_parser.h"
#include "core/register_allocation.h"
#include "core/warpgroup.h"

namespace lily::emulator {
namespace {

class KernelParser {
 public:
  KernelParser(TokenStream &tokens, const ModuleContents &module)
      : tokens_(tokens),
        code_(std::make_unique<KernelCode>()),
        symbols_(*code_, module),
        operands_(tokens, *code_, symbols_) {
    code_->module = &module;
    code_->locations.emplace_back();
  }

  std::unique_ptr<KernelCode> parse() {
    code_->name = tokens_.word();
    parse_parameters();
    parse_attributes();
    symbols_.open_scope();
    for (int depth = 1; depth > 0;) {
      if (tokens_.at_end()) tokens_.fail("the body of " + code_->name + " is not closed");
      if (tokens_.accept("{")) {
        symbols_.open_scope();
        ++depth;
      } else if (tokens_.accept("}")) {
        symbols_.close_scope();
        --depth;
      } else if (!parse_label() && !parse_directive()) {
        parse_instruction();
      }
    }
    append_return();
    resolve_branches();
    symbols_.finish();
    allocate_registers(*code_);
    track_accumulators(*code_);
    return std::move(code_);
  }

 private:
  void parse_parameters() {
    if (!tokens_.accept("(")) return;
    if (tokens_.accept(")")) return;
    do {
      tokens_.expect(".param");
      const Declaration declaration = parse_declaration(tokens_);
      if (declaration.unsized) tokens_.fail("a parameter has no size");
      symbols_.declare_parameter(declaration);
    } while (tokens_.accept(","));
    tokens_.expect(")");
  }

  // Performance directives such as .maxntid 128, 1, 1, up to the opening brace of the body.
  void parse_attributes() {
    while (!tokens_.accept("{")) {
      const std::string name = tokens_.word();
      if (name == ".pragma") {
        tokens_.skip_to(";");
        continue;
      }
      uint64_t product = 1;
      if (tokens_.at_number()) {
        do product *= parse_number(tokens_, tokens_.word(), false);
        while (tokens_.accept(","));
      }
      if (name == ".maxntid") {
        code_->max_threads = static_cast<uint32_t>(product);
      } else if (name != ".minnctapersm") {
        tokens_.fail("unsupported kernel attribute " + name);
      }
    }
  }

  bool parse_label() {
    if (tokens_.peek().kind != Token::Kind::kWord || !tokens_.peek(1).is(":")) return false;
    const std::string label = tokens_.word();
    tokens_.expect(":");
    labels_[label] = static_cast<int32_t>(code_->instructions.size());
    return true;
  }

  bool parse_directive() {
    if (tokens_.accept(".reg")) {
      symbols_.declare_registers(tokens_);
    } else if (tokens_.accept(".local")) {
      symbols_.declare_local(parse_declaration(tokens_));
      tokens_.expect(";");
    } else if (tokens_.accept(".shared")) {
      symbols_.declare_shared(parse_declaration(tokens_));
      tokens_.expect(";");
    } else if (tokens_.accept(".param")) {
      // Belongs to a call, which refuse_call() rejects.
      tokens_.skip_to(";");
    } else if (tokens_.accept(".loc")) {
      parse_location();
    } else if (tokens_.accept(".pragma")) {
      tokens_.skip_to(";");
    } else if (tokens_.peek().kind == Token::Kind::kWord && tokens_.peek().text[0] == '.') {
      tokens_.fail("unsupported directive " + tokens_.peek().text);
    } else {
      return false;
    }
    return true;
  }

  // .loc 1 23 5[, function_name $L__info_string0, inlined_at 1 40 3]
  void parse_location() {
    const int line = tokens_.line();
    const auto number = [&] { return static_cast<int>(parse_number(tokens_, tokens_.word(), false)); };
    SourcePosition position;
    position.file = number();
    position.line = number();
    while (!tokens_.at_end() && tokens_.line() == line) {
      if (!tokens_.accept("inlined_at")) {
        tokens_.next();
        continue;
      }
      position.inlined_file = number();
      position.inlined_line = number();
      resolve_nested_inlining(position);
    }
    if (!(position == code_->locations.back())) code_->locations.push_back(position);
  }

  // A call site inside a function that was itself inlined is replaced by the outermost call site, which is the line of
  // the kernel's source. nvcc emits the location of the outer call before those of the calls inside it.
  void resolve_nested_inlining(SourcePosition &position) const {
    for (size_t i = code_->locations.size(); i-- > 0;) {
      const SourcePosition &outer = code_->locations[i];
      if (outer.inlined_line == 0 || outer.file != position.inlined_file || outer.line != position.inlined_line)
        continue;
      position.inlined_file = outer.inlined_file;
      position.inlined_line = outer.inlined_line;
      return;
    }
  }

  void parse_instruction() {
    Instruction in;
    in.ptx_line = tokens_.line();
    in.location = static_cast<int32_t>(code_->locations.size()) - 1;
    in.pc = static_cast<int32_t>(code_->instructions.size());
    if (tokens_.accept("@")) {
      in.guard_negated = tokens_.accept("!");
      in.guard = symbols_.find(tokens_, tokens_.word()).index;
    }
    in.full_name = tokens_.word();
    std::vector<std::string> modifiers = split_name(in);
    try {
      if (in.opcode == "call") refuse_call(in);
      find_decoder(in);
      if (in.opcode == "bra") {
        branches_.emplace_back(in.pc, tokens_.word());
      } else {
        parse_operands(in, modifiers);
      }
      tokens_.expect(";");
      decode(in, std::move(modifiers));
    } catch (const Error &error) {
      const std::string what = error.what();
      const std::string kernel = " (kernel " + code_->name + ")";
      if (what.starts_with("PTX line ")) throw Error(what + ", in " + in.full_name + kernel);
      throw Error("PTX line " + std::to_string(in.ptx_line) + ": " +
                  (what.starts_with(in.full_name) ? "" : in.full_name + ": ") + what + kernel);
    }
    code_->instructions.push_back(std::move(in));
  }

  static std::vector<std::string> split_name(Instruction &in) {
    std::vector<std::string> parts;
    size_t start = 0;
    for (size_t dot; (dot = in.full_name.find('.', start)) != std::string::npos; start = dot + 1) {
      parts.push_back(in.full_name.substr(start, dot - start));
    }
    parts.push_back(in.full_name.substr(start));
    in.opcode = parts.front();
    parts.erase(parts.begin());
    return parts;
  }

  [[noreturn]] void refuse_call(const Instruction &in) {
    std::string function;
    while (!tokens_.at_end() && !tokens_.peek().is(";")) {
      if (tokens_.accept("(")) {
        while (!tokens_.at_end() && !tokens_.accept(")")) tokens_.next();
      } else if (tokens_.peek().kind == Token::Kind::kWord) {
        function = tokens_.word();
        break;
      } else {
        tokens_.next();
      }
    }
    refuse(in, "call of " + function + ": device functions that are not inlined are not supported");
  }

  void parse_operands(Instruction &in, const std::vector<std::string> &modifiers) {
    bool as_double = false;
    for (const std::string &modifier : modifiers) as_double |= modifier == "f64";
    if (tokens_.peek().is(";")) return;
    do {
      if (in.operand_count == Instruction::kMaxOperands) refuse(in, "too many operands");
      const Operand operand = operands_.parse(as_double);
      // Executors add an offset to addresses only; mov and cvta handle the offset of an extern array.
      if (operand.kind == Operand::Kind::kRegister && operand.offset != 0 && in.opcode != "mov" &&
          in.opcode != "cvta") {
        refuse(in, "an operand register + offset is supported in addresses only");
      }
      in.operands[in.operand_count++] = operand;
    } while (tokens_.accept(","));
  }

  // A thread that reaches the end of the body returns.
  void append_return() {
    Instruction in;
    in.opcode = in.full_name = "ret";
    in.ptx_line = tokens_.line();
    in.location = static_cast<int32_t>(code_->locations.size()) - 1;
    in.pc = static_cast<int32_t>(code_->instructions.size());
    decode(in, {});
    code_->instructions.push_back(std::move(in));
  }

  void resolve_branches() {
    for (const auto &[pc, name] : branches_) {
      const auto found = labels_.find(name);
      if (found == labels_.end()) tokens_.fail("unknown label " + name + " in " + code_->name);
      code_->instructions[pc].target = found->second;
    }
  }

  TokenStream &tokens_;
  std::unique_ptr<KernelCode> code_;
  KernelSymbols symbols_;
  OperandParser operands_;
  std::unordered_map<std::string, int32_t> labels_;
  std::vector<std::pair<int32_t, std::string>> branches_;
};

}  // namespace

std::unique_ptr<KernelCode> parse_kernel(TokenStream &tokens, const ModuleContents &module) {
  return KernelParser(tokens, module).parse();
}

}  // namespace lily::emulator
