// Awaits one promise of a device and prints the error with which it rejects. LILY_TEST_CALL names the function.
import { fromDLPack, lilyForwardAsync, LilyError, tensor, toDLPack } from 'lily-kernels'

const device = { type: 'cuda', id: 0 }
const x = tensor(Float32Array.of(1, 2, 3, 4), [2, 2]).to(device)
const a = tensor(Float32Array.of(1, 1), [1, 2]).to(device)
const b = tensor(Float32Array.of(1, 0, 0, 2), [2, 1, 2]).to(device)

const calls = {
  // All calls of operations end in the same function.
  lilyForwardAsync: () => lilyForwardAsync({ x, a, b }, { routing: 'uniform' }),
  // As memory of another addon, whose owner is kept until the copy is complete.
  toHost: () => fromDLPack(toDLPack(x)).toHost(),
}
try {
  const promise = calls[process.env.LILY_TEST_CALL]()
  console.error('the call has returned')
  await promise
  console.log('no error')
} catch (error) {
  console.log(error instanceof LilyError ? `LilyError ${error.code} ${error.cudaError}` : `${error}`)
}
