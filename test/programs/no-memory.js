// Calls whose workspaces exceed the limit of the address space, which this process lowers (prlimit of util-linux).
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import load from 'node-gyp-build'
import { lilyBackward, lilyBackwardAsync, lilyForward } from 'lily-kernels'

const half = (...shape) => ({
  data: new Uint16Array(shape.reduce((product, size) => product * size)),
  shape,
  dtype: 'bfloat16',
})
// The workspace of backward has room for db in float32: 2 GiB. Nobody reads b, so it takes no memory.
function call(experts, rank, dOut) {
  const weights = { data: new Float32Array(2 * experts), shape: [2, experts] }
  const operands = { x: half(0, 8), a: half(rank, 8), b: half(experts, rank, dOut) }
  const { saved } = lilyForward(operands, { routing: 'fixed', weights, sequenceOffsets: [0, 0, 0] })
  return [{ dy: half(0, dOut) }, saved, { needs: { da: false, db: false } }]
}

const large = call(64, 64, 131072)
const small = call(2, 4, 8)
console.log('forward ran')
const [, kilobytes] = /VmSize:\s*(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))
execFileSync('prlimit', ['--pid', String(process.pid), `--as=${(Number(kilobytes) + 2 ** 20) * 1024}`])
try {
  lilyBackward(...large)
} catch (error) {
  console.log(`backward: ${error.code}`)
}
await lilyBackwardAsync(...large).catch((error) => {
  console.log(`backwardAsync: ${error.code}`)
})
const native = load(fileURLToPath(new URL('../..', import.meta.url)))
try {
  native.measureRoof(0, 0, 1, 2 ** 32) // of reading, on the cpu
} catch (error) {
  console.log(`measureRoof: ${error.code}`)
}
lilyBackward(...small)
console.log('a smaller call ran')
