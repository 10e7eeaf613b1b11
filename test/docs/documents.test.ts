/**
 * The Markdown files as text: every code block is run by a test or listed with the reason why not, commands name npm scripts
 * and files that exist, and links work where files are read, on GitHub or in an editor. test/site checks those of the site.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { pages, programsOf } from '../support/guides.js'

/** Languages of blocks that are no programs, and who checks them. */
const CHECKED: Readonly<Record<string, string>> = {
  text: 'the output of the program before it, which test/docs/guides.test.ts compares',
  sh: 'commands, checked below as those of indented blocks are',
  math: 'formulas, which the build of the site renders',
}

const { scripts } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as {
  scripts: Record<string, string>
}

/** All documents; those of downloaded packages and of builds are not ours. */
const documents = [
  '.',
  'docs',
  'docs/decisions',
  'examples',
  'examples/browser',
  'examples/distributed',
  'examples/finetune',
  'bench',
  'bench/results',
  'emulator',
  'native',
  'native/cpu',
  'native/cuda',
  '.github',
].flatMap((folder) =>
  readdirSync(join(packageRoot, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => normalize(join(folder, name))),
)
const read = (document: string) => readFileSync(join(packageRoot, document), 'utf8')

/** A document without its blocks and its code. */
const proseOf = (document: string) =>
  read(document)
    .replace(/^```.*?^```$/gms, '')
    .replace(/^ {4}.*$/gm, '')
    .replace(/`[^`\n]*`/g, '')

/** The identifiers that GitHub gives to headings. */
function headingsOf(document: string): Set<string> {
  const headings = read(document)
    .replace(/^```.*?^```$/gms, '')
    .matchAll(/^#+ (.*)$/gm)
  const slugs = Array.from(headings, ([, text]) =>
    text
      .toLowerCase()
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/\s/g, '-'),
  )
  return new Set(slugs)
}

describe.each(documents)('%s', (document) => {
  test('has code blocks that are checked', () => {
    const languages = Array.from(read(document).matchAll(/^```(\w*)\n.*?^```$/gms), ([, language]) => language)
    expect(languages.filter((language) => language !== 'js' && !(language in CHECKED))).toEqual([])
    const { other, ...counts } = pages[document] ?? {}
    const listed = Object.values(counts).reduce((sum, count) => sum + count, 0)
    if (other === undefined) expect(programsOf(document)).toHaveLength(listed)
    else expect(programsOf(document), 'there is nothing to leave out').not.toEqual([])
  })

  test('has programs of at most 80 columns', () => {
    const lines = programsOf(document).flatMap(({ source }) => source.split('\n'))
    expect(lines.filter((line) => line.length > 80)).toEqual([])
  })

  test('has commands that exist', () => {
    const text = read(document)
    const named = Array.from(text.matchAll(/\bnpm run (?:-s |--silent )?([\w:-]+)/g), ([, name]) => name)
    expect(named.filter((name) => !(name in scripts))).toEqual([])
    const files = Array.from(text.matchAll(/\b(?:node|npx tsx|bash) ([\w./-]+\.(?:js|ts|sh))\b/g), ([, file]) => file)
    expect(files.filter((file) => !file.startsWith('dist/') && !existsSync(join(packageRoot, file)))).toEqual([])
    const commands = Array.from(text.matchAll(/\bnpx lily-kernels (\w+)/g), ([, command]) => command)
    expect(commands.filter((command) => !existsSync(join(packageRoot, 'cli', command)))).toEqual([])
  })

  test('has links that lead somewhere', () => {
    const prose = proseOf(document)
    const links = [
      ...Array.from(prose.matchAll(/\]\(([^)\s]+)\)/g), ([, link]) => link),
      ...Array.from(prose.matchAll(/^\[[^\]]+\]: (\S+)$/gm), ([, link]) => link),
    ]
    const broken = links.filter((link) => {
      if (/^[a-z]+:/.test(link)) return !link.startsWith('https://') || !URL.canParse(link)
      const [path, id] = link.split('#')
      // Those of the home page begin at the root, because it is the root of the site.
      const target =
        path === '' ? document : normalize(path.startsWith('/') ? path.slice(1) : join(dirname(document), path))
      if (!statSync(join(packageRoot, target), { throwIfNoEntry: false })?.isFile()) return true
      return id !== undefined && !headingsOf(target).has(id)
    })
    expect(broken).toEqual([])
  })
})

/** The files below a folder, without installed packages, of which one is a link to this checkout. */
function filesBelow(folder: string): string[] {
  return readdirSync(join(packageRoot, folder), { withFileTypes: true }).flatMap((entry) => {
    const name = join(folder, entry.name)
    if (entry.isDirectory()) return /^(node_modules|dist)$/.test(entry.name) ? [] : filesBelow(name)
    return [name]
  })
}

test('the documents that the code names exist', () => {
  const folders = ['lib', 'cli', 'native', 'emulator', 'bench', 'scripts', 'examples', 'test', 'docs/.vitepress']
  const files = folders.flatMap(filesBelow).filter((name) => /\.(ts|js|c|cc|cu|cuh|h|py|sh)$/.test(name))
  const broken = files.flatMap((file) =>
    Array.from(
      read(file).matchAll(/(?<![\w/.])(?:docs|native|bench|emulator)\/[\w/-]+\.md(?:#[\w-]+)?/g),
      ([name]) => name,
    )
      .filter((name) => {
        const [path, id] = name.split('#')
        // Those of other repositories have an address before them; docs/api/ is built.
        if (path.startsWith('docs/api/')) return false
        return !existsSync(join(packageRoot, path)) || (id !== undefined && !headingsOf(path).has(id))
      })
      .map((name) => `${file}: ${name}`),
  )
  expect(files.length).toBeGreaterThan(500)
  expect(broken).toEqual([])
})

test('the list of pages with programs has no other files', () => {
  expect(Object.keys(pages).filter((page) => !documents.includes(page))).toEqual([])
})

test('the documents are those that git has', (context) => {
  const listed = ['ls-files', '--cached', '--others', '--exclude-standard', '--', '*.md']
  let output: string
  try {
    output = execFileSync('git', listed, { cwd: packageRoot, encoding: 'utf8' })
  } catch {
    context.skip('this is no git checkout')
    return
  }
  const found = output.split('\n').filter((file) => file !== '' && existsSync(join(packageRoot, file)))
  const reports = (file: string) => file.startsWith('test/fixtures/')
  expect(found.filter((file) => !reports(file)).sort()).toEqual([...documents].sort())
})
