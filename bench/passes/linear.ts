/**
 * Times frozen linear layers beside OpenBLAS' sgemm: npm run bench:linear -- [M,d_in,d_out ...]. It links the objects of
 * the addon (npm run build:native) with linear.cc, and runs it.
 */
import { withoutSelectedKernels } from '../harness/openblas.js'
import { compile, link, run } from './build.js'

run(
  link('linear', [compile('bench/passes/linear.cc', 'linear.o')]),
  process.argv.slice(2),
  withoutSelectedKernels(process.env),
)
