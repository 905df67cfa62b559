// Lets a test call the AWS SDK for JavaScript: requests as JSON lines on standard input, answers as
// JSON lines on standard output, one for one. It calls the SDK and hands on what that gives or
// throws; a Date travels as {"$date": milliseconds}, so that the reader sees that it was one.
"use strict";

const { createRequire } = require("node:module");
const { createInterface } = require("node:readline");

const [folder, service, settings] = process.argv.slice(2);
const sdk = createRequire(`${folder}/package.json`)(service);
const [[, Client]] = Object.entries(sdk).filter(([name]) => /^[A-Z]\w+Client$/.test(name));
const client = new Client(JSON.parse(settings));

function plain(value) {
  if (value instanceof Date) return { $date: value.getTime() };
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, plain(item)]));
}

// Schemas are arrays: kind, name space, name, traits, then the members of a structure.
function describe() {
  const schemas = Object.entries(sdk).filter(([name, value]) => name.endsWith("$") && Array.isArray(value));
  const names = Object.keys(sdk).map((name) => name.match(/^(\w+)Command$/)?.[1]);
  return {
    operations: names.filter((name) => name !== undefined),
    structures: Object.fromEntries(schemas.map(([, schema]) => [schema[2], [schema[4]].flat()])),
  };
}

async function call({ operation, input, pageSize }) {
  if (pageSize === undefined) {
    const { $metadata, ...document } = await client.send(new sdk[`${operation}Command`](input));
    return { status: $metadata.httpStatusCode, requestId: $metadata.requestId, document: plain(document) };
  }
  const items = [];
  for await (const page of sdk[`paginate${operation}`]({ client, pageSize }, input)) {
    items.push(...page.items);
  }
  return { items: plain(items) };
}

async function answer(request) {
  if (request.describe) return describe();
  try {
    return await call(request);
  } catch (error) {
    const { name, message, $fault, $metadata, $response, ...members } = error;
    return {
      status: $metadata?.httpStatusCode,
      requestId: $metadata?.requestId,
      error: name,
      typed: sdk[name] !== undefined && error instanceof sdk[name],
      fault: $fault,
      message,
      members: plain(members),
    };
  }
}

(async () => {
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(await answer(JSON.parse(line)))}\n`);
  }
})();
