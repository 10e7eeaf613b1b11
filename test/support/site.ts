/** A site that vite builds from the packed package, and Chromium to open its pages in. */
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core'
import { build, createServer, type InlineConfig, preview } from 'vite'
import { packageRoot } from '../../lib/binding/root.js'
import { findProgram } from './find-program.js'

/** The program of Chromium, of Debian's package or of others; undefined if none is installed. */
export const chromiumProgram = ['chromium', 'google-chrome', 'chromium-browser']
  .map((name) => findProgram(name))
  .find((program) => program !== undefined)

/** Why pages of the package are not tested; undefined if they are. */
export function pagesMissing(): string | undefined {
  if (chromiumProgram === undefined) return 'there is no chromium (Debian: apt install chromium)'
  if (existsSync(join(packageRoot, 'dist', 'browser'))) return undefined
  return 'dist/browser is not built, because there is no build of WebAssembly'
}

/** Headers with which a page may share memory between threads. */
export const ISOLATED = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
}

/**
 * Options of Chromium with which it has the software adapter of WebGPU; without them it has none. The last one leaves
 * workgroup memory without zeros, which no kernel reads: SwiftShader's compiler takes some ten times as long with them.
 */
export const WEBGPU = [
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--enable-features=Vulkan,WebGPU',
  '--enable-dawn-features=disable_workgroup_init',
]

/** How a page is opened. */
export interface Opening extends BrowserContextOptions {
  /** Options of Chromium. */
  readonly args?: string[]
  /** Runs in the page before its scripts. */
  readonly before?: () => void
}

/** What a page logged and requested, and its errors. */
export interface Visit {
  readonly page: Page
  readonly printed: string[]
  readonly requests: string[]
  readonly errors: string[]
}

export class Site {
  readonly #folder: string
  readonly #config: InlineConfig
  readonly #closes: (() => Promise<unknown>)[] = []
  readonly #browsers = new Map<string, Promise<Browser>>()

  /**
   * @param source files by their names, of which each *.html is a page; or the folder of a project of vite
   * @param packages folders of packages that the checkout does not have, by their names
   */
  constructor(
    source: Readonly<Record<string, string | Uint8Array>> | string,
    packages: Readonly<Record<string, string>> = {},
  ) {
    // In the checkout, whose node_modules/ has the dependencies of the package.
    this.#folder = mkdtempSync(join(packageRoot, 'build', 'site-'))
    const installed = join(this.#folder, 'node_modules', 'lily-kernels')
    mkdirSync(installed, { recursive: true })
    execFileSync('tar', ['-xzf', tarballIn(this.#folder), '-C', installed, '--strip-components=1'])
    for (const [name, folder] of Object.entries(packages)) {
      const link = join(this.#folder, 'node_modules', name)
      mkdirSync(dirname(link), { recursive: true })
      symlinkSync(folder, link)
    }
    if (typeof source === 'string') {
      const isSource = (name: string) => !/\/(dist|node_modules)$/.test(name)
      cpSync(source, this.#folder, { recursive: true, filter: isSource })
      this.#config = { root: this.#folder, configFile: join(this.#folder, 'vite.config.ts'), logLevel: 'warn' }
      return
    }
    const pages = Object.keys(source).filter((name) => name.endsWith('.html'))
    for (const [name, text] of Object.entries({ 'package.json': '{ "private": true }', ...source })) {
      mkdirSync(dirname(join(this.#folder, name)), { recursive: true })
      writeFileSync(join(this.#folder, name), text)
    }
    this.#config = {
      root: this.#folder,
      configFile: false,
      logLevel: 'warn',
      build: {
        rolldownOptions: { input: Object.fromEntries(pages.map((name) => [name, join(this.#folder, name)])) },
        chunkSizeWarningLimit: Infinity,
      },
    }
  }

  /** Builds the pages. */
  async build(): Promise<void> {
    await build(this.#config)
  }

  /** Serves the built pages with such headers. Returns the address. */
  async serve(headers: Readonly<Record<string, string>>): Promise<string> {
    const server = await preview({ ...this.#config, preview: { port: 0, headers } })
    this.#closes.push(() => server.close())
    return server.resolvedUrls!.local[0]
  }

  /** Starts the development server, which bundles dependencies when a page first imports them. Returns the address. */
  async develop(): Promise<string> {
    const server = await createServer({ ...this.#config, server: { port: 0 } })
    this.#closes.push(() => server.close())
    await server.listen()
    return server.resolvedUrls!.local[0]
  }

  /** Opens a page, and waits until its scripts have run. */
  async open(url: string, { args = [], before, ...options }: Opening = {}): Promise<Visit> {
    const page = await (await this.#browserWith(args)).newPage(options)
    if (before !== undefined) await page.addInitScript(before)
    const visit: Visit = { page, printed: [], requests: [], errors: [] }
    page.on('console', (message) => {
      if (message.type() === 'log') visit.printed.push(message.text())
    })
    page.on('request', (request) => visit.requests.push(request.url()))
    page.on('pageerror', (error) => visit.errors.push(String(error)))
    await page.goto(url)
    return visit
  }

  #browserWith(args: string[]): Promise<Browser> {
    const key = args.join(' ')
    let browser = this.#browsers.get(key)
    if (browser === undefined) {
      // Containers run tests as root, which the sandbox refuses.
      browser = chromium.launch({ executablePath: chromiumProgram!, chromiumSandbox: false, args })
      const launched = browser
      this.#browsers.set(key, browser)
      this.#closes.unshift(async () => (await launched).close())
    }
    return browser
  }

  async remove(): Promise<void> {
    for (const close of this.#closes) await close()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

/** The packed package: with LILY_TEST_PACKED=1 that of `npm run check:package`, otherwise a new one in a folder. */
function tarballIn(folder: string): string {
  const packed = join(packageRoot, 'build', 'package')
  if (process.env.LILY_TEST_PACKED === '1') return join(packed, readdirSync(packed)[0])
  const pack = ['pack', '--ignore-scripts', '--silent', '--pack-destination', folder]
  return join(folder, execFileSync('npm', pack, { cwd: packageRoot, encoding: 'utf8' }).trim())
}
