// fsync(2) of what has a name: without holding up the event loop, as a disk may take half a second for it.
import { open } from "node:fs/promises";

/** Has what is in the file reach the storage; of a folder the names in it, without which a new or renamed file may be gone after a power cut. */
export async function sync(path: string): Promise<void> {
  const file = await open(path, "r");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
