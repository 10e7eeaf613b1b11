/** Examples of the README and of docs/, as printed, each in a process of its own with the built package. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { packageRoot } from '../lib/binding/root.js'

/** Of each section whose program is followed by its output: the title, the program and the output. */
const examples = ['README.md', 'docs/model.md', 'docs/tfjs.md'].flatMap((file) =>
  readFileSync(join(packageRoot, file), 'utf8')
    .split(/^## /m)
    .flatMap((section): [string, string, string][] => {
      const match = /^(.*?)\n.*```js\n(.*?)```\s+It prints\s+```text\n(.*?)```/s.exec(section)
      return match === null ? [] : [[match[1], match[2], match[3]]]
    }),
)

test('the README has two examples with their output, docs/model.md and docs/tfjs.md one each', () => {
  const titles = ['Train an adapter', 'One call', 'Lily or LoRA', 'Train an adapter and a head']
  expect(examples.map(([title]) => title)).toEqual(titles)
})

test.each(examples)('"%s" prints what the text says', (_, program, output) => {
  // From standard input the package's own name leads to its dist/, as it would from a file in a user's project.
  const printed = execFileSync('node', ['--input-type=module'], { cwd: packageRoot, input: program, encoding: 'utf8' })
  expect(printed).toBe(output)
})
