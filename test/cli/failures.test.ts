/** What the command line keeps when a case, a file, a pipe or the program itself fails, and what it prints then. */
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Report } from '../../bench/harness/report.js'
import { passes } from '../../bench/methods/methods.js'
import { writeOutput } from '../../report/output-file.js'
import { GOLDEN } from '../support/checkpoint.js'
import { runCli, runCliIn } from '../support/cli.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
const newFolder = (): string => mkdtempSync(join(folder, 'cli-'))
const reportsIn = (path: string): Report[] => JSON.parse(readFileSync(path, 'utf8')) as Report[]
const tiny = ['bench', '--quick', '--seconds', '0.1', '--shape', '16,32,4,2']

/** No stack trace, and no line of the source, which is minified in the package. */
const expectNoStack = (stderr: string): void => expect(stderr).not.toMatch(/^ +at |^node:|Node\.js v/m)

describe('a case that fails', () => {
  test('is reported in its row, and the others are measured', async () => {
    const inside = newFolder()
    const [json, html] = ['out.json', 'out.html'].map((name) => join(inside, name))
    // It is replaced, and keeps its permissions.
    writeFileSync(json, 'old')
    chmodSync(json, 0o640)
    // The first has more operands than any machine has memory; LoRA with as many parameters as the second has a rank above 4096.
    const shapes = ['999999999,999999,16,4', '1,1,4096,64', '16,32,8,2'].flatMap((shape) => ['--shape', shape])
    const { code, stdout, stderr } = await runCli([...tiny, ...shapes, '--json', json, '--html', html])
    expect(code, stderr).toBe(1)
    expectNoStack(stderr)
    expect(stdout).toMatch(/^999999999, 999999, 16, 4 +FAILED$/m)
    expect(stdout).toMatch(/^FAILED: 999999999, 999999, 16, 4, float32, batch routing: not enough memory: .* GiB$/m)
    expect(stdout).toMatch(/^FAILED: 1, 1, 4096, 64, float32, batch routing: ERR_LILY_\w+: /m)
    for (const shape of ['16, 32, 4, 2', '16, 32, 8, 2']) {
      for (const pass of passes) expect(stdout).toMatch(new RegExp(`^${shape} +${pass.replace('+', '\\+')} +0\\.`, 'm'))
    }

    const [{ complete, results, failures }] = reportsIn(json)
    expect(complete).toBe(true)
    expect(new Set(results.map(({ shape }) => shape.rank + shape.experts))).toEqual(new Set([6, 10]))
    expect(failures.map(({ shape, dtype, routing }) => [shape.tokens, dtype, routing])).toEqual([
      [999999999, 'float32', 'batch'],
      [1, 'float32', 'batch'],
    ])
    const page = readFileSync(html, 'utf8')
    expect(page.includes('2 cases failed: see the results.')).toBe(true)
    expect(/999999999, 999999, 16, 4<\/th><td[^>]*>failed: not enough memory/.exec(page)).not.toBeNull()
    expect(statSync(json).mode & 0o777).toBe(0o640)
    expect(readdirSync(inside)).toEqual(['out.html', 'out.json'])
  })

  test('DEBUG=lily shows its stack', async () => {
    const { code, stderr } = await runCli([...tiny, '--shape', '1,1,4096,64'], { DEBUG: 'other,lily' })
    expect(code).toBe(1)
    expect(stderr).toMatch(/^LilyError: .*\n +at /m)
  })
})

