/** Node.js for Windows under Wine. */
import { execFileSync, spawn } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runtimeProgram } from '../support/runtimes.js'

export interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

/** The path of a file of this machine, as a program for Windows names it. */
export const windowsPath = (path: string): string => `Z:${path.replaceAll('/', '\\')}`

/** Its URL there. */
export const windowsUrl = (path: string): string => `file:///Z:${path}`

/** An installation of Wine, with no display and no settings of the user. */
export class Wine {
  /** Of its own, which `remove` removes. */
  readonly folder = mkdtempSync(join(tmpdir(), 'lily-wine-'))
  readonly #environment = {
    ...Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !/^(npm_|LILY_|VITEST|NODE_|DISPLAY)/i.test(name)),
    ),
    WINEPREFIX: join(this.folder, 'prefix'),
    WINEDEBUG: '-all',
    // Neither menus nor the engines of .NET and HTML, which Wine would ask to download.
    WINEDLLOVERRIDES: 'winemenubuilder.exe,mscoree,mshtml=',
    // Names of files are UTF-8.
    LC_ALL: 'C.UTF-8',
    // Not the addon of this machine, in build/.
    PREBUILDS_ONLY: '1',
    LILY_TEST_BACKEND: 'cpu',
    LILY_CUDA_LIBRARY: 'none',
  }
  readonly #node = runtimeProgram('Node 22 for Windows')
  #runs = 0

  /** The first start, which takes some ten seconds and must end before another one begins. */
  async start(): Promise<void> {
    const { code, stderr } = await this.run(['-e', '0'])
    if (code !== 0) throw new Error(`Node.js for Windows does not start: ${stderr}`)
  }

  /** Runs Node.js. Under Wine it can write to a file, but not to a pipe of this machine. */
  async run(args: readonly string[], env: NodeJS.ProcessEnv = {}, cwd = this.folder): Promise<Ended> {
    const [out, err] = ['out', 'err'].map((name) => join(this.folder, `${name}-${this.#runs}`))
    this.#runs++
    const files = [openSync(out, 'w'), openSync(err, 'w')]
    const stdio: ['ignore', number, number] = ['ignore', files[0], files[1]]
    const child = spawn('wine', [this.#node, ...args], { cwd, env: { ...this.#environment, ...env }, stdio })
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject)
      child.on('exit', resolve)
    })
    files.forEach(closeSync)
    return { code, stdout: readFileSync(out, 'utf8'), stderr: readFileSync(err, 'utf8') }
  }

  remove(): void {
    // Programs of Wine that stay for the next one.
    execFileSync('wineserver', ['-k', '-w'], { env: this.#environment })
    rmSync(this.folder, { recursive: true, force: true })
  }
}
