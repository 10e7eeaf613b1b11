/**
 * Bundles the golden cases and the modes into build/suites.mjs, which scripts/try-package.js runs on an installed package:
 *
 *     npx tsx scripts/bundle-suites.ts
 */
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { bundleSuites } from '../test/support/portable/bundle.js'

async function main(): Promise<void> {
  writeFileSync(fileURLToPath(new URL('../build/suites.mjs', import.meta.url)), await bundleSuites())
}

void main()
