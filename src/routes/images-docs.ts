// The image routes in words, for the OpenAPI document.
import { DELETED, describeGroup, imageParam } from "./describe.ts";
import { imageExample } from "./images-schema.ts";
import { describeQuery, tagsQuery } from "./query.ts";

const ofAny = describeGroup("Images", [], []);
const ofImage = describeGroup("Images", [imageParam], ["image.not_found"]);

export const create = ofAny({
  operationId: "createImage",
  summary: "Pull and convert an image",
  description: "Answers at once; the pull goes on in the background, one for each digest however many ask. Poll `GET /images/{name}` until `ready` or `failed`.",
  bodyExample: { name: "docker.io/library/nginx:latest" },
  answers: { 202: { description: "Recorded; or ready already.", schema: "Image", example: { ...imageExample, status: "pulling", size_bytes: null, progress: { done_bytes: 1024, total_bytes: 70_000_000 } } } },
  errors: ["platform.invalid", "registry.unauthorized", "registry.unreachable", "registry.protocol", "host.storage"],
});

export const list = ofAny({
  operationId: "listImages",
  summary: "List images",
  description: "All images on record, whatever their status.",
  parameters: describeQuery(tagsQuery),
  answers: { 200: { description: "The images.", schema: "Image", list: true, example: [imageExample] } },
});

export const get = ofImage({
  operationId: "getImage",
  summary: "Get an image",
  description: "By any reference that Docker would take, or by digest; with its progress while it is being pulled.",
  answers: { 200: { description: "The image.", schema: "Image", example: imageExample } },
});

export const remove = ofImage({
  operationId: "deleteImage",
  summary: "Delete an image",
  description: "Refused while an instance uses it.",
  answers: DELETED,
  errors: ["image.in_use"],
});

export const addTag = ofImage({
  operationId: "tagImage",
  summary: "Tag an image",
  description: "Creates or moves a local tag; nothing is pulled.",
  bodyExample: { target: "docker.io/library/nginx:stable" },
  answers: { 200: { description: "The image under its new tag.", schema: "Image", example: { ...imageExample, name: "docker.io/library/nginx:stable" } } },
  errors: ["image.not_ready"],
});

export const load = ofAny({
  operationId: "loadImage",
  summary: "Load an image from the daemon's host",
  description: "From an OCI layout folder or a `docker save` tar. An extension of Dormouse.",
  bodyExample: { path: "/var/tmp/nginx.tar", name: "nginx:local" },
  answers: { 202: { description: "Recorded; it is converted in the background.", schema: "Image", example: { ...imageExample, status: "converting" } } },
  errors: ["image.convert_failed", "host.storage"],
});
