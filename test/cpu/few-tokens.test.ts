/**
 * Rows keep their bits in every batch: one to eight tokens have passes of their own.
 *
 * @project cpu amx wasm
 */
import { expect, test } from 'vitest'
import { wrongRows } from '../support/few-tokens.js'

test('rows of few tokens have the bits of a larger batch', () => {
  expect(wrongRows()).toEqual([])
})
