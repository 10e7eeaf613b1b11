/** examples/webgpu as a user runs it: a process of its own, importing the built package by its name. */
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

it('examples/webgpu trains', () => {
  const output = execFileSync(process.execPath, ['examples/webgpu/main.js'], { cwd: root, encoding: 'utf8' })
  expect(output).toContain('the loss fell below a tenth: true')
})
