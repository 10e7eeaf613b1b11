/**
 * A plugin of typedoc. Documents and codes of errors that a doc comment names become links of the site, there are no links to
 * sources, and methods of protocols of the language, which nobody calls by name, are left out. The page of a function shows
 * the properties of its operands, options and result, the page of a class those of the operands and options of its methods, and
 * the first page all names with a line each.
 */
import { Converter, ReflectionKind } from 'typedoc'
import { MarkdownPageEvent, MarkdownTheme, MarkdownThemeContext } from 'typedoc-plugin-markdown'

const PROTOCOLS = ['[dispose]', '[hasInstance]', '[inspectSymbol]']

/** @param {import('typedoc-plugin-markdown').MarkdownApplication} app */
export function load(app) {
  app.renderer.defineTheme('pages', PagesTheme)
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const method of project.getReflectionsByKind(ReflectionKind.Method)) {
      if (PROTOCOLS.includes(method.name)) project.removeReflection(method)
    }
  })
  app.renderer.on(MarkdownPageEvent.END, (page) => {
    page.contents = page.contents
      ?.replace(/^Defined in: .*\n*/gm, '')
      .replace(/(?<![\w/]|\]\()docs\/([\w/-]+)\.md(#[\w-]+)?/g, '[docs/$1.md](/docs/$1.md$2)')
      .replace(/(?<![\w`'"])ERR_LILY_[A-Z_]+/g, '[`$&`](/docs/memory.md#errors)')
  })
}

class PagesTheme extends MarkdownTheme {
  /**
   * @override
   * @param {import('typedoc-plugin-markdown').MarkdownPageEvent<import('typedoc').Reflection>} page
   */
  getRenderContext(page) {
    return new PagesContext(this, page, this.application.options)
  }
}

class PagesContext extends MarkdownThemeContext {
  /** @param {ConstructorParameters<typeof MarkdownThemeContext>} args */
  constructor(...args) {
    super(...args)
    const { body, parametersTable, signatureReturns } = this.partials
    const { kind } = this.page.model
    const isFunction = kind === ReflectionKind.Function
    const tableOf = (/** @type {import('typedoc').SomeType | undefined} */ type, /** @type {string} */ title) => {
      const model = interfaceOf(type)
      return model === undefined ? [] : [title, this.propertiesOf(model)]
    }
    this.partials.parametersTable = (parameters) => {
      const tables = parameters.flatMap(({ name, type, parent }) => {
        if (
          !isFunction &&
          !(kind & (ReflectionKind.Class | ReflectionKind.Interface) && /^(operands|options)$/.test(name))
        )
          return []
        const title = `${name[0].toUpperCase()}${name.slice(1)}`
        return tableOf(boundOf(type, parent), isFunction ? `### ${title}` : `**${title}**`)
      })
      return [parametersTable(parameters), ...tables].join('\n\n')
    }
    this.partials.signatureReturns = (signature, options) =>
      [signatureReturns(signature, options), ...(isFunction ? tableOf(signature.type, '### Result') : [])].join('\n\n')
    this.partials.groupIndex = ({ children }) => this.namesOf(children)
    this.partials.body = (model, options) => [body(model, options), ...this.otherEntries()].join('\n\n')
  }

  /**
   * The properties of operands, options or a result, in the order of their declaration, the inherited ones last.
   *
   * @param {import('typedoc').DeclarationReflection} model
   */
  propertiesOf(model) {
    const properties = [...(model.children ?? [])].sort(
      (a, b) =>
        Number(a.inheritedFrom !== undefined) - Number(b.inheritedFrom !== undefined) ||
        (a.sources?.[0].line ?? 0) - (b.sources?.[0].line ?? 0),
    )
    const rows = properties.map((property) => {
      const { name, flags, comment, getSignature, signatures } = property
      const type = signatures === undefined ? this.helpers.getDeclarationType(property) : undefined
      const text = comment ?? getSignature?.comment ?? signatures?.[0].comment
      return [
        `\`${name}${flags.isOptional ? '?' : ''}\``,
        type === undefined ? 'method' : this.partials.someType(type).replace(/^\s*\\?\|/, ''),
        text === undefined ? '' : this.partials.comment(text, { isTableColumn: true }),
      ]
    })
    return table(['Property', 'Type', 'Description'], rows)
  }

  /**
   * Names with the first sentence, or its part before a colon, of what they are.
   *
   * @param {readonly import('typedoc').Reflection[]} children
   */
  namesOf(children) {
    const rows = children.map((child) => {
      const comment = child.comment ?? (child.isDeclaration() ? child.signatures?.[0].comment : undefined)
      const text = comment === undefined ? '' : (this.helpers.getDescriptionForComment(comment) ?? '')
      return [`[${child.name}](${this.urlTo(child)})`, text.split(/[.:](?=\s|$)/)[0]]
    })
    return table(['Name', 'What it is'], rows)
  }

  /** On the page of lily-kernels, which is the first one: the names of the other entry points. */
  otherEntries() {
    const { model, project } = this.page
    if (model.name !== 'lily-kernels') return []
    return (project.children ?? [])
      .filter(({ name }) => name !== model.name)
      .flatMap(({ name, children = [] }) => [
        `## ${name}`,
        this.namesOf(children.filter(({ kind }) => kind !== ReflectionKind.Reference)),
      ])
  }
}

/**
 * The interface that a type names, alone or as an argument of another type, as in a promise of it.
 *
 * @param {import('typedoc').SomeType | undefined} type
 * @returns {import('typedoc').DeclarationReflection | undefined}
 */
function interfaceOf(type) {
  if (type?.type === 'union') {
    const types = type.types.filter((each) => !(each.type === 'intrinsic' && each.name === 'undefined'))
    return types.length === 1 ? interfaceOf(types[0]) : undefined
  }
  if (type?.type !== 'reference') return undefined
  const { reflection, typeArguments = [] } = type
  if (reflection?.isDeclaration() === true) {
    if (reflection.kindOf(ReflectionKind.Interface)) return reflection
    if (reflection.kindOf(ReflectionKind.Class)) return undefined
  }
  return typeArguments.map(interfaceOf).find((found) => found !== undefined)
}

/**
 * A type, or the constraint of one that the signature infers.
 *
 * @param {import('typedoc').SomeType | undefined} type
 * @param {import('typedoc').Reflection | undefined} signature
 */
function boundOf(type, signature) {
  if (type?.type !== 'reference' || signature?.isSignature() !== true) return type
  return signature.typeParameters?.find(({ name }) => name === type.name)?.type ?? type
}

/**
 * @param {readonly string[]} head
 * @param {readonly (readonly string[])[]} rows
 */
function table(head, rows) {
  const lines = [head, head.map(() => '---'), ...rows].map(
    (cells) => `| ${cells.map((cell) => cell.replace(/\s*\n\s*/g, ' ').replace(/(?<!\\)\|/g, '\\|')).join(' | ')} |`,
  )
  return lines.join('\n')
}
