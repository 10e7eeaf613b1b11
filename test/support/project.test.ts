/** Where the tests lie. That each names projects which exist is checked where vitest reads them, by project.ts. */
import { readdirSync } from 'node:fs'
import { expect, test } from 'vitest'
import { path } from './project.js'

const foldersOf = (folder: string) =>
  readdirSync(path(folder), { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []))

test('every test lies in a folder', () => {
  expect(readdirSync(path('test')).filter((name) => name.endsWith('.ts'))).toEqual([])
})

test('every folder of lib/ has one of tests', () => {
  const tested = foldersOf('test')
  // What base/ is for: arguments and errors.
  const inside = foldersOf('lib').map((name) => (name === 'base' ? 'refusals' : name))
  expect(inside.filter((name) => !tested.includes(name))).toEqual([])
})
