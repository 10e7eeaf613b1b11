/** Objects of another version of the package in the process. */
import { LAYOUT } from './copies.js'

const OTHER = new RegExp(`^lily-kernels\\.(?!${LAYOUT}\\.)\\d`)

/** Whether a value is an object of a version with another {@link LAYOUT}. */
export function isOfOtherVersion(value: object): boolean {
  const methods = Object.getOwnPropertySymbols(Object(Object.getPrototypeOf(value)))
  return methods.some(({ description = '' }) => OTHER.test(description))
}

/** What an error says after the class of such an object; empty for all other objects. */
export function versionText(value: object): string {
  return isOfOtherVersion(value) ? ' of another version of lily-kernels; install one version' : ''
}
