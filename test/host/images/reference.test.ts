import { expect, test } from "bun:test";
import { apiOrigin, formatReference, isLoopback, parseReference } from "../../../src/host/images/reference.ts";

const sha = `sha256:${"a1".repeat(32)}`;

test("parseReference() fills in what Docker implies", () => {
  const cases: Record<string, string> = {
    nginx: "docker.io/library/nginx:latest",
    "nginx:1.25": "docker.io/library/nginx:1.25",
    "me/app": "docker.io/me/app:latest",
    "docker.io/nginx": "docker.io/library/nginx:latest",
    "index.docker.io/library/nginx": "docker.io/library/nginx:latest",
    "registry-1.docker.io/me/app:v1": "docker.io/me/app:v1",
    "ghcr.io/a/b:tag": "ghcr.io/a/b:tag",
    "localhost/x": "localhost/x:latest",
    "127.0.0.1:5000/x": "127.0.0.1:5000/x:latest",
    "127.0.0.1:5000/x:5000": "127.0.0.1:5000/x:5000",
    "[::1]:5000/x": "[::1]:5000/x:latest",
    "example.com/a/b/c__d-e.f": "example.com/a/b/c__d-e.f:latest",
    [`nginx@${sha}`]: `docker.io/library/nginx@${sha}`,
    [`nginx:1.25@${sha}`]: `docker.io/library/nginx@${sha}`,
  };
  const found = Object.fromEntries(Object.keys(cases).map((text) => [text, parseReference(text).map(formatReference).unwrapOr("refused")]));
  expect(found).toEqual(cases);
});

test("parseReference() refuses what is no reference, and says why", () => {
  const cases: Record<string, string> = {
    "": "lower-case letters", "Nginx": "lower case", "a b": "lower-case", "nginx:": "tag", "nginx:a/b": "malformed",
    "a//b": "lower-case", "../etc": "malformed", "-a": "lower-case", "nginx@sha256:12": "digest", [`nginx@${sha}@${sha}`]: "digest", [`nginx:${"t".repeat(129)}`]: "tag",
    "host:99999999/x": "malformed", ["a/".repeat(200) + "b"]: "longer",
  };
  const found = Object.fromEntries(Object.keys(cases).map((text) => {
    const error = parseReference(text)._unsafeUnwrapErr();
    return [text, error.code === "request.bad" && error.message.includes(cases[text]!) ? cases[text] : error.message];
  }));
  expect(found).toEqual(cases);
});

test("loopback registries are reached by plain http, others only if they are named", () => {
  for (const host of ["localhost", "localhost:5000", "127.0.0.1", "127.1.2.3:80", "[::1]:5000"]) expect(isLoopback(host)).toBe(true);
  for (const host of ["127.0.0.1.example.com", "10.0.0.1", "localhost.example.com", "1270.0.0.1"]) expect(isLoopback(host)).toBe(false);
  expect([apiOrigin("docker.io", []), apiOrigin("127.0.0.1:5000", []), apiOrigin("10.0.0.1:5000", []), apiOrigin("10.0.0.1:5000", ["10.0.0.1:5000"])])
    .toEqual(["https://registry-1.docker.io", "http://127.0.0.1:5000", "https://10.0.0.1:5000", "http://10.0.0.1:5000"]);
});
