import { expect } from 'vitest'
import { LilyError } from '../../lib/index.js'

/** Checks that a call fails with an error code and, if given, the name of the argument in the message. */
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
  return error
}
