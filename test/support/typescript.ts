/** Programs that import the built package, as TypeScript sees them. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import { packageRoot } from '../../lib/binding/root.js'

/** All checks, also of the declarations of the package. Without types of Node.js. */
export const ALL_CHECKS: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'],
  types: [],
  noEmit: true,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  strict: true,
}

/** The programs of pages are JavaScript: parameters of their functions have no types. */
const UNTYPED_PARAMETERS = new Set([7006, 7019, 7031])

/**
 * The errors of programs, each with its file and line.
 *
 * @param sources by file name
 */
export function errorsOf(sources: ReadonlyMap<string, string>, options = ALL_CHECKS): string[] {
  const folder = mkdtempSync(join(packageRoot, 'build', 'types-'))
  try {
    mkdirSync(join(folder, 'node_modules'))
    symlinkSync(packageRoot, join(folder, 'node_modules', 'lily-kernels'))
    for (const [name, source] of sources) writeFileSync(join(folder, name), source)
    const program = ts.createProgram(
      Array.from(sources.keys(), (name) => join(folder, name)),
      options,
    )
    const errors = ts.getPreEmitDiagnostics(program).filter(({ code }) => !UNTYPED_PARAMETERS.has(code))
    return errors.map(({ file, start, messageText }) => {
      const line =
        file === undefined ? '' : `${file.fileName}:${file.getLineAndCharacterOfPosition(start ?? 0).line + 1}: `
      return line + ts.flattenDiagnosticMessageText(messageText, '\n')
    })
  } finally {
    rmSync(folder, { recursive: true })
  }
}
