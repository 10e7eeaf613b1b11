/** Targets of the published CUDA library: machine code from Turing to Blackwell, and PTX for later architectures. */
export const architectures = ['75', '80-real', '86-real', '89-real', '90-real', '100-real', '120']