describe('files', () => {
  test('a check changes no existing file and leaves no new one', async () => {
    const inside = newFolder()
    const [old, fresh] = [join(inside, 'old.json'), join(inside, 'new.json')]
    writeFileSync(old, 'precious')
    for (const json of [old, fresh]) {
      const { code, stderr } = await runCli([...tiny, '--json', json, '--html', inside])
      expect(code).toBe(1)
      expect(stderr).toContain(`--html: ${inside} cannot be written`)
      expect(stderr).not.toContain('measuring')
    }
    expect(readdirSync(inside)).toEqual(['old.json'])
    expect(readFileSync(old, 'utf8')).toBe('precious')
  })

  test('without a name, and links to no file, are refused with the reason', async () => {
    const link = join(newFolder(), 'link')
    symlinkSync('none', link)
    for (const [path, reason] of [
      ['', 'its name is empty'],
      [link, 'it is a link to a file that does not exist; create that file first'],
    ]) {
      const { code, stderr } = await runCli([...tiny, '--json', path])
      expect({ code, stderr }).toEqual({ code: 1, stderr: `error: --json: ${path} cannot be written: ${reason}\n` })
    }
  })

  test('a write that fails half way keeps the old file', async () => {
    const inside = newFolder()
    const json = join(inside, 'old.json')
    writeFileSync(json, 'precious')
    // A limit of one block for every file that the process writes.
    const { code, stdout, stderr } = await runCliIn('ulimit -f 1; exec "$@"', [...tiny, '--json', json])
    expect(code).toBe(1)
    expect(stderr).toContain(`error: --json: ${json} cannot be written: EFBIG`)
    expectNoStack(stderr)
    expect(stdout).toContain('float32, batch routing')
    expect(readFileSync(json, 'utf8')).toBe('precious')
    expect(readdirSync(inside)).toEqual(['old.json'])
  })

  test('a file beside which there can be no other is written in place', () => {
    const inside = newFolder()
    // The name of a file has at most 255 bytes, and that of the temporary file is longer.
    const [name, link] = ['n'.repeat(250), 'link']
    symlinkSync(name, join(inside, link))
    for (const text of ['new', 'newer']) {
      writeOutput('--json', join(inside, name), text)
      expect(readFileSync(join(inside, name), 'utf8')).toBe(text)
    }
    writeOutput('--json', join(inside, link), 'newest')
    expect(readFileSync(join(inside, name), 'utf8')).toBe('newest')
    expect(readdirSync(inside).sort()).toEqual([link, name])
  })

  test('a file that cannot be written at the end does not keep the others from being written', async () => {
    const [gone, html] = [join(newFolder(), 'gone'), join(newFolder(), 'out.html')]
    mkdirSync(gone)
    const remove = () => rmSync(gone, { recursive: true, force: true })
    const { code, stdout, stderr } = await runCli([...tiny, '--json', join(gone, 'a'), '--html', html], {}, remove)
    expect(code).toBe(1)
    expect(stderr).toContain(`error: --json: ${join(gone, 'a')} cannot be written: its folder does not exist`)
    expectNoStack(stderr)
    expect(stdout).toContain('float32, batch routing')
    expect(readFileSync(html, 'utf8').includes('</html>')).toBe(true)
  })
})

describe('closed pipes', () => {
  test.each(['stderr', 'stdout'] as const)('bench with a closed %s writes its files', async (closed) => {
    const [json, html] = ['out.json', 'out.html'].map((name) => join(newFolder(), name))
    const { code, signal, stdout, stderr } = await runCli(
      [...tiny, '--shape', '16,32,8,2', '--json', json, '--html', html],
      {},
      (_, child) => child[closed].destroy(),
    )
    expect(signal).toBeNull()
    expect(code).toBe(closed === 'stdout' ? 1 : 0)
    if (closed === 'stdout') expect(stderr.match(/^error: stdout cannot be written \(.*EPIPE.*\)$/gm)).toHaveLength(1)
    else expect(stdout).toContain('float32, batch routing')
    expectNoStack(stderr)
    expect(reportsIn(json)[0].results).not.toHaveLength(0)
    expect(readFileSync(html, 'utf8').includes('</html>')).toBe(true)
  })

  test('bench without a stderr, in a pipeline whose reader has ended', async () => {
    const json = join(newFolder(), 'out.json')
    await runCliIn('"$@" 2>&- | true', [...tiny, '--json', json])
    expect(reportsIn(json)).toHaveLength(1)
  })

  test.each([
    ['doctor', '>/dev/full', 'ENOSPC'],
    ['doctor --json', '>/dev/full', 'ENOSPC'],
    ['--help', '>/dev/full', 'ENOSPC'],
    ['--version', '>/dev/full', 'ENOSPC'],
  ])('%s %s fails with a sentence', async (args, redirection, reason) => {
    const { code, stderr } = await runCliIn(`exec "$@" ${redirection}`, args.split(' '))
    expect(code).toBe(1)
    expect(stderr).toMatch(new RegExp(`^error: stdout cannot be written \\(.*${reason}.*\\)\n$`))
  })
})

test('a SIGINT that npx forwards after that of the terminal loses no results', async () => {
  const inside = newFolder()
  const [again, json, html] = ['again.cjs', 'out.json', 'out.html'].map((name) => join(inside, name))
  // The second signal comes while the page is loaded and written.
  writeFileSync(
    again,
    `process.once('SIGINT', () => setTimeout(() => process.kill(process.pid, 'SIGINT'), 50).unref())`,
  )
  let sent = false
  // The second case takes seconds, within which the signal comes.
  const args = [...tiny, '--shape', '512,4096,16,4', '--json', json, '--html', html]
  const { code, signal } = await runCli(args, { NODE_OPTIONS: `--require ${again}` }, (stderr, child) => {
    if (!sent && stderr.includes('measuring cpu: 512, 4096, 16, 4')) sent = child.kill('SIGINT')
  })
  expect({ code, signal }).toEqual({ code: 130, signal: null })
  expect(new Set(reportsIn(json)[0].results.map(({ shape }) => shape.rank))).toEqual(new Set([4]))
  expect(readFileSync(html, 'utf8').includes('</html>')).toBe(true)
})

