/** What TypeScript says of a misspelt option, for every function, constructor and method of the built package that has options. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import { expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { ALL_CHECKS, errorsOf } from '../support/typescript.js'

const OPTIONS: ts.CompilerOptions = { ...ALL_CHECKS, skipLibCheck: true }

test('the error of a misspelt option names the one that was meant', () => {
  const { declared, calls } = misspeltCalls()
  expect(calls.length).toBeGreaterThan(200)
  const source = [declared.join('; '), ...calls.map(({ call }) => call)].join('\n')
  const errors = errorsOf(new Map([['misspelt.mts', source]]), OPTIONS)
  const suggested = errors.map((error) => {
    const [, line, name] = /:(\d+): .*Did you mean to write '(\w+)'\?/s.exec(error) ?? []
    return line === undefined ? error : `${calls[Number(line) - 2].call} -> ${name}`
  })
  expect(suggested).toEqual(calls.map(({ call, name }) => `${call} -> ${name}`))
})

/** Calls with a misspelt option, alone and beside another one, and with a misspelt property of an option. */
function misspeltCalls(): { declared: string[]; calls: { call: string; name: string }[] } {
  const files = declarations()
  const program = ts.createProgram([...files.values()], OPTIONS)
  const checker = program.getTypeChecker()
  const declared = ['declare const any: any']
  const calls: { call: string; name: string }[] = []

  for (const [i, [entry, path]] of [...files].entries()) {
    const file = program.getSourceFile(path)!
    const typeOf = (symbol: ts.Symbol) => checker.getTypeOfSymbolAtLocation(symbol, file)

    const add = (called: string, { parameters }: ts.Signature) => {
      for (const [at, parameter] of parameters.entries()) {
        if (parameter.name !== 'operands' && parameter.name !== 'options') continue
        const before = 'any, '.repeat(at)
        const after = parameters.slice(at + 1).map((other) => (isOptional(other) ? '' : ', any'))
        for (const { value, name } of misspeltValues(typeOf(parameter))) {
          calls.push({ call: `${called}(${before}${value}${after.join('')})`, name })
        }
      }
    }

    const misspeltValues = (type: ts.Type, isNested = false): { value: string; name: string }[] => {
      const properties = propertiesOf(type)
      const names = properties.map(({ name }) => name)
      const nested = properties.flatMap((property) =>
        isNested
          ? []
          : misspeltValues(typeOf(property), true).map(({ value, name }) => {
              return { value: `{ ${property.name}: ${value} }`, name }
            }),
      )
      // TypeScript suggests nothing for a shorter one.
      const name = names.find((known) => known.length > 4)
      if (name === undefined) return nested
      const misspelt = `${name[0]}${name.slice(2)}: any`
      const others = names.filter((known) => known !== name).slice(0, 1)
      const values = ['', ...others.map((other) => `${other}: any, `)].map((other) => `{ ${other}${misspelt} }`)
      return [...values.map((value) => ({ value, name })), ...nested]
    }

    /** The properties of a plain object that the package declares; none of a tensor, a model or an array. */
    const propertiesOf = (type: ts.Type): ts.Symbol[] => {
      const given = checker.getNonNullableType(type)
      const properties = checker.getPropertiesOfType(checker.getBaseConstraintOfType(given) ?? given)
      const isOption = ({ declarations = [] }: ts.Symbol) =>
        declarations.some((one) => ts.isPropertySignature(one) && one.getSourceFile().fileName.includes('/dist/'))
      return properties.every(isOption) ? properties : []
    }

    const addMembers = (called: string, type: ts.Type) => {
      for (const member of type.getProperties()) {
        for (const signature of checker.getNonNullableType(typeOf(member)).getCallSignatures()) {
          add(`${called}.${member.name}`, signature)
        }
      }
    }

    declared.push(`import * as entry${i} from '${entry}'`)
    for (const exported of checker.getExportsOfModule(checker.getSymbolAtLocation(file)!)) {
      const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported
      const called = `entry${i}.${exported.name}`
      if (symbol.flags & ts.SymbolFlags.Value) {
        const type = typeOf(symbol)
        for (const signature of type.getCallSignatures()) add(called, signature)
        for (const signature of type.getConstructSignatures()) add(`new ${called}`, signature)
        addMembers(called, type)
      }
      if (symbol.flags & (ts.SymbolFlags.Class | ts.SymbolFlags.Interface)) {
        const type = checker.getDeclaredTypeOfSymbol(symbol) as ts.InterfaceType
        const parameters = (type.typeParameters ?? []).map(() => 'any')
        declared.push(
          `declare const of${i}${exported.name}: ${called}${parameters.length > 0 ? `<${parameters.join()}>` : ''}`,
        )
        addMembers(`of${i}${exported.name}`, type)
      }
    }
  }
  return { declared, calls }
}

function isOptional({ valueDeclaration }: ts.Symbol): boolean {
  return (
    valueDeclaration !== undefined && ts.isParameter(valueDeclaration) && valueDeclaration.questionToken !== undefined
  )
}

/** The declarations of each entry of the package. */
function declarations(): Map<string, string> {
  const { exports } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as {
    exports: Record<string, string | { import: { types: string } }>
  }
  return new Map(
    Object.entries(exports).flatMap(([path, target]) =>
      typeof target === 'string' ? [] : [[path.replace('.', 'lily-kernels'), join(packageRoot, target.import.types)]],
    ),
  )
}
