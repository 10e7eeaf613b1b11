// Emulates the tile registers of AMX, so that the machine code of the AMX kernels runs on any processor with
// AVX512_BF16. Linked into an addon in place of native/cpu/amx/permission.cc, it makes the addon use that code. Each tile
// instruction is invalid on the processor; the handler of SIGILL decodes and executes it, after the pseudo-code in
// Intel's manual. It does not share code with native/cpu/amx/model.h. What the hardware would not accept, and a use of
// the registers that the kernels must not make, ends the process. With LILY_TEST_WRONG_TILES=1 products are not added.
#include <immintrin.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>

#include "cpu/amx/permission.h"

namespace lily::cpu {
namespace {

std::atomic<bool> requested{false};

}  // namespace

bool has_amx() { return true; }
const char *amx_refusal() {
  requested.store(true);
  return nullptr;
}
bool amx_was_requested() { return requested.load(); }

}  // namespace lily::cpu

namespace {

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;

// As LDTILECFG reads it.
struct Configuration {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Configuration) == 64);

struct Registers {
  bool are_configured;
  Configuration configuration;
  alignas(64) uint8_t tiles[kTiles][kRows][kRowBytes];
};
thread_local Registers registers;

const bool adds = getenv("LILY_TEST_WRONG_TILES") == nullptr;

[[noreturn]] void stop(const char *reason) {
  const char *const texts[] = {"tiles: ", reason, "\n"};
  for (const char *text : texts) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) break;
  }
  _exit(1);
}

void configure(const void *address) {
  if (registers.are_configured) stop("configured twice without a release");
  memset(&registers, 0, sizeof registers);
  Configuration &configuration = registers.configuration;
  memcpy(&configuration, address, sizeof configuration);
  if (configuration.palette != 1 || configuration.start_row != 0) stop("another palette, or a start row");
  for (const uint8_t byte : configuration.reserved) {
    if (byte != 0) stop("a reserved byte");
  }
  for (int i = 0; i < 16; ++i) {
    const int row_bytes = configuration.row_bytes[i], rows = configuration.rows[i];
    if (row_bytes > kRowBytes || rows > kRows || (row_bytes == 0) != (rows == 0)) stop("a shape that does not exist");
    if (i >= kTiles && rows != 0) stop("a tile that does not exist");
  }
  registers.are_configured = true;
}

// TDPBF16PS flushes subnormal operands and results, whatever MXCSR says. The rest of the file has code for every
// processor, because the addon must load on those that do not have the instructions.
__attribute__((target("avx512f"))) void add_products(int sums, int lhs, int rhs) {
  const Configuration &of = registers.configuration;
  if (sums == lhs || sums == rhs || lhs == rhs) stop("a product of a tile with itself");
  if (of.rows[sums] != of.rows[lhs] || of.row_bytes[sums] != of.row_bytes[rhs] || of.row_bytes[lhs] / 4 != of.rows[rhs])
    stop("a product of tiles whose shapes do not match");
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(0x1f80 | _MM_FLUSH_ZERO_ON | 0x40);
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  for (int i = 0; i < of.rows[sums]; ++i) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int k = 0; k < of.rows[rhs]; ++k) {
      int pair;
      memcpy(&pair, registers.tiles[lhs][i] + 4 * k, sizeof pair);
      const __m512i left = _mm512_set1_epi32(pair), right = _mm512_load_si512(registers.tiles[rhs][k]);
      even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(left, 16)),
                             _mm512_castsi512_ps(_mm512_slli_epi32(right, 16)), even);
      odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(left, upper)),
                            _mm512_castsi512_ps(_mm512_and_si512(right, upper)), odd);
    }
    const __m512 old = _mm512_load_ps(registers.tiles[sums][i]);
    _mm512_store_ps(registers.tiles[sums][i], _mm512_add_ps(old, _mm512_add_ps(even, odd)));
  }
  _mm_setcsr(mode);
}

