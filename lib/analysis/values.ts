/** The numbers of parameters. */
import type { Parameter } from '../model/parameter.js'
import { copyFloat32 } from '../tensor/numbers.js'

/** A copy of the value of a parameter on any device, as float32. */
export async function valuesOf({ value }: Parameter): Promise<Float32Array> {
  const { dtype, data } = await value.toHost()
  return copyFloat32(dtype, data)
}
