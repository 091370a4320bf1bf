// The world of most tests: one instance, one route to it, and its server.
import { RawServer } from "./raw.ts";
import { World } from "./world.ts";

/** With the route a.test to the instance `web`, whose server is `target`. */
export class WebWorld extends World {
  readonly target = new RawServer();
  readonly port: number;

  constructor(...options: ConstructorParameters<typeof World>) {
    super(...options);
    this.add("web");
    this.port = this.route("a.test", "web", this.target.port);
  }

  /** Whatever was tested, nothing of the proxy's own was wrong. */
  override async close(): Promise<void> {
    await super.close();
    this.target.stop();
    const bugs = this.logged.filter((line) => line.includes("ingress.bug"));
    if (bugs.length > 0) throw new Error(bugs.join("\n"));
  }
}
