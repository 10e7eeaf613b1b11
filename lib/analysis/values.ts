/** The numbers of parameters. */
import type { Parameter } from '../model/parameter.js'
import { toFloat32 } from '../tensor/numbers.js'

/** The value of a parameter on any device, as float32. */
export async function valuesOf({ value }: Parameter): Promise<Float32Array> {
  const { dtype, data } = await value.toHost()
  return toFloat32(dtype, data)
}
