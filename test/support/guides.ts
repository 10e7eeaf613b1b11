/** The programs of the README and of docs/: a reader copies one into a project that has the package, and runs it. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'

/** What a program requires. */
type Runs = 'cpu' | 'cuda' | 'webgpu' | 'mpi' | 'llama' | 'onnx'

/** The pages with programs, and who runs them. test/docs/documents.test.ts checks that no page is missing. */
export const pages: Readonly<Record<string, Readonly<Partial<Record<Runs, number>>> & { readonly other?: string }>> = {
  'README.md': { cpu: 2 },
  'docs/attention.md': { cpu: 1 },
  'docs/checkpoints.md': { cpu: 5 },
  'docs/cuda.md': { cuda: 2 },
  'docs/distributed.md': { mpi: 1 },
  'docs/getting-started.md': { cpu: 3 },
  'docs/index.md': { cpu: 1 },
  'docs/interop.md': { other: 'test/interop runs them, and compiles the addon, with the libraries that it downloads' },
  'docs/linear.md': { cpu: 4 },
  'docs/memory.md': { cpu: 1 },
  'docs/model.md': { cpu: 6 },
  'docs/platforms.md': { other: 'requires the file input of a page; test/browser does the same with one' },
  'docs/routing.md': { cpu: 3 },
  'docs/serving.md': { cpu: 3, llama: 1, onnx: 4 },
  'docs/tfjs.md': { cpu: 2, webgpu: 1 },
  'docs/webgpu.md': { webgpu: 5 },
}

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
 * Runs the programs of all pages that run on a backend: those of a page one after the other, in one folder that has the
 * built package: a later one may read what an earlier one has saved.
 *
 * @param launchers by name: the commands that start each program, such as mpirun with its options
 */
export function testPrograms(
  backend: Runs,
  launchers: Readonly<Record<string, readonly string[]>> = { node: [] },
): void {
  const tested = Object.entries(pages).filter(([, counts]) => counts[backend] !== undefined)
  describe.each(tested)('%s', (page, counts) => {
    const programs = programsOf(page).filter(({ source }) => requiredBy(source) === backend)
    let folder: string
    beforeAll(() => {
      // Inside the checkout, whose node_modules/ has the peers of the package.
      folder = mkdtempSync(join(packageRoot, 'build', 'guides-'))
      mkdirSync(join(folder, 'node_modules'))
      symlinkSync(packageRoot, join(folder, 'node_modules', 'lily-kernels'))
    })
    afterAll(() => rmSync(folder, { recursive: true }))

    test('has as many programs as the list says', () => {
      expect(programs.map(({ title }) => title)).toHaveLength(counts[backend]!)
    })

    describe.each(programs)('$title', ({ source, output }) => {
      test.each(Object.entries(launchers))('%s', (_, launcher) => {
        const file = join(folder, 'program.mjs')
        writeFileSync(file, backend === 'webgpu' ? `import '${WEBGPU_GLOBALS}'\n${source}\nprocess.exit()` : source)
        const [command, ...args] = [...launcher, process.execPath, file]
        expect(execFileSync(command, args, { cwd: folder, encoding: 'utf8' })).toBe(output)
      })
    })
  })
}

/** What the text around programs of WebGPU has introduced: a device, tensors, a model. Dawn keeps the process from ending. */
const WEBGPU_GLOBALS = join(packageRoot, 'test', 'programs', 'webgpu-globals.js')

/** Which backend a program uses. */
export function requiredBy(source: string): Runs {
  if (source.includes('node-llama-cpp')) return 'llama' // test/interop/gguf.test.ts
  if (source.includes('lily-kernels/onnx')) return 'onnx' // test/interop/onnx-guide.test.ts, test/browser/onnx.test.ts
  if (source.includes('lily-kernels/mpi')) return 'mpi' // test/mpi/guides.test.ts
  if (source.includes("type: 'cuda'")) return 'cuda'
  return /createLily|adapter\.limits/.test(source) ? 'webgpu' : 'cpu'
}
