// One blob to its file: hashed while it streams, resumed by Range after a break or a crash, named only when its digest holds.
import { open, type FileHandle } from "node:fs/promises";
import { DormouseError, wrap } from "../../../errors.ts";
import { blobPath, partialPath, publish, sizeOf, type ImageFiles } from "../files.ts";
import type { Descriptor } from "../manifest.ts";
import type { RegistryClient } from "./client.ts";
import { failure, type Exchange } from "./http.ts";
import { TransientError } from "./retry.ts";

/** Downloads `blob` unless it is there. `onBytes` is told how much of it is there, several times. Throws DormouseError. */
export async function downloadBlob(client: RegistryClient, files: ImageFiles, blob: Descriptor, signal: AbortSignal, onBytes: (done: number) => void): Promise<void> {
  if (sizeOf(blobPath(files, blob.digest)) !== null) return onBytes(blob.size);
  const path = partialPath(files, blob.digest);
  const file = await open(path, "a+", 0o600);
  try {
    const download = new Download(file, blob, onBytes);
    await download.resume();
    await client.settled(() => download.attempt(client, signal), signal, () => download.done);
    await file.sync();
  } catch (error) {
    // What came is kept for a later attempt, unless it is known to be wrong.
    if (error instanceof DormouseError && error.code === "registry.protocol") files.trash.drop(path);
    throw error;
  } finally {
    await file.close();
  }
  await publish(path, blobPath(files, blob.digest));
}

class Download {
  done = 0;
  private hash: Bun.CryptoHasher;

  constructor(private readonly file: FileHandle, private readonly blob: Descriptor, private readonly onBytes: (done: number) => void) {
    this.hash = this.newHash();
  }

  private newHash(): Bun.CryptoHasher {
    return new Bun.CryptoHasher(this.blob.digest.startsWith("sha512:") ? "sha512" : "sha256");
  }

  /** Hashes what an earlier attempt left, so that the digest covers it too. */
  async resume(): Promise<void> {
    const { size } = await this.file.stat();
    if (size > this.blob.size) return this.restart();
    const buffer = Buffer.allocUnsafe(1 << 20);
    while (this.done < size) {
      const { bytesRead } = await this.file.read(buffer, 0, buffer.length, this.done);
      if (bytesRead === 0) return this.restart();
      this.hash.update(buffer.subarray(0, bytesRead));
      this.done += bytesRead;
    }
    this.onBytes(this.done);
  }

  private async restart(): Promise<void> {
    await this.file.truncate(0);
    this.hash = this.newHash();
    this.done = 0;
  }

  async attempt(client: RegistryClient, signal: AbortSignal): Promise<void> {
    if (this.done < this.blob.size || this.blob.size === 0) await this.receive(await client.openBlob(this.blob.digest, this.done, signal));
    const actual = `${this.blob.digest.split(":")[0]}:${this.hash.digest("hex")}`;
    if (actual === this.blob.digest) return;
    // The hash is spent; whoever repeats this starts from nothing.
    await this.restart();
    throw new DormouseError("registry.protocol", `Cannot pull the blob ${this.blob.digest}: what came has the digest ${actual}; the registry is broken or lies`);
  }

  private async receive(answer: Exchange): Promise<void> {
    const { response, url, dog } = answer;
    try {
      if (this.done > 0 && !this.continues(response)) await this.restart();
      for await (const chunk of response.body ?? []) {
        dog.poke();
        await this.take(chunk);
      }
    } catch (error) {
      throw failure(url, dog, error);
    } finally {
      dog.stop();
    }
    if (this.done < this.blob.size) throw new TransientError(`${url.host} ended the blob ${this.blob.digest} after ${this.done} of ${this.blob.size} bytes`);
  }

  /** 206 with the range that we asked for; anything else is the blob from its beginning. */
  private continues(response: Response): boolean {
    return response.status === 206 && (response.headers.get("content-range") ?? "").startsWith(`bytes ${this.done}-`);
  }

  private async take(chunk: Uint8Array): Promise<void> {
    if (this.done + chunk.length > this.blob.size)
      throw new DormouseError("registry.protocol", `Cannot pull the blob ${this.blob.digest}: the registry sends more than the ${this.blob.size} bytes that the manifest says`);
    try {
      for (let at = 0; at < chunk.length; ) at += (await this.file.write(chunk, at, chunk.length - at, null)).bytesWritten;
    } catch (error) {
      throw wrap("host.storage", "Cannot keep what was downloaded", error);
    }
    this.hash.update(chunk);
    this.done += chunk.length;
    this.onBytes(this.done);
  }
}