describe('a terminal', () => {
  const clean = { NO_COLOR: undefined, FORCE_COLOR: undefined, CI: undefined, TERM: 'xterm-256color' }
  // `script` of util-linux runs a command in a terminal of its own.
  const inTerminal = async (args: string[], env: NodeJS.ProcessEnv): Promise<string> => {
    const { code, stdout } = await runCliIn('script -qec "$*" /dev/null', args, { ...clean, ...env })
    expect(code, stdout).toBe(0)
    return stdout
  }
  const inspect = ['inspect', GOLDEN]

  test.each([{}, { NO_COLOR: '' }, { NO_COLOR: '1', FORCE_COLOR: '1' }])('has a progress bar, with %j', async (env) => {
    expect(await inTerminal(inspect, env)).toContain('\u001b[')
  })

  // A signal that ends the process would leave the terminal of the user in the mode.
  test('keeps its modes, also where it is narrower than the progress bar', async () => {
    const { code, stdout } = await runCliIn('script -qec "stty columns 40; $*" /dev/null', inspect, clean)
    expect(code, stdout).toBe(0)
    // eslint-disable-next-line no-control-regex
    expect(stdout).not.toMatch(/\u001b\[\?/)
    // eslint-disable-next-line no-control-regex
    const drawn = stdout.split(/[\r\n]|\u001b\[[\d;]*[A-Za-z]/).filter((text) => /[█░]/.test(text))
    expect(drawn).not.toEqual([])
    for (const text of drawn) expect(text.length).toBeLessThanOrEqual(40)
  })

  test.each([{ TERM: 'dumb' }, { NO_COLOR: '1' }, { FORCE_COLOR: '0' }, { TERM: 'dumb', FORCE_COLOR: '1' }])(
    'with %j gets no escape sequences',
    async (env) => {
      const text = await inTerminal(inspect, env)
      expect(text).toContain('effective rank')
      expect(text).not.toContain('\u001b')
    },
  )

  test('that is dumb gets a line per step of bench', async () => {
    const text = await inTerminal(tiny, { TERM: 'dumb' })
    expect(text).toContain('measuring cpu: 16, 32, 4, 2 float32 batch')
    expect(text).not.toContain('\u001b')
  })

  test('a pipe gets no escape sequences, even with FORCE_COLOR', async () => {
    const { stdout, stderr } = await runCli(inspect, { ...clean, FORCE_COLOR: '1' })
    expect(stdout + stderr).not.toContain('\u001b')
  })
})

describe('an unexpected error', () => {
  const fault = join(folder, 'fault.cjs')
  writeFileSync(
    fault,
    `require('node:os').release = () => { throw new TypeError('broken \\u001b[31m release') }
     require('node:module').syncBuiltinESMExports()`,
  )

  test('is one sentence, which says how to see more', async () => {
    const { code, stdout, stderr } = await runCli(['doctor'], { NODE_OPTIONS: `--require ${fault}` })
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toBe(
      'error: unexpected error: broken \\u001b[31m release; please report this; set DEBUG=lily to see where it happened\n',
    )
  })

  test('has a stack with DEBUG=lily', async () => {
    const { code, stderr } = await runCli(['doctor'], { NODE_OPTIONS: `--require ${fault}`, DEBUG: 'lily' })
    expect(code).toBe(1)
    expect(stderr).toMatch(/^error: unexpected error: broken [^\n]*\nTypeError: broken [^\n]*\n +at /)
    expect(stderr).not.toContain('\u001b')
  })

  test('an environment variable with control characters', async () => {
    const { stdout } = await runCli(['doctor'], { LILY_CUDA_LIBRARY: '/no\u001b[31m\u009b\u202e/lily.so' })
    expect(stdout).toMatch(/^environment +LILY_CUDA_LIBRARY=\/no\\u001b\[31m\\u009b\\u202e\/lily.so$/m)
    expect(/[^\P{C}\n]/u.exec(stdout)).toBeNull()
  })
})

// An option --json in front of the folder takes it for its file.
test.each([
  [
    ['--help'],
    'Usage: lily-kernels [options] [command]',
    '  inspect <folder> [options]  ',
    '1 after an error, 129 after',
  ],
  [['bench', '--help'], 'Usage: lily-kernels bench [options]', '1 if a case failed or an output could not be written'],
  [['doctor', '--help'], 'Usage: lily-kernels doctor [options]', 'The exit code is 1 if'],
  [['inspect', '--help'], 'Usage: lily-kernels inspect <folder> [options]', 'The exit code is 1 if'],
])('%j prints the usage and the exit codes', async (args, ...texts) => {
  const { code, stdout } = await runCli(args)
  expect(code).toBe(0)
  for (const text of texts) expect(stdout).toContain(text)
})
