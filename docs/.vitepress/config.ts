/**
 * The documentation site. Its pages are the Markdown files of the repository, under the same relative paths, so that a
 * link works there and here; docs/api/ is written by typedoc. `npm run docs` builds it into build/site/.
 */
import { copyFileSync, mkdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitepress'
import { accessible } from './accessible.js'
import { charts } from './charts.js'
import { math } from './math.js'
import { linkedFiles, repositoryFiles } from './repository-files.js'
import { type ApiModel, apiSidebar, guides } from './sidebar.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const { version, description } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, string>
const api = JSON.parse(readFileSync(join(root, 'build/api.json'), 'utf8')) as ApiModel

/** Pages whose tables need the width of the outline. */
const wide = ['docs/comparison.md', 'docs/performance.md', 'docs/cuda.md', 'docs/interop.md']

/** A lily of three strokes, as text, because a file would be one more request. */
const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><g fill="none" stroke="#7c4dbe" stroke-width="3" stroke-linecap="round"><path d="M16 29V15"/><path d="M16 19C8 18 4 12 5 4c6 1 10 6 11 13"/><path d="M16 19c8-1 12-7 11-15-6 1-10 6-11 13"/></g></svg>`

export default defineConfig({
  title: 'lily-kernels',
  description,
  lang: 'en-GB',
  srcDir: '..',
  outDir: '../build/site',
  cacheDir: '../build/vitepress',
  // The README is the page of the package on npm; the site has a home page of its own.
  srcExclude: ['README.md', 'native/cpu/STEPS.md', 'build/**', 'test/**', '.github/**', 'node_modules/**'],
  rewrites: { 'docs/index.md': 'index.md' },
  head: [['link', { rel: 'icon', href: `data:image/svg+xml,${encodeURIComponent(icon)}` }]],
  lastUpdated: false,
  markdown: {
    theme: { light: 'github-light-high-contrast', dark: 'github-dark-high-contrast' },
    config(md) {
      math(md)
      accessible(md)
      charts(md, root)
      repositoryFiles(md, root)
    },
  },
  themeConfig: {
    search: {
      provider: 'local',
      options: {
        miniSearch: {
          searchOptions: {
            // A short word, such as "out", is not the beginning of another one, and not another one misspelt.
            prefix: (term) => term.length > 3,
            fuzzy: (term) => (term.length > 5 ? 0.2 : false),
            // A guide explains what the API, the decisions and the results only name.
            boostDocument: (id) =>
              /\/docs\/(api|decisions)\/|\/(bench|native|emulator)\/|\/(CHANGELOG|CONTRIBUTING)/.test(String(id))
                ? 0.4
                : 1,
          },
        },
      },
    },
    nav: [
      { text: 'Guides', link: '/docs/getting-started', activeMatch: '^/(docs/(?!api|decisions|comparison)|examples)' },
      { text: 'API', link: '/docs/api/', activeMatch: '^/docs/api/' },
      { text: 'Compared', link: '/docs/comparison' },
      {
        text: `v${version}`,
        items: [
          { text: 'Changelog', link: '/CHANGELOG' },
          { text: 'Contributing', link: '/CONTRIBUTING' },
        ],
      },
    ],
    sidebar: { '/docs/api/': apiSidebar(api), '/': guides },
    outline: { level: [2, 3] },
    docFooter: { prev: 'Previous', next: 'Next' },
  },
  vite: {
    server: { watch: { ignored: ['**/build/**', '**/dist/**', '**/native/**', '**/emulator/**', '**/test/**'] } },
    build: { chunkSizeWarningLimit: 5000 },
  },
  transformPageData(page) {
    const isReport = /^bench\/results\/(?!README)/.test(page.relativePath)
    if (isReport || wide.includes(page.relativePath)) page.frontmatter.aside = false
  },
  /** Files of the repository that pages link to are part of the site. */
  buildEnd({ outDir }) {
    for (const file of linkedFiles) {
      const isFile = statSync(join(root, file), { throwIfNoEntry: false })?.isFile()
      if (isFile !== true) throw new Error(`a page links to ${file}, which is no file; link a page of a folder instead`)
      mkdirSync(dirname(join(outDir, file)), { recursive: true })
      copyFileSync(join(root, file), join(outDir, file))
    }
  },
})
