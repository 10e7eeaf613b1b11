/**
 * Times each pass of the CPU backend: npm run bench:passes -- M d r E [rounds] [lora | sequence]. It links the objects of
 * the addon (npm run build:native) with passes.cc, and runs it. native/cpu/backend.cc has the order of the passes.
 */
import { compile, link, run } from './build.js'

const pool = compile('native/cpu/thread_pool.cc', 'thread_pool.o', '-D', 'parallel_for=parallel_for_of_pool')
const tile = compile(
  'bench/passes/tile_rate.cc',
  'tile_rate.o',
  '-march=native',
  '-mprefer-vector-width=512',
  '-Wno-psabi',
)
const tool = link('passes', [compile('bench/passes/passes.cc', 'passes.o'), tile, pool], 'thread_pool')
run(tool, process.argv.slice(2))
