/** Classes whose objects functions of this package make. JavaScript can call their constructors all the same. */
import { fail } from './errors.js'

/** The first argument of these constructors. */
export const CREATE = Symbol('create')

/**
 * @param instead the functions that make an object of the class
 * @throws LilyError ERR_LILY_ARGUMENT if code of the caller calls the constructor
 */
export function checkCreate(key: symbol, name: string, instead: string): void {
  if (key === CREATE) return
  fail('ERR_LILY_ARGUMENT', name, `its constructor is private; call ${instead}`)
}
