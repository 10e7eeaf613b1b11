// Implements Module and Kernel.
#include "core/kernel_code.h"
#include "core/kernel_parser.h"
#include "core/parser.h"

namespace lily::emulator {

namespace {

ModuleContents::Entry &find(ModuleContents &contents, std::string_view name) {
  if (const auto found = contents.kernels.find(name); found != contents.kernels.end()) return found->second;
  // The C++ name of a kernel outside namespaces and templates must not match longer names that contain it.
  const std::string mangled = "_Z" + std::to_string(name.size()) + std::string(name);
  ModuleContents::Entry *match = nullptr;
  for (auto &[other, entry] : contents.kernels) {
    if (!other.starts_with(mangled)) continue;
    if (match != nullptr) throw Error("several kernels have the name " + std::string(name));
    match = &entry;
  }
  if (match != nullptr) return *match;
  for (auto &[other, entry] : contents.kernels) {
    if (other.find(name) == std::string::npos) continue;
    if (match != nullptr) throw Error("the names of several kernels contain " + std::string(name));
    match = &entry;
  }
  if (match == nullptr) throw Error("the module has no kernel " + std::string(name));
  return *match;
}

}  // namespace

const std::string &Kernel::name() const { return code_->name; }
const std::vector<Parameter> &Kernel::parameters() const { return code_->parameters; }
size_t Kernel::parameter_bytes() const { return code_->parameter_bytes; }
size_t Kernel::static_shared_bytes() const { return code_->static_shared_bytes; }
size_t Kernel::local_bytes() const { return code_->local_bytes; }
uint32_t Kernel::max_threads_per_block() const { return code_->max_threads; }

Module::Module(std::unique_ptr<ModuleContents> contents) : contents_(std::move(contents)) {}
Module::~Module() = default;

std::unique_ptr<Module> Module::parse(std::string_view ptx) {
  return std::unique_ptr<Module>(new Module(parse_module(ptx)));
}

std::vector<std::string> Module::kernel_names() const {
  std::vector<std::string> names;
  for (const auto &[name, entry] : contents_->kernels) names.push_back(name);
  return names;
}

bool Module::has_kernel(std::string_view name) const { return contents_->kernels.contains(name); }

Kernel Module::kernel(std::string_view name) const {
  ModuleContents::Entry &entry = find(*contents_, name);
  std::call_once(entry.parsed, [&] {
    TokenStream tokens(tokenize(entry.text.text, entry.text.line));
    entry.code = parse_kernel(tokens, *contents_);
  });
  return Kernel(entry.code.get());
}

std::string Module::target() const { return contents_->target; }

}  // namespace lily::emulator
