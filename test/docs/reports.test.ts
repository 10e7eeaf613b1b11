/** The pages of the site for reports in bench/results. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { reportNames, reportPage } from '../../docs/.vitepress/reports.js'
import { packageRoot } from '../../lib/binding/root.js'

test('a report begins with its title, command and machine, and has its numbers with units', () => {
  const name = 'distributed-zen3-2-ranks'
  const report = JSON.parse(readFileSync(join(packageRoot, 'bench', 'results', `${name}.json`), 'utf8')) as {
    command: string
    rows: { bytes: number; results: { way: string; median: number; spread: number; ratioToC: number }[] }[]
  }
  const page = reportPage(packageRoot, name)
  const [title, command, machine] = page.split('\n\n')
  expect(title).toBe('# Zen 3, averages of gradients beside MPI_Allreduce, 2 ranks')
  expect(command).toBe(`\`${report.command}\``)
  expect(machine).toBe('AMD EPYC, avx2, 1 thread, linux-x64')
  const lines = page.split('\n').filter((line) => line.startsWith('|'))
  expect(lines.slice(0, 2)).toEqual([
    '| library | bytes | way | median, ms | spread, % | samples | ratio to C |',
    '| --- | --: | --- | --: | --: | --: | --: |',
  ])
  const shown = lines.slice(2).map((line) => line.split('|').map((cell) => cell.trim().replaceAll(',', '')))
  const measured = report.rows.flatMap(({ bytes, results }) => results.map((result) => ({ bytes, ...result })))
  expect(shown).toHaveLength(measured.length)
  for (const [i, { bytes, median, spread, ratioToC }] of measured.entries()) {
    const [, , ownBytes, , milliseconds, percent, , ratio] = shown[i].map(Number)
    expect(ownBytes).toBe(bytes)
    for (const [cell, value] of [
      [milliseconds, 1000 * median],
      [percent, 100 * spread],
      [ratio, ratioToC],
    ]) {
      expect(Math.abs(cell / value - 1)).toBeLessThan(5.1e-3)
    }
  }
})

test('each report has a title in words and a command', () => {
  for (const name of reportNames(packageRoot)) {
    const page = reportPage(packageRoot, name)
    expect(page).toMatch(/^# [A-Z].* .*\n\n(.+\n\n)?`npm run|^# [A-Z].* .*\n\n(.+\n\n)?`npx lily-kernels bench/)
    expect(page).not.toMatch(/NaN|undefined|\[object/)
    for (const [header] of page.matchAll(/^.*\n\| -/gm)) expect(header).not.toMatch(/[a-z][A-Z]/)
  }
})

test('what all rows have in common is above the table, and a range has its ends', () => {
  const page = reportPage(packageRoot, 'cuda-resources')
  expect(page).toContain('All rows: local bytes 0.')
  expect(page).toMatch(/\| architecture \| kernel \| variants \| registers \| shared bytes \|/)
  expect(page).toMatch(/\| backward\\_dy \| 4 \| 143 to 175 \| 33,792 to 50,432 \| 1 \| 4 \| 32 \|/)
})
