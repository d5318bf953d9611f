// Node's http and https: what every origin of these tests answers.
//
//     node node.js KEEP_ALIVE_SECONDS [CERTIFICATE KEY]
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const zlib = require("zlib");

const LARGE = Buffer.alloc(251 * 4000, Buffer.from(Array.from({ length: 251 }, (_, octet) => octet)));
const PACKED = zlib.gzipSync(LARGE);

function whole(response, status, headers, body) {
  response.writeHead(status, { ...headers, "Content-Length": body.length });
  response.end(body);
}

const answers = {
  "/hello": (_, response) => whole(response, 200, { "Content-Type": "text/plain" }, "hello, world\n"),
  "/large": (_, response) => whole(response, 200, {}, LARGE),
  "/gzip": (_, response) => whole(response, 200, { "Content-Encoding": "gzip" }, PACKED),
  "/moved": (_, response) => whole(response, 302, { Location: "/hello" }, "moved\n"),
  "/unavailable": (_, response) => whole(response, 503, { "Retry-After": "7" }, "not now\n"),
  "/empty": (_, response) => response.writeHead(204).end(),
  "/stream": (_, response) => {
    for (let start = 0; start < LARGE.length; start += 50000) response.write(LARGE.subarray(start, start + 50000));
    response.end();
  },
  "/sink": (request, response) => {
    const digest = crypto.createHash("sha256");
    let size = 0;
    request.on("data", (data) => {
      digest.update(data);
      size += data.length;
    });
    request.on("end", () => whole(response, 200, {}, `${size} ${digest.digest("hex")}`));
  },
};

function answer(request, response) {
  const found = answers[request.url.split("?")[0]];
  if (found) found(request, response);
  else whole(response, 404, {}, "not found\n");
}

const [seconds, cert, key] = process.argv.slice(2);
const server = cert
  ? require("https").createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) }, answer)
  : require("http").createServer(answer);
server.keepAliveTimeout = 1000 * seconds;
server.listen(0, "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
