/** Text of shaders: templates whose values may be absent. */
export const wgsl = (
  strings: TemplateStringsArray,
  ...values: (string | number | object | boolean | null | undefined)[]
) =>
  String.raw(strings, ...values.map((value) => (typeof value === 'string' || typeof value === 'number' ? value : '')))
