// A fault in an archive, told without the archive's name; the caller says which layer it was.
export class TarError extends Error {
  override readonly name = "TarError";
}
