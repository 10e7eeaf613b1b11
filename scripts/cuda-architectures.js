/**
 * Targets of the published CUDA library: machine code from Turing to Blackwell, and PTX for later architectures. GPUs of
 * compute capability 8.6 and 8.9 execute the code for 8.0.
 */
export const architectures = ['75', '80-real', '90-real', '100-real', '120']
