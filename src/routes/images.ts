// `/images`: pull, list, inspect, tag, load and delete. Logic is the image domain's; here is only the wire.
import { Elysia } from "elysia";
import type { ImageService, PullCredentials } from "../host/images/service.ts";
import { requiredBody } from "./body.ts";
import type { ApiDeps } from "./deps.ts";
import { describe, imageParam } from "./describe.ts";
import { orThrow } from "./errors.ts";
import { CreateImage, imageExample, imageView, LoadImage, TagImage } from "./images-schema.ts";
import { describeQuery, noQuery, readQuery, tagsParam } from "./query.ts";
import { forgiveRepeat } from "./repeat.ts";

const listQuery = { tags: tagsParam };
const tag = "Images";

export const imageRoutes = ({ images, live }: ApiDeps) =>
  new Elysia({ normalize: false, prefix: "/images" })
    .post("/", async ({ body, request }) => {
      live.keep(request); // a registry may be asked first
      return Response.json(imageView(orThrow(await images.pull(pullRequest(body)))), { status: 202 });
    }, {
      body: CreateImage,
      parse: requiredBody,
      beforeHandle: noQuery,
      detail: describe({
        tag,
        operationId: "createImage",
        summary: "Pull and convert an image",
        description: "Answers at once; the pull goes on in the background, one for each digest however many ask. Poll `GET /images/{name}` until `ready` or `failed`.",
        bodyExample: { name: "docker.io/library/nginx:latest" },
        answers: { 202: { description: "Recorded; or ready already.", schema: "Image", example: { ...imageExample, status: "pulling", size_bytes: null, progress: { done_bytes: 1024, total_bytes: 70_000_000 } } } },
        errors: ["platform.invalid", "registry.unauthorized", "registry.unreachable", "registry.protocol", "host.storage"],
      }),
    })
    .get("/", ({ request }) => Response.json(images.list(readQuery(request, listQuery)).map(imageView)), {
      detail: describe({
        tag,
        operationId: "listImages",
        summary: "List images",
        description: "All images on record, whatever their status.",
        parameters: describeQuery(listQuery),
        answers: { 200: { description: "The images.", schema: "Image", list: true, example: [imageExample] } },
      }),
    })
    .get("/:name", ({ params }) => Response.json(imageView(orThrow(images.get(params.name)))), {
      beforeHandle: noQuery,
      detail: describe({
        tag,
        operationId: "getImage",
        summary: "Get an image",
        description: "By any reference that Docker would take, or by digest; with its progress while it is being pulled.",
        parameters: [imageParam],
        answers: { 200: { description: "The image.", schema: "Image", example: imageExample } },
        errors: ["image.not_found"],
      }),
    })
    .delete("/:name", async ({ params, request }) => {
      live.keep(request);
      return deleteImage(images, params.name, request);
    }, {
      beforeHandle: noQuery,
      detail: describe({
        tag,
        operationId: "deleteImage",
        summary: "Delete an image",
        description: "Refused while an instance uses it.",
        parameters: [imageParam],
        answers: { 204: { description: "Deleted." } },
        errors: ["image.not_found", "image.in_use"],
      }),
    })
    .post("/:name/tag", ({ params, body }) => Response.json(imageView(orThrow(images.tag(params.name, body.target))), { status: 200 }), {
      body: TagImage,
      parse: requiredBody,
      beforeHandle: noQuery,
      detail: describe({
        tag,
        operationId: "tagImage",
        summary: "Tag an image",
        description: "Creates or moves a local tag; nothing is pulled.",
        parameters: [imageParam],
        bodyExample: { target: "docker.io/library/nginx:stable" },
        answers: { 200: { description: "The image under its new tag.", schema: "Image", example: { ...imageExample, name: "docker.io/library/nginx:stable" } } },
        errors: ["image.not_found", "image.not_ready"],
      }),
    })
    .post("/load", async ({ body, request }) => {
      live.keep(request);
      return Response.json(imageView(orThrow(await images.load(body.path, body.name))), { status: 202 });
    }, {
      body: LoadImage,
      parse: requiredBody,
      beforeHandle: noQuery,
      detail: describe({
        tag,
        operationId: "loadImage",
        summary: "Load an image from the daemon's host",
        description: "From an OCI layout folder or a `docker save` tar. An extension of Dormouse.",
        bodyExample: { path: "/var/tmp/nginx.tar", name: "nginx:local" },
        answers: { 202: { description: "Recorded; it is converted in the background.", schema: "Image", example: { ...imageExample, status: "converting" } } },
        errors: ["image.convert_failed", "host.storage"],
      }),
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
