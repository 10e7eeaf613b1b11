// ldmatrix: 8x8 matrices of 16-bit elements from shared memory to the registers of a warp.
//
// Lane l holds elements 2(l % 4) and 2(l % 4) + 1 of row l / 4, or of column l / 4 with .trans. Lane 8m + r supplies
// the address of row r of matrix m.
#include "core/instructions/families.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

using Matrix = uint16_t[8][8];

uint32_t fragment_of(const Matrix &matrix, int lane, bool transposed) {
  const int row = lane / 4, column = lane % 4 * 2;
  const uint32_t low = transposed ? matrix[column][row] : matrix[row][column];
  const uint32_t high = transposed ? matrix[column + 1][row] : matrix[row][column + 1];
  return high << 16 | low;
}
void load_matrices(WarpOperation &operation, const Instruction &in) {
  Matrix matrices[4];
  uint64_t addresses[32];
  const int rows = in.vector_width * 8;
  for (int i = 0; i < rows; ++i) {
    Thread &thread = *operation.lanes[i];
    addresses[i] = static_cast<uint32_t>(thread.address(in.operands[1]));  // shared memory has 32 bits
    thread.load_row(in, addresses[i], matrices[i / 8][i % 8]);
  }
  operation.each([&](int lane, Thread &thread) {
    for (int m = 0; m < in.vector_width; ++m) {
      thread.set_register(Thread::element(in.operands[0], m), fragment_of(matrices[m], lane, in.variant));
    }
  });
  operation.count_matrix_rows(in, addresses, rows);
}

}  // namespace

void decode_matrix_move(Instruction &in, Modifiers &modifiers) {
  if (!modifiers.take("sync") || !modifiers.take("aligned")) refuse(in, "requires .sync.aligned");
  if (!modifiers.take("m8n8")) refuse(in, "only .m8n8 is supported");
  in.flow = Flow::kWarp;
  in.variant = modifiers.take("trans");
  expect_operands(in, 2, 2);
  const std::optional<uint8_t> count = modifiers.take_one<uint8_t>({{"x1", 1}, {"x2", 2}, {"x4", 4}});
  if (!count) refuse(in, "requires .x1, .x2 or .x4");
  in.vector_width = *count;
  if (modifiers.take_any({"shared", "shared::cta"}) < 0) refuse(in, "requires .shared");
  in.space = Space::kShared;
  if (Thread::elements(in.operands[0]) != *count)
    refuse(in, "the number of registers does not match the number of matrices");
  in.warp_executor = load_matrices;
  take_type(in, modifiers, {Type::kB16});
}

}  // namespace lily::emulator
