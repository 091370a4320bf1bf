// Root file systems put together from Debian packages: no container tool, no chroot, no maintainer scripts.
// Needs apt-get and dpkg-deb; the network only for packages that were not fetched before.
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { command } from "./command.ts";
import { cacheFolder } from "./paths.ts";

/** Needed by dpkg and maintainer scripts only, neither of which runs here. */
const LEFT_OUT = /^(dpkg|perl-base|debconf|tar|gcc-12-base|sensible-utils|ucf|lsb-base|sysvinit-utils|usr-is-merged|init-system-helpers|iproute2-doc)$/;
const MERGED = ["bin", "sbin", "lib", "lib64"];
const STRIPPED = ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/bug"];

/**
 * The .deb files of `packages` and all that they depend on, without those of `below`, as if on an empty system.
 * They are kept in the cache.
 */
export async function fetchPackages(packages: readonly string[], below: readonly string[] = []): Promise<string[]> {
  const folder = join(cacheFolder, "debs");
  await mkdir(join(folder, "partial"), { recursive: true });
  const status = join(folder, "empty-status");
  await writeFile(status, "");
  // usr-is-merged stands in for usrmerge, which would bring all of Perl.
  const closure = async (names: readonly string[]): Promise<string[]> => {
    const options = ["-o", `Dir::State::status=${status}`, "-o", `Dir::Cache::archives=${folder}`, "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"];
    const apt = ["apt-get", ...options, "-y", "-qq", "--no-install-recommends"];
    // Those that are there already are not listed: the answer is asked for with an empty archive folder.
    const listed = await command([...apt, "-o", "Dir::Cache::archives=/nonexistent", "--print-uris", "install", "usr-is-merged", ...names]);
    const files = listed.split("\n").flatMap((line) => line.split(" ")[1] ?? []);
    const have = new Set(await readdir(folder));
    if (!files.every((file) => have.has(file))) await command([...apt, "--download-only", "install", "usr-is-merged", ...names]);
    return files;
  };
  const lower = new Set(below.length === 0 ? [] : await closure(below));
  const files = (await closure([...below, ...packages])).filter((file) => !lower.has(file) && !LEFT_OUT.test(file.split("_")[0]!));
  return files.sort().map((file) => join(folder, file));
}

/** Unpacks packages into `root` (a new folder), with /bin and its like as links into /usr, and without documentation. */
export async function unpackPackages(debs: readonly string[], root: string): Promise<void> {
  await mkdir(join(root, "usr"), { recursive: true });
  for (const name of MERGED) {
    await mkdir(join(root, "usr", name), { recursive: true });
    await command(["ln", "-s", `usr/${name}`, join(root, name)]);
  }
  for (const deb of debs) {
    const unpack = `dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink --numeric-owner -p -C "$2"`;
    await command(["bash", "-o", "pipefail", "-c", unpack, "unpack", deb, root]);
  }
  await command(["rm", "-rf", ...STRIPPED.map((path) => join(root, path))]);
}

/** Accounts that base-passwd brings as templates, and alternatives and links that maintainer scripts would have made. */
export async function finishBase(root: string): Promise<void> {
  const script = `
    cd "$1"
    cp usr/share/base-passwd/passwd.master etc/passwd; cp usr/share/base-passwd/group.master etc/group
    [ -e usr/bin/awk ] || [ ! -e usr/bin/mawk ] || ln -s mawk usr/bin/awk
    [ -e usr/bin/sh ] || ln -s dash usr/bin/sh
    [ -e usr/bin/nc ] || [ ! -e usr/bin/nc.openbsd ] || ln -s nc.openbsd usr/bin/nc
    mkdir -p root tmp var/tmp run proc sys dev; chmod 1777 tmp var/tmp; chmod 700 root
    echo "hosts: files dns" >etc/nsswitch.conf`;
  await command(["bash", "-euc", script, "finish", root]);
}
