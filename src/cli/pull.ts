// Pulling an image with its progress: a bar on a terminal, a line for each step elsewhere.
import type { Api, Image } from "./api.ts";
import { credentialsFor } from "./credentials.ts";
import { CliError } from "./fail.ts";
import { bytes, note, plain, writeAll } from "./output.ts";

/** How often the daemon is asked: often enough for a smooth bar. */
const POLL_MS = 150;
const BAR = 30;

/** Pulls `name` and waits until it is ready. Throws with the daemon's reason where it fails. */
export const pullImage = async (api: Api, name: string, quiet: boolean): Promise<Image> => settle(api, await api.pull(name, await credentialsFor(name)), quiet);

/** Follows an image that is on its way. */
export async function settle(api: Api, begun: Image, quiet: boolean): Promise<Image> {
  const progress = quiet ? null : process.stderr.isTTY ? new Bar() : new Steps();
  let image = begun;
  try {
    for (;;) {
      progress?.show(image);
      if (image.status === "ready") return image;
      if (image.status === "failed") throw new CliError(plain(image.error ?? `Cannot get ${image.name}: the daemon gives no reason`), "pull_failed");
      await Bun.sleep(POLL_MS);
      image = await api.image(image.name);
    }
  } finally {
    progress?.end();
  }
}

const WORDS = { pending: "waiting", pulling: "pulling", converting: "converting", ready: "ready", failed: "failed" } as const;

/** One line on stderr, drawn anew with each change. */
class Bar {
  private last = "";
  private drawn = false;

  show(image: Image): void {
    const line = this.line(image);
    if (line === this.last) return;
    this.last = line;
    this.drawn = true;
    const width = process.stderr.columns || 80;
    writeAll(2, `\r\x1b[K${line.slice(0, width - 1)}`);
  }

  end(): void {
    if (this.drawn) writeAll(2, "\n");
  }

  private line({ name, status, progress, queue_position, size_bytes }: Image): string {
    const head = `${plain(name)}: ${WORDS[status]}`;
    if (status === "pending" && queue_position != null && queue_position > 0) return `${head}, ${queue_position} before it`;
    if (status === "ready") return size_bytes == null ? head : `${head} (${bytes(size_bytes)})`;
    if (progress == null || progress.total_bytes <= 0) return head;
    const share = Math.min(1, progress.done_bytes / progress.total_bytes);
    const full = Math.round(share * BAR);
    return `${head} [${"=".repeat(full)}${" ".repeat(BAR - full)}] ${Math.floor(share * 100)}% of ${bytes(progress.total_bytes)}`;
  }
}

/** A line for each step, for logs and pipes. */
class Steps {
  private last = "";

  show({ name, status }: Image): void {
    if (status === this.last || status === "failed") return;
    this.last = status;
    note(`${plain(name)}: ${WORDS[status]}`);
  }

  end(): void {}
}
