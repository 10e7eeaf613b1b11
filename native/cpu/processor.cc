#include "cpu/processor.h"

#include <string.h>

#include <algorithm>
#include <chrono>

#include "core/environment.h"
#include "cpu/amx/permission.h"
#include "cpu/thread_pool.h"
#include "system/environment.h"
#include "system/processor.h"

namespace lily::cpu {
namespace {

struct Candidate {
  const char *name;
  const Kernels *kernels;
  const Kernels *pairs;
  const Kernels *tiles;
  const Kernels *terms;
  bool supported;
  bool automatic;  // may be chosen without LILY_CPU_ISA
};

// The least rank that a prototype measured. Every product of terms was faster there than in float32, shrink by a
// factor of 1.4. With a smaller rank that gain shrinks, because x is split into terms for fewer products.
constexpr int64_t kLeastTermsRank = 128;

#if defined(LILY_WITH_AVX512BF16)
// VDPBF16PS runs at half the rate of float32 multiply-adds on Intel's cores and at twice the rate on AMD's.
bool pairs_pay() {
  if (__builtin_cpu_is("intel")) return false;
  if (__builtin_cpu_is("amd")) return true;
  // Another vendor: measured. The two differ by a factor of two in one direction or the other, so that the minimum of
  // several runs, in turn, gives the same answer in every process. Results depend on it.
  constexpr int64_t kSteps = 400;
  const Kernels *const sets[] = {&kKernelsAvx512, &kKernelsAvx512Bf16};
  double best[2] = {1e9, 1e9};
  volatile float sink = 0.0f;
  for (int run = 0; run < 18; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    sink = sets[run % 2]->roof_products(kSteps);
    const double time = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    best[run % 2] = std::min(best[run % 2], time / sets[run % 2]->roof_step_flops);
  }
  (void)sink;
  return best[1] < best[0];
}
#endif

// Narrowest first.
std::vector<Candidate> candidates() {
  std::vector<Candidate> all;
#if defined(LILY_WITH_AMX_MODEL)
  all.push_back({"amx-model", &kKernelsPortable, &kKernelsAmxModel, nullptr, &kKernelsAmxTermsModel, true, false});
#endif
  all.push_back({"portable", &kKernelsPortable, nullptr, nullptr, nullptr, true, true});
#if defined(LILY_WITH_AVX2)
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  all.push_back({"avx2", &kKernelsAvx2, nullptr, nullptr, nullptr, has_avx2, true});
#endif
#if defined(LILY_WITH_AVX512)
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  all.push_back({"avx512", &kKernelsAvx512, nullptr, nullptr, nullptr, has_avx512, true});
#endif
#if defined(LILY_WITH_AVX512BF16)
  const bool has_pairs = has_avx512 && __builtin_cpu_supports("avx512bf16");
  const bool uses_pairs = has_pairs && pairs_pay();
  all.push_back({"avx512bf16", &kKernelsAvx512, &kKernelsAvx512Bf16, nullptr, nullptr, has_pairs, uses_pairs});
#endif
#if defined(LILY_WITH_AMX)
  all.push_back({"amx", &kKernelsAvx512, uses_pairs ? &kKernelsAvx512Bf16 : nullptr, &kKernelsAmx, &kKernelsAmxTerms,
                 has_pairs && has_amx(), true});
#endif
#if defined(__aarch64__)
  all.push_back({"neon", &kKernelsNeon, nullptr, nullptr, nullptr, true, true});
#endif
  return all;
}

Switch blocks_switch() { return read_switch(system::environment_variable("LILY_CPU_BLOCKS").c_str()); }

InstructionSet choose_instruction_set() {
  const std::string requested = system::environment_variable("LILY_CPU_ISA");
  InstructionSet chosen = {"none", nullptr, nullptr, nullptr, nullptr, 0, ""};
  if (blocks_switch() == Switch::kUnreadable) {
    chosen.error = "LILY_CPU_BLOCKS must be 0 or 1; change it or unset it";
    return chosen;
  }
  std::string names;
  for (const Candidate &candidate : candidates()) {
    // The model of AMX is for tests. It has terms at every rank, so that these can be small.
    const bool is_model = candidate.terms != nullptr && candidate.tiles == nullptr;
    if (!is_model) names += std::string(names.empty() ? "" : ", ") + candidate.name;
    const int64_t least_terms_rank = is_model ? 1 : kLeastTermsRank;
    const InstructionSet set = {
        candidate.name, candidate.kernels, candidate.pairs, candidate.tiles, candidate.terms, least_terms_rank, ""};
    if (requested.empty()) {
      if (candidate.supported && candidate.automatic) chosen = set;
    } else if (requested == candidate.name) {
      if (candidate.supported) return set;
      return {candidate.name,
              nullptr,
              nullptr,
              nullptr,
              nullptr,
              0,
              "LILY_CPU_ISA=" + requested + ", but this processor does not support it; unset LILY_CPU_ISA"};
    }
  }
  if (chosen.kernels == nullptr) {
    // The message of an error has room for 255 characters, and what to do is at its end.
    std::string value = requested;
    if (value.size() > 40) value = value.substr(0, 40) + "...";
    // The last two are for lib/binding/, which then loads no addon.
    chosen.error = "LILY_CPU_ISA=" + value + " is not one of " + names +
                   ", wasm, wasm-relaxed; unset LILY_CPU_ISA or set it to one of them";
  }
  return chosen;
}

}  // namespace

const InstructionSet &instruction_set() {
  static const InstructionSet *const chosen = new InstructionSet(choose_instruction_set());
  return *chosen;
}

bool multiplies_in_blocks() {
  static const bool blocks = [] {
    const Switch given = blocks_switch();
    if (given != Switch::kUnset) return given == Switch::kOn;
#if defined(__x86_64__)
    return __builtin_cpu_is("intel") != 0;
#else
    return false;
#endif
  }();
  return blocks;
}

const Kernels &InstructionSet::kernels_for(const lily_problem &problem) const {
  return kernels_for(problem.activation_dtype, problem.parameter_dtype, problem.precision, problem.rank);
}

const Kernels &InstructionSet::kernels_for(const lily_linear_problem &problem) const {
  return kernels_for(problem.activation_dtype, problem.parameter_dtype, problem.precision,
                     std::min(problem.d_in, problem.d_out));
}

const Kernels &InstructionSet::kernels_for(int32_t activation_dtype, int32_t parameter_dtype, int32_t precision,
                                           int64_t rank) const {
  const bool may_round = parameter_dtype != LILY_FLOAT32 || precision != LILY_PRECISION_HIGH;
  if (activation_dtype == LILY_BFLOAT16 && may_round) return bfloat16_kernels();
  const bool may_use_terms = activation_dtype == LILY_FLOAT32 && precision == LILY_PRECISION_TF32;
  return may_use_terms && rank >= least_terms_rank ? terms_kernels() : *kernels;
}

const Kernels &InstructionSet::terms_kernels() const {
  const bool permitted = tiles == nullptr || amx_refusal() == nullptr;
  return terms != nullptr && permitted ? *terms : *kernels;
}

const Kernels &InstructionSet::bfloat16_kernels() const {
  if (tiles != nullptr && amx_refusal() == nullptr) return *tiles;
  return pairs != nullptr ? *pairs : *kernels;
}

const char *InstructionSet::effective_name() const {
  const bool refused = tiles != nullptr && amx_was_requested() && amx_refusal() != nullptr;
  return !refused ? name : pairs != nullptr ? "avx512bf16" : "avx512";
}

std::vector<const char *> supported_instruction_sets() {
  std::vector<const char *> names;
  for (const Candidate &candidate : candidates()) {
    // The model is a test of another processor's set.
    if (candidate.supported && strcmp(candidate.name, "amx-model") != 0) names.push_back(candidate.name);
  }
  return names;
}

int default_thread_count() {
  const system::ThreadLimits limits = system::thread_limits();
  // The hardware threads of a core share its multipliers, so a second thread on a core only adds overhead.
  const int allowed = limits.quota > 0 ? std::min(limits.quota, limits.physical_cores) : limits.physical_cores;
  return std::max(1, std::min(allowed, kMaxThreads));
}

}  // namespace lily::cpu
