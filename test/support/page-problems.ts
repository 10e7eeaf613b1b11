/** What is wrong with a page in Chromium. */
import { source as axeSource } from 'axe-core'
import type { Page } from 'playwright-core'

/** Globals of the page. */
declare const document: { readonly documentElement: { readonly scrollWidth: number } }
declare const innerWidth: number
declare const axe: { run(): Promise<{ violations: { id: string; nodes: { target: string[] }[] }[] }> }

/** What is wrong with the page as it is shown, on a phone and on a desktop, in light and in dark colours. */
export async function problemsOf(page: Page): Promise<string[]> {
  const found: string[] = []
  await page.evaluate(axeSource)
  for (const width of [390, 1280]) {
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.setViewportSize({ width, height: 844 })
      await page.emulateMedia({ colorScheme })
      const name = `at ${width} px, ${colorScheme}`
      const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
      if (wider > 0) found.push(`${name}: ${wider} px wider than the screen`)
      const violations = await page.evaluate(() => axe.run().then((result) => result.violations))
      for (const { id, nodes } of violations) {
        found.push(`${name}: ${id}: ${nodes.map(({ target }) => target.join(' ')).join(' | ')}`)
      }
    }
  }
  return found
}
