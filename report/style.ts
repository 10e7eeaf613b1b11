/** The style sheet of the reports: light or dark by system preference, one column on a phone, no backgrounds in print. */
export const style = `
:root {
  color-scheme: light dark;
  --text: #1b1f24; --muted: #66707a; --line: #d9dee3; --page: #f5f6f8; --surface: #ffffff;
  --lily: #2457d6; --lora: #c2570c; --equal: #0b7a66; --memory: #8a3ffc; --alert: #a3540a;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --text: #e6e9ed; --muted: #98a3ad; --line: #333b44; --page: #12161b; --surface: #1b2027;
    --lily: #7aa5ff; --lora: #ff9f56; --equal: #45cdb1; --memory: #c39bff; --alert: #ffb866;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 1.5rem max(1rem, calc(50vw - 37rem)) 3rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; font-variant-numeric: tabular-nums;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
section + section { margin-top: 4rem; break-before: page; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .7rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: 0 0 .5rem; }
.muted, figcaption p, .legend, footer { color: var(--muted); font-size: .85rem; line-height: 1.4; }
code { font: .85em ui-monospace, 'SF Mono', Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.verdict { max-width: 52rem; font-size: 1.15rem; line-height: 1.4; }
.alert { color: var(--alert); font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .8rem; margin: 1.2rem 0 0; }
.tile, .chart, .box { background: var(--surface); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: .8rem 1rem; }
.tile dd { margin: 0; font-size: 1.7rem; font-weight: 650; line-height: 1.2; }
.tile dt { color: var(--muted); font-size: .85rem; line-height: 1.35; }
.tile { display: flex; flex-direction: column-reverse; justify-content: flex-end; gap: .2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: .8rem; }
.chart { margin: 0; padding: .9rem .9rem .6rem; break-inside: avoid; display: flex; flex-direction: column; }
.chart > svg { margin: auto auto 0; }
.legend { list-style: none; margin: .35rem 0 .5rem; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .8rem; }
.legend li { display: flex; align-items: center; gap: .4rem; }
.legend .line { width: 1.3rem; height: 0; }
.legend .dot { width: .65rem; height: .65rem; border-radius: 50%; }
.ramp { display: grid; grid-template-columns: 1fr auto 1fr; gap: .15rem .6rem; margin: .45rem 0 .5rem; color: var(--muted); font-size: .8rem; line-height: 1.4; }
.ramp > :first-child { grid-column: 1 / -1; height: .7rem; border: 1px solid var(--line); border-radius: 3px; }
.ramp > :last-child { text-align: right; }
.plot { --plot-background: var(--surface); display: block; width: 100%; max-width: 34rem; height: auto; overflow: visible; }
.box { overflow-x: auto; margin-bottom: .8rem; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td { padding: .32rem .55rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; color: var(--muted); }
.narrow { max-width: 32rem; }
h3:has(+ .box) { margin: 1.2rem 0 .4rem; }
thead th { white-space: normal; }
thead th { border-bottom: 1px solid var(--line); vertical-align: bottom; }
tbody tr.first > * { border-top: 1px solid var(--line); }
th:first-child, td:first-child, .left, .reason { text-align: left; }
.reason { color: var(--alert); white-space: normal; }
tbody th { position: sticky; left: 0; vertical-align: top; background: var(--surface); color: var(--text); font-weight: 500; }
dl.how { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.2rem; margin: 0; font-size: .9rem; }
dl.how dt { font-weight: 600; }
dl.how dd { margin: 0; color: var(--muted); }
footer { margin-top: 2rem; }
@media (max-width: 40rem) {
  body { padding-top: 1rem; }
  .optional { display: none; }
  table { font-size: .8rem; }
  th, td { padding: .35rem .4rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  dl.how { grid-template-columns: 1fr; gap: 0; }
  dl.how dd { margin-bottom: .5rem; }
}
@media print {
  @page { margin: 12mm; }
  body { padding: 0; background: none; font-size: 10pt; }
  .charts { grid-template-columns: 1fr 1fr; }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .tile, .chart, .box { border-color: #bbb; }
  .box { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .4rem; }
  tr, .tile { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  tbody th { position: static; }
}
`
