/** The programs of the README and of docs/: a reader copies one into a project that has the package, and runs it. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'

export interface Program {
  /** The section, and the number of the program on its page. */
  readonly title: string
  readonly source: string
  /** The text block that follows; empty if there is none. */
  readonly output: string
}

/** The programs of a page, with what it says that they print. */
export function programsOf(page: string): Program[] {
  const text = readFileSync(join(packageRoot, page), 'utf8')
  const blocks = text.matchAll(/```js\n(.*?)```(?:\s+(?:It prints\s+)?```text\n(.*?)```)?/gs)
  return Array.from(blocks, ({ index, 1: source, 2: output = '' }, i) => {
    const section = text.slice(0, index).split(/^#+ /m).at(-1)!
    return { title: `${i + 1}: ${section.slice(0, section.indexOf('\n'))}`, source, output }
  })
}

/**
 * Runs the programs of a page one after the other, in one folder that has the built package: a later one may read what an
 * earlier one has saved.
 *
 * @param count number of programs that the page has, so that none is overlooked
 */
export function testPrograms(page: string, count: number, selects: (source: string) => boolean = () => true): void {
  describe(page, () => {
    const programs = programsOf(page).filter(({ source }) => selects(source))
    let folder: string
    beforeAll(() => {
      // Inside the checkout, whose node_modules/ has the peers of the package.
      folder = mkdtempSync(join(packageRoot, 'build', 'guides-'))
      mkdirSync(join(folder, 'node_modules'))
      symlinkSync(packageRoot, join(folder, 'node_modules', 'lily-kernels'))
    })
    afterAll(() => rmSync(folder, { recursive: true }))

    test(`has ${count} programs`, () => {
      expect(programs.map(({ title }) => title)).toHaveLength(count)
    })

    test.each(programs)('$title', ({ source, output }) => {
      const file = join(folder, 'program.mjs')
      writeFileSync(file, source)
      expect(execFileSync(process.execPath, [file], { cwd: folder, encoding: 'utf8' })).toBe(output)
    })
  })
}

/** Whether a program runs on a CUDA device. */
export const usesCuda = (source: string) => source.includes("type: 'cuda'")
