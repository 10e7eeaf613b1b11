/** The README's first example, as printed, in a process of its own with the built package. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { packageRoot } from '../lib/binding/root.js'

test("README's first example prints what the README says", () => {
  const readme = readFileSync(join(packageRoot, 'README.md'), 'utf8')
  const block = (language: string) => new RegExp(`\`\`\`${language}\\n(.*?)\`\`\``, 's').exec(readme)?.[1]
  const example = block('js')
  if (example === undefined) throw new Error('README.md has no ```js block')
  // From standard input the package's own name leads to its dist/, as it would from a file in a user's project.
  const output = execFileSync('node', ['--input-type=module'], { cwd: packageRoot, input: example, encoding: 'utf8' })
  expect(output).toBe(block('text'))
})
