// Calls without memory for the workspace of the adapter, alone and above a frozen layer that needs none: prints what they
// have changed, and what the same calls change once there is memory.
import { DeviceBuffer, dropoutState, emptyCache, lilyForward, tensor } from 'lily-kernels'

const device = { type: 'cuda', id: 0 }
const [tokens, features, rank] = [64, 64, 64]
const filled = (value, ...shape) =>
  tensor(new Float32Array(shape.reduce((p, q) => p * q)).fill(value), shape).to(device)
const operands = {
  x: filled(1, tokens, features),
  weight: filled(1, features, features),
  a: filled(1, rank, features),
  router: filled(1, 2, rank),
  b: filled(1, 2, rank, features),
  y: filled(3, tokens, features),
}
const onHost = dropoutState(1)
const onDevice = tensor(dropoutState(1), [4], 'int32').to(device)

const { weight: _, ...alone } = operands

async function call(state, given = operands) {
  let ended = 'ran'
  try {
    lilyForward(given, { dropout: { rate: 0.5, state }, save: false })
  } catch (error) {
    ended = error.code
  }
  const { data } = await operands.y.toHost()
  return [ended, [...onHost], [...(await onDevice.toHost()).data], data.every((value) => value === 3)]
}

// The small blocks of a call, and all other memory.
const small = Array.from({ length: 4 }, () => DeviceBuffer.allocate([64]))
const hoard = []
for (let bytes = 2 ** 24; bytes >= 1024;) {
  try {
    hoard.push(DeviceBuffer.allocate([bytes], 'uint8'))
  } catch {
    bytes /= 2
  }
}
for (const block of small) block.dispose()
const states = [onHost, onDevice]
const results = { without: [], with: [] }
for (const state of states) for (const given of [operands, alone]) results.without.push(await call(state, given))
for (const block of hoard) block.dispose()
emptyCache()
for (const state of states) results.with.push(await call(state))
console.log(JSON.stringify(results))
