/**
 * The documentation site as `npm run docs` builds it, served on the loopback and looked at in headless Chromium: what a page
 * shows on a phone and on a desktop, in light and in dark colours, and to a screen reader (axe-core).
 *
 * @long
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { source as axeSource } from 'axe-core'
import { transform } from 'esbuild'
import { type Browser, chromium, type Page } from 'playwright-core'
import { preview, type PreviewServer } from 'vite'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { chromiumProgram } from '../support/site.js'

const folder = join(packageRoot, 'build', 'site')

/** Pages that look like others of their kind. */
const ALIKE =
  /^(bench\/results\/(?!README|peers-zen5|cpu-zen4-avx512bf16-2-threads\.|step-)|docs\/decisions\/(?!README|0001))/

/** Of the pages of the API, one of each kind. */
const API = [
  'docs/api/index.html',
  'docs/api/lily-kernels/functions/lilyForward.html',
  'docs/api/lily-kernels/functions/lilyBackwardAsync.html',
  'docs/api/lily-kernels/classes/LilyModel.html',
  'docs/api/lily-kernels/classes/Tensor.html',
  'docs/api/lily-kernels/interfaces/LilyForwardOptions.html',
  'docs/api/lily-kernels/interfaces/LoraBackwardOperands.html',
  'docs/api/lily-kernels/type-aliases/LilyErrorCode.html',
  'docs/api/lily-kernels/variables/deviceTensor.html',
  'docs/api/lily-kernels/tfjs/functions/adapt.html',
]

/** Names of axe's rules that depend on the colours, and of those that depend on the width. */
const COLOURS = ['color-contrast', 'link-in-text-block']
const SMALL = ['scrollable-region-focusable', 'target-size', 'button-name', 'link-name', 'aria-hidden-focus']

const missing =
  chromiumProgram === undefined && process.env.CI !== 'true'
    ? 'there is no chromium (Debian: apt install chromium)'
    : undefined
if (missing !== undefined) test('in Chromium', (context) => context.skip(missing))

/** All files of a folder, relative to it. */
const filesIn = (root: string) =>
  readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))

/** Opens a page and waits until Vue has mounted it, which is later than its load: buttons then have names, and keys work. */
async function visit(page: Page, address: string): Promise<void> {
  await page.goto(address, { waitUntil: 'load' })
  await page.waitForFunction("document.querySelector('#app').__vue_app__ !== undefined")
}

