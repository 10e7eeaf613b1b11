// Reads calls of frozen linear layers on devices, and prints a line for each: `cuBLASLt` if that suits it, or `kernel`.
//
//   compute capability, multiprocessors, bytes of L2, of shared memory per block and per multiprocessor, threads per
//   multiprocessor, clock in Hz, bytes per second of memory; M, d_in, d_out, transposed, precision, dtypes of activations
//   and of parameters
#include <iostream>

#include "cuda/launch/plan_linear.h"

int main() {
  lily::cuda::Device device = {};
  lily_linear_problem problem = {};
  int capability = 0;
  while (std::cin >> capability >> device.multiprocessors >> device.l2_bytes >> device.shared_bytes_per_block >>
         device.shared_bytes_per_multiprocessor >> device.threads_per_multiprocessor >> device.clock_hz >>
         device.dram_bytes_per_second >> problem.tokens >> problem.d_in >> problem.d_out >> problem.transposed >>
         problem.precision >> problem.activation_dtype >> problem.parameter_dtype) {
    device.compute_major = capability / 10;
    device.compute_minor = capability % 10;
    std::cout << (lily::cuda::suits_cublaslt(problem, device) ? "cuBLASLt\n" : "kernel\n");
  }
}
