/** An error in the form that the addon throws: with one of the ERR_LILY_ codes. */
export function bindingError(code: string, message: string): Error {
  return Object.assign(new Error(message), { code })
}
