/** Files and folders that were dropped or picked. */

/** Those that were picked: of a folder without its subfolders, such as the checkpoints of a training. */
export function pickedFiles(files: Iterable<File>): File[] {
  // Paths begin with the name of the folder, and are empty where files were picked. A Worker does not get them.
  return Array.from(files).filter(({ webkitRelativePath }) => webkitRelativePath.split('/').length <= 2)
}

/**
 * The files of what was dropped: of a folder those in it, without its subfolders. Call it in the handler of the event,
 * after which the browser forgets what was dropped.
 */
export async function droppedFiles(transfer: DataTransfer): Promise<File[]> {
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry()).filter((entry) => entry !== null)
  const files = await Promise.all(
    entries.map(async (entry) => {
      if (!isDirectory(entry)) return [await fileOf(entry as FileSystemFileEntry)]
      const inside = await entriesIn(entry)
      return Promise.all(inside.filter(({ isFile }) => isFile).map((each) => fileOf(each as FileSystemFileEntry)))
    }),
  )
  return files.flat()
}

const isDirectory = (entry: FileSystemEntry): entry is FileSystemDirectoryEntry => entry.isDirectory

const fileOf = (entry: FileSystemFileEntry): Promise<File> =>
  new Promise((resolve, reject) => {
    entry.file(resolve, reject)
  })

/** A reader gives some entries at a time, and none at the end. */
async function entriesIn(directory: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
  const reader = directory.createReader()
  const all: FileSystemEntry[] = []
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => {
      reader.readEntries(resolve, reject)
    })
    if (some.length === 0) return all
    all.push(...some)
  }
}
