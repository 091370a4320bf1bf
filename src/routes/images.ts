// `/images`: pull, list, inspect, tag, load and delete. Logic is the image domain's; here is only the wire.
import { Elysia } from "elysia";
import type { ImageService, PullCredentials } from "../host/images/service.ts";
import { requiredBody } from "./body.ts";
import type { ApiDeps } from "./deps.ts";
import { orThrow } from "./errors.ts";
import * as docs from "./images-docs.ts";
import { CreateImage, imageView, LoadImage, TagImage } from "./images-schema.ts";
import { noQuery, readQuery, tagsQuery } from "./query.ts";
import { forgiveRepeat } from "./repeat.ts";

export const imageRoutes = ({ images, live }: ApiDeps) =>
  new Elysia({ normalize: false, prefix: "/images" })
    .post("/", async ({ body, request }) => {
      live.keep(request); // a registry may be asked first
      return Response.json(imageView(orThrow(await images.pull(pullRequest(body)))), { status: 202 });
    }, {
      body: CreateImage,
      parse: requiredBody,
      beforeHandle: noQuery,
      detail: docs.create,
    })
    .get("/", ({ request }) => Response.json(images.list(readQuery(request, tagsQuery)).map(imageView)), {
      detail: docs.list,
    })
    .get("/:name", ({ params }) => Response.json(imageView(orThrow(images.get(params.name)))), {
      beforeHandle: noQuery,
      detail: docs.get,
    })
    .delete("/:name", async ({ params, request }) => {
      live.keep(request);
      return deleteImage(images, params.name, request);
    }, {
      beforeHandle: noQuery,
      detail: docs.remove,
    })
    .post("/:name/tag", ({ params, body }) => Response.json(imageView(orThrow(images.tag(params.name, body.target))), { status: 200 }), {
      body: TagImage,
      parse: requiredBody,
      beforeHandle: noQuery,
      detail: docs.addTag,
    })
    .post("/load", async ({ body, request }) => {
      live.keep(request);
      return Response.json(imageView(orThrow(await images.load(body.path, body.name))), { status: 202 });
    }, {
      body: LoadImage,
      parse: requiredBody,
      beforeHandle: noQuery,
      detail: docs.load,
    });

function pullRequest(body: CreateImage) {
  const { username, password, registry_token } = body.credentials ?? {};
  // The contract lets "omitted or empty" mean the server's own credentials.
  const given: PullCredentials = {
    ...(username ? { username } : {}),
    ...(password ? { password } : {}),
    ...(registry_token ? { registryToken: registry_token } : {}),
  };
  return {
    name: body.name,
    ...(body.platform ? { platform: body.platform } : {}),
    ...(Object.keys(given).length > 0 ? { credentials: given } : {}),
    ...(body.tags === undefined ? {} : { tags: body.tags }),
  };
}

async function deleteImage(images: ImageService, name: string, request: Request): Promise<Response> {
  const removed = forgiveRepeat<void | true>(request, await images.remove(name), () => (images.get(name).isErr() ? true : null));
  orThrow(removed);
  return new Response(null, { status: 204 });
}
