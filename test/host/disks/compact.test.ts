// Layers of chains that are merged where owners have gone: what is read stays as it was, whoever does what meanwhile.
import { afterEach, expect, test } from "bun:test";
import { blocks, content, Writer } from "./disk-files.ts";
import { chain, cleanUp, Host, instance, snapshot } from "./host.ts";

afterEach(cleanUp);

test("chains become shorter when snapshots go, under whoever reads them", async () => {
  const host = await Host.open();
  await chain(host);
  const before = host.files(instance("a")), a = blocks({ 0: 2, 2: 3, 3: 3 }), t = blocks({ 0: 2, 2: 2 });
  expect([before.length, host.content(instance("a")), host.content(snapshot("t"))]).toEqual([3, a, t]);
  host.remove(snapshot("s"));
  await host.disks.idle();
  expect([host.files(instance("a")).length, host.content(instance("a")), host.content(snapshot("t"))]).toEqual([2, a, t]);
  expect(content(before)).toEqual(a); // a monitor that had just been told
  await host.clone(instance("a"), snapshot("u"));
  host.remove(snapshot("t"));
  await host.disks.idle();
  expect([host.files(instance("a")).length, host.content(instance("a")), host.content(snapshot("u"))]).toEqual([2, a, a]);
  expect(host.layerFiles().filter((name) => name.endsWith(".img")).length).toBe(3); // two that were merged keep their names for a while
  const again = await host.again();
  expect(again.layerFiles().length).toBe(1);
  expect(again.content(instance("a"))).toEqual(a);
});

test.each(["clone", "exchange"] as const)("%s: one that fails in the middle of a merge puts it off, and no more", async (verb) => {
  let host: Host, failed: Promise<boolean> | undefined;
  host = await Host.open(undefined, (step) => {
    if (step !== "copied" || failed !== undefined) return;
    const { disks, store } = host;
    store.db.run("CREATE TRIGGER full BEFORE INSERT ON disk_layers BEGIN SELECT raise(ABORT, 'no room'); END");
    failed = (async () => (verb === "clone" ? await disks.clone(instance("a"), instance("b")) : await disks.replace(instance("a"), instance("b"), () => {})).isErr())();
  });
  await chain(host);
  host.remove(snapshot("s"));
  await host.disks.idle();
  expect(await failed).toBe(true);
  await host.disks.idle();
  expect([host.files(instance("a")).length, host.content(instance("a"))]).toEqual([2, blocks({ 0: 2, 2: 3, 3: 3 })]);
});

test("what a clone that was taken back has left is not merged while a monitor may write to it", async () => {
  const host = await Host.open();
  await host.clone(instance("a"), snapshot("s"));
  const monitor = new Writer(host.files(instance("a"))[0]!);
  monitor.write(3, 3);
  (await host.begin(instance("a"), instance("b"))).undo()._unsafeUnwrap();
  host.remove(snapshot("s"));
  await host.disks.idle();
  expect(host.files(instance("a")).length).toBe(3);
  monitor.write(4, 4);
  expect(host.content(instance("a"))).toEqual(blocks({ 0: 1, 3: 3, 4: 4 }));
  // Nor is it given to anybody as it is, though the file above it holds nothing.
  const clone = await host.begin(instance("a"), instance("b"));
  new Writer(clone.newTop!).write(5, 5);
  clone.finish()._unsafeUnwrap();
  expect([host.content(instance("a")), host.content(instance("b"))]).toEqual([blocks({ 0: 1, 3: 3, 4: 4, 5: 5 }), blocks({ 0: 1, 3: 3, 4: 4 })]);
});
