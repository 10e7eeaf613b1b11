// Not part of the library: scripts/check-resources.js compiles it for the host. Computes how many blocks of each kernel
// fit on a multiprocessor, with the dynamic shared memory that the tile table gives for four experts.
//
// Reads lines "architecture, symbol, registers, bytes of static shared memory" and writes lines "blocks, warps, maximum
// warps, bytes of dynamic shared memory, kernel".
#include <cuda_occupancy.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <typeinfo>

#include "cuda/tiles/matrix.cuh"
#include "cuda/tiles/table.h"

namespace lily::cuda {
namespace {

constexpr int kExperts = 4;

// The demangled name without common prefixes, without spaces, which differ between demanglers, and without the
// parameters of a function, which follow its template arguments if it has any: one of those may be the "(Type)1" of an
// enumeration.
std::string readable(const char *symbol) {
  char *text = abi::__cxa_demangle(symbol, nullptr, nullptr, nullptr);
  std::string name = text == nullptr ? symbol : text;
  std::free(text);
  if (const size_t end = name.find(">("); end != std::string::npos)
    name = name.substr(0, end + 1);
  else if (name.find('<') == std::string::npos)
    name = name.substr(0, name.find('('));
  for (const char *noise : {"void ", "lily::cuda::", "__nv_", " "})
    for (size_t at = name.find(noise); at != std::string::npos; at = name.find(noise)) name.erase(at, strlen(noise));
  return name;
}

template <typename Row>
std::string name() {
  return readable(typeid(Row).name());
}

// Dynamic shared memory and threads by kernel. Kernels that are not listed use no shared memory, or very little.
struct Use {
  int bytes = 0, threads = kThreads;
};
using Uses = std::map<std::string, Use>;

template <typename Engine>
void add_engine(Uses &uses) {
  using Rows = Tiles<Engine>;
  for_each_row(typename Rows::Shrink{}, [&](auto row) {
    using Tile = decltype(row);
    uses["forward_shrink<" + name<Tile>() + ">"] = {
        std::max(Tile::kBytes, Tile::kProduct * 4 + route_bytes(Tile::kBlockM, kExperts, Tile::kBlockN)),
        Tile::kThreads};
  });
  for_each_row(typename Rows::Mix{}, [&](auto row) {
    using Tile = decltype(row);
    uses["forward_mix<" + name<Tile>() + ">"].bytes = Tile::bytes(kExperts, 16, true);
  });
  for_each_row(typename Rows::Decode{}, [&](auto row) {
    using Tile = decltype(row);
    uses["forward_decode<" + name<Tile>() + ">"].bytes =
        Tile::bytes(1, 16, kExperts, 1, true, sizeof(typename Engine::Scalar), {16, kExperts, 2});
  });
  for_each_row(typename Rows::Large{}, [&](auto row) {
    using Tile = decltype(row);
    uses["large_outer<" + name<Tile>() + ">"] = {Tile::kOuterBytes, Tile::kThreads};
    for (const std::string transposed : {"true", "false"})
      uses["large_product<" + name<Tile>() + "," + transposed + ">"] = {
          std::max(Tile::kOutputBytes, Tile::hidden_bytes(kExperts)), Tile::kThreads};
  });
  for_each_row(typename Rows::Once{}, [&](auto row) {
    uses["backward_dy_once<" + name<decltype(row)>() + ">"].bytes = decltype(row)::kBytes;
  });
  for_each_row(typename Rows::Expand{}, [&](auto row) {
    using Tile = decltype(row);
    uses["forward_expand<" + name<Tile>() + ">"] = {kExpandBytes<Tile>, Tile::kThreads};
  });
  for_each_row(typename Rows::X{}, [&](auto row) {
    using Tile = decltype(row);
    uses["backward_x<" + name<Tile>() + ">"] = {kBothBytes<Tile>, Tile::kThreads};
  });
  for_each_row(typename Rows::Dy{}, [&](auto row) {
    using Pair = decltype(row);
    uses["backward_dy<" + name<Pair>() + ">"] = {std::max(Pair::Shrink::kBytes, kOuterBytes<typename Pair::Strip>),
                                                 Pair::kThreads};
  });
}

// From the table "Technical Specifications per Compute Capability" of the CUDA C++ programming guide.
struct Limits {
  int architecture, shared_kib, block_kib, threads;
};
constexpr Limits kLimits[] = {{75, 64, 64, 1024},   {80, 164, 163, 2048},  {86, 100, 99, 1536}, {89, 100, 99, 1536},
                              {90, 228, 227, 2048}, {100, 228, 227, 2048}, {120, 100, 99, 1536}};

cudaOccDeviceProp properties(const Limits &limits) {
  cudaOccDeviceProp result;
  result.computeMajor = limits.architecture / 10;
  result.computeMinor = limits.architecture % 10;
  result.maxThreadsPerBlock = 1024;
  result.maxThreadsPerMultiprocessor = limits.threads;
  result.regsPerBlock = result.regsPerMultiprocessor = 65536;
  result.warpSize = kWarp;
  result.sharedMemPerBlock = 48 << 10;
  result.sharedMemPerMultiprocessor = static_cast<size_t>(limits.shared_kib) << 10;
  result.sharedMemPerBlockOptin = static_cast<size_t>(limits.block_kib) << 10;
  result.reservedSharedMemPerBlock = limits.architecture >= 80 ? 1 << 10 : 0;
  result.numSms = 1;
  return result;
}

int fail(const std::string &what) {
  std::cerr << "occupancy: " << what << '\n';
  return 1;
}

int run() {
  Uses uses;
  add_engine<Tensor<__nv_bfloat16>>(uses);
  add_engine<Tensor<__half>>(uses);
  add_engine<Tf32>(uses);
  add_engine<Exact>(uses);
  int architecture = 0, registers = 0, static_bytes = 0;
  std::string symbol;
  while (std::cin >> architecture >> symbol >> registers >> static_bytes) {
    const auto *limits = std::find_if(std::begin(kLimits), std::end(kLimits),
                                      [&](const Limits &each) { return each.architecture == architecture; });
    if (limits == std::end(kLimits)) return fail("unknown architecture sm_" + std::to_string(architecture));
    const cudaOccDeviceProp device = properties(*limits);
    const std::string kernel = readable(symbol.c_str());
    const auto found = uses.find(kernel);
    const Use use = found == uses.end() ? Use{} : found->second;
    cudaOccFuncAttributes attributes;
    attributes.maxThreadsPerBlock = use.threads;
    attributes.numRegs = registers;
    attributes.sharedSizeBytes = static_cast<size_t>(static_bytes);
    attributes.maxDynamicSharedSizeBytes = device.sharedMemPerBlockOptin;
    attributes.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    const cudaOccDeviceState state;
    cudaOccResult result;
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &attributes, &state, use.threads,
                                                static_cast<size_t>(use.bytes)) != CUDA_OCC_SUCCESS)
      return fail("cuda_occupancy.h returns an error for sm_" + std::to_string(architecture));
    const int blocks = result.activeBlocksPerMultiprocessor;
    std::printf("%d\t%d\t%d\t%d\t%s\n", blocks, blocks * use.threads / kWarp, limits->threads / kWarp, use.bytes,
                kernel.c_str());
  }
  return 0;
}

}  // namespace
}  // namespace lily::cuda

int main() { return lily::cuda::run(); }