// The general registers by their number in an instruction.
constexpr int kGeneral[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// An operand in memory: an index is the distance of rows.
struct Address {
  const uint8_t *end;  // of the instruction
  uint8_t *base;
  int64_t index;
  bool has_index;
};

// `code`: from the ModRM byte on.
Address address_of(const uint8_t *code, bool extends_index, bool extends_base, const greg_t *general) {
  const int mode = code[0] >> 6, rm = code[0] & 7;
  const bool has_sib = rm == 4;
  const int base = has_sib ? code[1] & 7 : rm, index = has_sib ? (code[1] >> 3 & 7) | (extends_index ? 8 : 0) : 4;
  if (mode == 0 && base == 5) stop("an address without a base");
  Address address = {code + (has_sib ? 2 : 1), nullptr, 0, index != 4};
  if (address.has_index) address.index = general[kGeneral[index]] * (1 << (code[1] >> 6));
  int32_t displacement = 0;
  if (mode == 1) displacement = static_cast<int8_t>(*address.end);
  if (mode == 2) memcpy(&displacement, address.end, sizeof displacement);
  address.end += mode == 1 ? 1 : mode == 2 ? 4 : 0;
  address.base = reinterpret_cast<uint8_t *>(general[kGeneral[base | (extends_base ? 8 : 0)]]) + displacement;
  return address;
}

void execute(int, siginfo_t *, void *context) {
  greg_t *const general = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
  const auto *const code = reinterpret_cast<const uint8_t *>(general[REG_RIP]);
  // A VEX prefix of three bytes, of 128 bits, in the opcode map 0F38.
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0) stop("an invalid instruction, not one of AMX");
  enum Prefix { kNone, k66, kF3, kF2 };
  const int prefix = code[2] & 3, opcode = code[3], modrm = code[4];
  const bool extends_reg = (code[1] & 0x80) == 0, extends_index = (code[1] & 0x40) == 0;
  const bool extends_base = (code[1] & 0x20) == 0, is_register = modrm >> 6 == 3;
  const int vvvv = ~(code[2] >> 3) & 15, reg = modrm >> 3 & 7, rm = modrm & 7;
  if (extends_reg || vvvv >= kTiles || (is_register && extends_base)) stop("a tile that does not exist");
  const Address address = is_register ? Address{code + 5, nullptr, 0, false}
                                      : address_of(code + 4, extends_index, extends_base, general);
  const bool configures = opcode == 0x49 && prefix == kNone && !is_register && reg == 0;
  if (!configures && !registers.are_configured) stop("used without a configuration");
  const int rows = registers.configuration.rows[reg], row_bytes = registers.configuration.row_bytes[reg];
  auto &tile = registers.tiles[reg];
  if (configures) {
    configure(address.base + address.index);
  } else if (opcode == 0x49 && prefix == kNone && modrm == 0xc0) {  // TILERELEASE
    memset(&registers, 0, sizeof registers);
  } else if (opcode == 0x49 && prefix == kF2 && is_register && rm == 0) {  // TILEZERO
    memset(tile, 0, sizeof tile);
  } else if (opcode == 0x4b && (prefix == kF2 || prefix == k66) && address.has_index) {  // TILELOADD, TILELOADDT1
    memset(tile, 0, sizeof tile);
    for (int i = 0; i < rows; ++i) memcpy(tile[i], address.base + i * address.index, static_cast<size_t>(row_bytes));
  } else if (opcode == 0x4b && prefix == kF3 && address.has_index) {  // TILESTORED
    for (int i = 0; i < rows; ++i) memcpy(address.base + i * address.index, tile[i], static_cast<size_t>(row_bytes));
  } else if (opcode == 0x5c && prefix == kF3 && is_register) {  // TDPBF16PS
    if (adds) add_products(reg, rm, vvvv);
  } else {
    stop("an instruction that is not emulated");
  }
  general[REG_RIP] = reinterpret_cast<greg_t>(address.end);
}

[[maybe_unused]] const bool is_installed = [] {
  struct sigaction action = {};
  action.sa_sigaction = execute;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGILL, &action, nullptr) == 0;
}();

}  // namespace