describe.skipIf(missing !== undefined)('the documentation site', () => {
  let files: Set<string>
  let pages: string[]
  let server: PreviewServer
  let browser: Browser
  let address: string
  const errors: string[] = []
  const foreign: string[] = []

  beforeAll(async () => {
    execFileSync('npm', ['run', '--silent', 'docs'], { cwd: packageRoot, stdio: ['ignore', 'ignore', 'inherit'] })
    files = new Set(filesIn(folder))
    const html = [...files].filter((file) => file.endsWith('.html') && file !== '404.html')
    pages = [...html.filter((file) => !file.startsWith('docs/api/') && !ALIKE.test(file)), ...API].sort()
    server = await preview({
      configFile: false,
      root: packageRoot,
      logLevel: 'warn',
      build: { outDir: folder },
      preview: { port: 0 },
    })
    address = server.resolvedUrls!.local[0]
    // Containers run tests as root, which the sandbox refuses.
    browser = await chromium.launch({ executablePath: chromiumProgram!, chromiumSandbox: false })
  })
  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  /** Opens a page, and notes its errors and the requests that it makes to other servers. */
  async function open(): Promise<Page> {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: 'reduce' })
    const page = await context.newPage()
    page.on('pageerror', (error) => errors.push(`${page.url()}: ${String(error)}`))
    page.on('console', (message) => {
      if (message.type() === 'error') errors.push(`${page.url()}: ${message.text()}`)
    })
    page.on('request', (request) => {
      if (!request.url().startsWith(address) && !request.url().startsWith('data:')) foreign.push(request.url())
    })
    return page
  }

  test('has the pages of the sidebar and all names of the API', () => {
    const { children } = JSON.parse(readFileSync(join(packageRoot, 'build', 'api.json'), 'utf8')) as {
      children: { name: string; children: { name: string; target?: number }[] }[]
    }
    // What an entry point takes from another has its page there.
    const names = children.flatMap((module) =>
      module.children
        .filter(({ target }) => target === undefined)
        .map(({ name }) => `${module.name}/[\\w-]+/${name}.html`),
    )
    expect(names.length).toBeGreaterThan(150)
    const paths = [...files].join('\n')
    const index = readFileSync(join(folder, 'docs', 'api', 'index.html'), 'utf8')
    expect(names.filter((name) => !new RegExp(`href="[^"]*/${name}"`).test(index))).toEqual([])
    expect(names.filter((name) => !new RegExp(`^docs/api/${name}$`, 'm').test(paths))).toEqual([])
    expect(API.filter((page) => !files.has(page))).toEqual([])
  })

  test('every link within the site leads to a file, and every link to a part of a page to its heading', () => {
    const html = new Map(
      [...files]
        .filter((file) => file.endsWith('.html'))
        .map((file) => [file, readFileSync(join(folder, file), 'utf8')]),
    )
    const ids = new Map(
      Array.from(html, ([file, text]) => [file, new Set(Array.from(text.matchAll(/\sid="([^"]+)"/g), ([, id]) => id))]),
    )
    const broken: string[] = []
    for (const [file, text] of html) {
      if (file === '404.html') continue
      for (const [, href] of text.matchAll(/<a\b[^>]*\shref="([^"]+)"/g)) {
        const url = new URL(href.replaceAll('&amp;', '&'), `https://site.invalid/${file}`)
        if (url.host !== 'site.invalid') {
          if (url.protocol !== 'https:' && url.protocol !== 'http:') broken.push(`${file}: ${href}`)
          continue
        }
        const path = decodeURIComponent(url.pathname).slice(1)
        const target = [path, `${path}.html`, join(path, 'index.html')].find((name) => files.has(name))
        const id = decodeURIComponent(url.hash).slice(1)
        if (target === undefined || (id !== '' && ids.get(target)?.has(id) !== true)) broken.push(`${file}: ${href}`)
      }
    }
    expect([...new Set(broken)]).toEqual([])
  })

  test('the documents that the API names are links', () => {
    const unlinked = [...files]
      .filter((file) => file.startsWith('docs/api/') && file.endsWith('.html'))
      .flatMap((file) => {
        const [, content = ''] = /<main\b.*?>(.*)<\/main>/s.exec(readFileSync(join(folder, file), 'utf8')) ?? []
        const text = content.replace(/<a\b.*?<\/a>/gs, '').replace(/<[^>]*>/g, '')
        return Array.from(text.matchAll(/\bdocs\/[\w/-]+\.md/g), ([name]) => `${file}: ${name}`)
      })
    expect(unlinked).toEqual([])
  })

  test('the examples of the API are programs', async () => {
    const model = readFileSync(join(packageRoot, 'build', 'api.json'), 'utf8')
    const examples = Array.from(model.matchAll(/"```ts\\n(?:[^"\\]|\\.)*```"/g), ([text]) => JSON.parse(text) as string)
    expect(examples.length).toBeGreaterThan(50)
    const failed = await Promise.all(
      examples.map(async (example) => {
        const source = example.replace(/^```ts\n|```$/g, '')
        return transform(source, { loader: 'ts', format: 'esm' }).then(
          () => '',
          (error: unknown) => `${source}: ${String(error)}`,
        )
      }),
    )
    expect(failed.filter((message) => message !== '')).toEqual([])
  })

  test('renders every formula', () => {
    const blocks = readFileSync(join(packageRoot, 'docs/math.md'), 'utf8').match(/^```math$/gm)!
    const rendered = readFileSync(join(folder, 'docs/math.html'), 'utf8').match(/class="katex-display"/g)!
    expect(blocks.length).toBeGreaterThan(10)
    expect(rendered).toHaveLength(blocks.length)
  })

  test('the page of a layer lists the operands and the options of its methods', () => {
    const html = readFileSync(join(folder, 'docs/api/lily-kernels/interfaces/LilyLayer.html'), 'utf8')
    for (const name of ['weight?', 'routing?', 'sequenceOffsets?', 'needs?', 'retain?']) {
      expect(html).toContain(`<td><code>${name}</code></td>`)
    }
  })

  test('has the charts of the results', () => {
    const html = readFileSync(join(folder, 'bench/results/cpu-zen4-avx512bf16-2-threads.html'), 'utf8')
    expect(html.match(/<svg /g)?.length).toBeGreaterThan(5)
  })

  test('no page is wider than the screen, and axe finds nothing', async () => {
    const found: string[] = []
    const queue = [...pages]
    // Two pages at a time: the machine of the gate has two cores.
    const look = async () => {
      const view = await open()
      for (let page = queue.shift(); page !== undefined; page = queue.shift()) {
        await view.emulateMedia({ colorScheme: 'light' })
        await view.setViewportSize({ width: 1280, height: 900 })
        await visit(view, `${address}${page}`)
        await view.evaluate(axeSource)
        found.push(...(await problemsOf(view, `${page} at 1280 px, light`)))
        await view.emulateMedia({ colorScheme: 'dark' })
        found.push(...(await problemsOf(view, `${page} at 1280 px, dark`, COLOURS)))
        await view.setViewportSize({ width: 390, height: 844 })
        found.push(...(await problemsOf(view, `${page} at 390 px, dark`, SMALL)))
      }
    }
    await Promise.all([look(), look()])
    expect(found).toEqual([])
  }, 600_000)

  test.each([
    ['lilyForwardAsync', 'functions/lilyForwardAsync'],
    ['cross-origin isolated', 'docs/platforms'],
    ['resume training', 'docs/model.html#save-and-resume'],
    ['out of memory', 'docs/memory.html#out-of-memory'],
    ['two tenants', 'docs/serving'],
  ])('the first three results of a search for %s have the page that explains it', async (query, href) => {
    const page = await open()
    await visit(page, address)
    await page.keyboard.press('Control+k')
    await page.locator('.VPLocalSearchBox input').fill(query)
    const found = page.locator(`.VPLocalSearchBox .results > li:nth-child(-n+3) a[href*="${href}"]`)
    await found.first().waitFor({ timeout: 30_000 })
  })

  test('the page of an operation shows its operands with shapes, its options and its result', () => {
    const html = readFileSync(join(folder, 'docs/api/lily-kernels/functions/lilyForward.html'), 'utf8')
    for (const heading of ['operands', 'options', 'result']) expect(html).toContain(`id="${heading}"`)
    for (const text of ['sequenceOffsets?', 'adapterOf?', '[..., d_in]', 'What backward needs'])
      expect(html).toContain(text)
  })

  test('links to reports lead to pages, each of which offers its JSON', () => {
    const html = [...files].filter((file) => file.endsWith('.html'))
    const toJson = html.flatMap((file) => {
      const links = readFileSync(join(folder, file), 'utf8').match(/<a\b[^>]*\shref="[^"]*-[^"/]*\.json"[^>]*>/g) ?? []
      return links.map((link) => ({ file, link }))
    })
    expect(toJson.length).toBeGreaterThan(5)
    expect(
      toJson.filter(({ file, link }) => !file.startsWith('bench/results/') || !link.includes(' download')),
    ).toEqual([])
    expect(readFileSync(join(folder, 'bench/results/step-xeon-avx512-2-threads.html'), 'utf8')).toContain(
      'TensorFlow.js',
    )
  })

  test('no page, and no search, requests anything from another server or logs an error', () => {
    expect(foreign).toEqual([])
    expect(errors).toEqual([])
  })

  test('is no part of the npm package', () => {
    const [packed] = JSON.parse(
      execFileSync('npm', ['pack', '--dry-run', '--ignore-scripts', '--json'], { cwd: packageRoot, encoding: 'utf8' }),
    ) as [{ files: { path: string }[] }]
    expect(
      packed.files.map(({ path }) => path).filter((path) => /^(docs\/api|build)\/|vitepress|typedoc/.test(path)),
    ).toEqual([])
    expect(existsSync(join(folder, 'index.html'))).toBe(true)
  })
})

/** What is wrong with a page as it is shown. */
async function problemsOf(view: Page, name: string, rules?: readonly string[]): Promise<string[]> {
  const options = { resultTypes: ['violations'], ...(rules === undefined ? {} : { runOnly: rules }) }
  const wider = await view.evaluate(() => document.documentElement.scrollWidth - innerWidth)
  const violations = await view.evaluate((chosen) => axe.run(chosen).then((result) => result.violations), options)
  return [
    ...(wider > 0 ? [`${name}: ${wider} px wider than the screen`] : []),
    ...violations.map(
      ({ id, nodes }) =>
        `${name}: ${id}: ${nodes
          .slice(0, 3)
          .map(({ target }) => target.join(' '))
          .join(' | ')}`,
    ),
  ]
}

/** A global of the pages, once axe is loaded. */
declare const axe: {
  run(options: object): Promise<{ violations: { id: string; nodes: { target: string[] }[] }[] }>
}
declare const document: { readonly documentElement: { readonly scrollWidth: number } }
declare const innerWidth: number
