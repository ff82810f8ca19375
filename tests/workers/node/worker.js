// A real worker on the npm package faktory-worker, run as a child process by the tests.
// Usage: node worker.js --queues a,b --concurrency N   (the server is in FAKTORY_URL)
const { parseArgs } = require("node:util");
const { setTimeout: sleep } = require("node:timers/promises");
const faktory = require("faktory-worker");

const { values } = parseArgs({
  options: {
    queues: { type: "string", default: "default" },
    concurrency: { type: "string", default: "1" },
  },
});

faktory.register("sleep", async (seconds) => {
  await sleep(seconds * 1000);
});
faktory.register("fail", async () => {
  throw new Error("this job always fails");
});

faktory
  .work({ queues: values.queues.split(","), concurrency: Number(values.concurrency) })
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
