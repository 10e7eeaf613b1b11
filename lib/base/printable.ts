/**
 * Strings from files, arguments and the environment, made safe to print: control characters (C0, DEL, C1), format
 * characters such as bidirectional overrides, separators of lines and paragraphs, and lone surrogates are spelled as in
 * JSON (`\u001b`).
 */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

const spelled = (character: string): string =>
  character
    .split('')
    .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
    .join('')

export const printable = (text: string): string => text.replace(UNPRINTABLE, spelled)
