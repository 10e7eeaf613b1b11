/** What the published CUDA library is built for: machine code from Turing to Blackwell, and PTX of the oldest for what is to come. */
export const architectures = ['75', '80-real', '86-real', '89-real', '90-real', '100-real', '120']
