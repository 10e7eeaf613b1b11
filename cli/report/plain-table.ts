/** Tables as text, without lines. */
import Table from 'cli-table3'

const none = { top: '', 'top-mid': '', 'top-left': '', 'top-right': '', bottom: '', 'bottom-mid': '' }
const lines = { 'bottom-left': '', 'bottom-right': '', left: '', 'left-mid': '', mid: '', 'mid-mid': '', right: '' }
const plain = { ...none, ...lines, 'right-mid': '', middle: '  ' }

export function plainTable(head: string[], alignments: Table.HorizontalAlignment[]): Table.Table {
  return new Table({
    head,
    colAligns: alignments,
    chars: plain,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  })
}

export function textOf(table: Table.Table): string {
  return table.toString().replace(/ +$/gm, '')
}
