/** Text tables without borders. */
import Table from 'cli-table3'

const outer = { top: '', 'top-mid': '', 'top-left': '', 'top-right': '', bottom: '', 'bottom-mid': '' }
const inner = { 'bottom-left': '', 'bottom-right': '', left: '', 'left-mid': '', mid: '', 'mid-mid': '', right: '' }
const borderless = { ...outer, ...inner, 'right-mid': '', middle: '  ' }

export function textTable(head: string[], alignments: Table.HorizontalAlignment[]): Table.Table {
  return new Table({
    head,
    colAligns: alignments,
    chars: borderless,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  })
}

export function renderTable(table: Table.Table): string {
  return table.toString().replace(/ +$/gm, '')
}
