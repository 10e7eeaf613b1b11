// Calls whose workspaces exceed the limit of the address space, which this process lowers (prlimit of util-linux).
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import load from 'node-gyp-build'
import { dropoutState, lilyBackward, lilyBackwardAsync, lilyForward, lilyForwardAsync } from 'lily-kernels'

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
// The workspace of forward has room for h: 1.9 GB. The frozen layer below needs none.
const long = { x: half(2 ** 20, 8), weight: half(8, 8), a: half(256, 8), b: half(1, 256, 8), y: half(2 ** 20, 8) }
const state = dropoutState(1)
const options = { routing: 'uniform', dropout: { rate: 0.5, state }, save: false }
const changed = () => (state[2] === 0 && long.y.data.every((bits) => bits === 0) ? 'nothing' : 'something')
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
long.x.data.fill(0x3f80)
long.weight.data.fill(0x3f80)
const { weight: _, ...alone } = long
for (const operands of [long, alone]) {
  try {
    lilyForward(operands, options)
  } catch (error) {
    console.log(`forward with dropout: ${error.code}, it has changed ${changed()}`)
  }
}
await lilyForwardAsync(long, options).catch((error) => {
  console.log(`forwardAsync with dropout: ${error.code}, it has changed ${changed()}`)
})
const native = load(fileURLToPath(new URL('../..', import.meta.url)))
try {
  native.measureRoof(0, 0, 1, 2 ** 32) // of reading, on the cpu
} catch (error) {
  console.log(`measureRoof: ${error.code}`)
}
lilyBackward(...small)
console.log('a smaller call ran')
