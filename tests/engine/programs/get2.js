// Ask for each path on one HTTP/2 connection; print status, length and trailers of each answer.
const http2 = require("http2");
const [origin, ...paths] = process.argv.slice(2);
const session = http2.connect(origin);
const answers = paths.map(
  (path) =>
    new Promise((resolve) => {
      const stream = session.request({ ":path": path, te: "trailers" });
      let status, size = 0, sum = "";
      stream.on("response", (headers) => (status = headers[":status"]));
      stream.on("trailers", (trailers) => (sum = trailers["x-sum"]));
      stream.on("data", (data) => (size += data.length));
      stream.on("error", (error) => resolve(error.code));
      stream.on("end", () => resolve([session.alpnProtocol, status, size, sum].join(" ").trim()));
    }),
);
Promise.all(answers).then((lines) => {
  console.log(lines.join("\n"));
  session.close();
});
