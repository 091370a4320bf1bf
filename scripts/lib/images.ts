// Builds the images that tests, demo and bench use, where they are not in the cache: images.ts [NAME…]. Without names, what guest tests begin with too.
import { unpackArtifacts } from "../../src/artifacts.ts";
import { convertedImages, siteImages } from "../../test/support/converted.ts";
import { unpacked } from "../../test/support/daemon.ts";
import { image } from "../../test/support/images.ts";
import { imageNames } from "../../test/support/recipes.ts";
import { registryProgram } from "../../test/support/registry.ts";

const names = process.argv.length > 2 ? imageNames.filter((name) => process.argv.includes(name)) : imageNames;
const say = (text: string): void => console.error(`\x1b[2m[images]\x1b[0m ${text}`);
await registryProgram(say);
for (const name of names) await image(name, say);
if (names.length === imageNames.length) {
  for (const some of siteImages) await convertedImages(some);
  (await unpackArtifacts(unpacked))._unsafeUnwrap();
}
