import { expect } from 'vitest'
import { LilyError } from '../../lib/index.js'

/**
 * Checks that a call fails with an error code and, if given, the name of the argument in the message. A name of one letter
 * is in most messages, so that the argument of the error must be equal to it.
 */
export async function expectRefused(code: string, argument: string, action: () => unknown): Promise<LilyError> {
  let thrown: unknown = 'nothing'
  try {
    await action()
  } catch (error) {
    thrown = error
  }
  expect(thrown).toBeInstanceOf(LilyError)
  const error = thrown as LilyError
  expect({ code: error.code, message: error.message }).toEqual({
    code,
    message: expect.stringContaining(argument) as string,
  })
  if (argument.length === 1) expect(error.argument).toBe(argument)
  return error
}
