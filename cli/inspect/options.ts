/** The options of `lily-kernels inspect`, as commander parses them. */
export interface InspectOptions {
  readonly samples?: string
  /** True: write JSON to stdout. */
  readonly json?: string | true
  readonly html?: string
}
