/**
 * A process may load this package more than once: `require` and `import` each load a copy, and so do two folders of
 * node_modules. Each copy has its own classes, so `instanceof` and private fields fail for objects of another one.
 * Registered symbols are the same in all copies: a class has a method under such a symbol, by which the other copies
 * recognise its objects and reach their contents.
 */

/**
 * The layout of what these methods return, and of what {@link shared} holds: operands, states of calls, streams. Raise
 * it with every change, so that copies of two versions do not take each other's objects for their own.
 */
export const LAYOUT = 7

/* @__NO_SIDE_EFFECTS__ */
function symbolOf(name: string): symbol {
  return Symbol.for(`lily-kernels.${LAYOUT}.${name}`)
}

/** Names of the methods, by class. */
export const tensorKey: unique symbol = symbolOf('Tensor') as never
export const bufferKey: unique symbol = symbolOf('DeviceBuffer') as never
export const streamKey: unique symbol = symbolOf('Stream') as never
export const eventKey: unique symbol = symbolOf('Event') as never
export const packedKey: unique symbol = symbolOf('PackedLinear') as never
export const savedKey: unique symbol = symbolOf('Saved') as never
export const modelKey: unique symbol = symbolOf('LilyModel') as never
export const loraModelKey: unique symbol = symbolOf('LoraModel') as never
export const adaptersSavedKey: unique symbol = symbolOf('AdaptersSaved') as never

/** The error's properties are the same in all versions. */
export const errorKey: unique symbol = Symbol.for('lily-kernels.LilyError') as never

/** Whether a value is an object of the class with this key, of any copy. */
export function isOf(key: symbol, value: unknown): boolean {
  try {
    return typeof value === 'object' && value !== null && key in value
  } catch {
    return false // a proxy whose trap throws
  }
}

/** Whether a value is such an object, and its method confirms that it is no proxy of one. */
export function isGenuine(key: symbol, value: unknown): boolean {
  try {
    return isOf(key, value) && (value as Record<symbol, () => boolean>)[key]()
  } catch {
    return false // something else has the symbol
  }
}

/** An object that all copies share. The copy that needs it first makes it. */
export function shared<T extends object>(name: string, make: () => T): T {
  const holder = globalThis as unknown as Record<symbol, T | undefined>
  return (holder[symbolOf(name)] ??= make())
}
