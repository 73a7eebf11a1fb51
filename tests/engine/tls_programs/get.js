// Get a URL with Node: get.js [-k] [--cacert FILE] [--cert FILE] URL.
const fs = require("fs");
const { values, positionals } = require("util").parseArgs({
  options: { insecure: { type: "boolean", short: "k" }, cacert: { type: "string" }, cert: { type: "string" } },
  allowPositionals: true,
});
const options = { rejectUnauthorized: !values.insecure };
if (values.cacert) options.ca = fs.readFileSync(values.cacert);
if (values.cert) options.cert = options.key = fs.readFileSync(values.cert);
const request = require("https").get(positionals[0], options, (response) => {
  response.on("data", (data) => process.stdout.write(data));
});
request.on("error", (error) => {
  console.error(error.code, error.message);
  process.exitCode = 1;
});
