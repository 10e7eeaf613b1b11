/** Strings made safe to print: {@link printable}, for messages, texts and data. */
import { printable } from '../lib/base/printable.js'

export { printable }

/** {@link printable} for a message: line feeds, with which some libraries indent their reasons, become spaces. */
export const oneLine = (text: string): string => printable(text.trim().replace(/\s*\n\s*/g, ' '))

/** {@link printable} for a text of several lines: line feeds remain. */
export const printableLines = (text: string): string => text.split('\n').map(printable).join('\n')

/** A copy of plain data in which every string is {@link printable}. */
export function withPrintableStrings<T>(data: T): T {
  const copy = (value: unknown): unknown => {
    if (typeof value === 'string') return printable(value)
    if (Array.isArray(value)) return value.map(copy)
    if (typeof value !== 'object' || value === null) return value
    return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, copy(field)]))
  }
  return copy(data) as T
}

/** JSON without unprintable characters; parsing it returns the original strings. */
export const jsonText = (data: unknown, indent?: number): string => printableLines(JSON.stringify(data, null, indent))
